"""``rkld unlearn --ledger``: a request is noted, and its questions are sealed for ``rkld ledger recheck``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rkld.errors import machine_errors_explained
from rkld.evaluation.readings import facts_in, gold_answer
from rkld.pipeline.running import Result
from rkld.records.identity import each_once, identifiers
from rkld.records.probes import facts_of
from rkld.records.reading import read_records, read_subjects
from rkld.records.record import Record, by_answer
from rkld.reporting.keys import read_ledger_key, read_sealing_key
from rkld.reporting.ledger import ERASED, append, check_appendable, pseudonyms, run_mark
from rkld.reporting.sealing import seal
from rkld.runfolder.manifest import read_manifest
from rkld.settings.unlearning import Settings
from rkld.text.facts import facts_said

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

QUESTIONS_FORMAT = 1
"""Of what is sealed."""

SAID = ("probability", "facts_said", "worst_kind_facts_said")
"""Figures of the forget records after the run that a line holds."""


@dataclass(frozen=True)
class Noting:
    """What will be noted of a run once it is finished; keys and ledger have been looked at."""

    settings: Settings
    path: Path
    key: bytes
    seal_to: X25519PublicKey | None
    records: Sequence[Record]
    identifiers: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings, objects: Mapping[str, Any]) -> Noting | None:
        """None where no ledger is asked for.

        Args:
            objects: records that were given as objects (:func:`rkld.pipeline.preparing.choose`).

        Raises:
            UserError: a key that is none; a ledger that nothing can be appended to.
        """
        if settings.ledger is None or settings.ledger_key is None:
            return None
        key, path = read_ledger_key(settings.ledger_key), Path(settings.ledger)
        seal_to = None if settings.seal_to is None else read_sealing_key(settings.seal_to)
        check_appendable(path, key)
        given = settings.forget if objects.get("forget") is None else objects["forget"]
        records, _ = each_once(read_records(given, "forget"))
        return cls(settings, path, key, seal_to, records, identifiers(records, read_subjects(settings.subject)))

    @machine_errors_explained()
    def note(self, result: Result) -> int | None:
        """Append the request, unless it is there already; its number.

        A purged run has lost what it would be known by: it was noted before, or not at all.
        """
        manifest = read_manifest(result.run) or {}
        if "salt" not in manifest:
            return None
        entry = {
            "event": ERASED,
            "run": run_mark(manifest["salt"], self.key),
            "request": str((manifest.get("request") or {}).get("id", ""))[:200],
            "subjects": pseudonyms(self.identifiers, self.key),
            "records": len(self.records),
            "method": self.settings.method,
            "model": manifest["records"].get("model"),
            "weights": manifest["phases"].get("model", {}).get("weights"),
            "after": {name: result.metrics["after"]["forget"].get(name) for name in SAID},
            "sealed": None,
        }
        questions = None if self.seal_to is None else seal(self._questions(result), self.seal_to)
        return append(self.path, self.key, entry, unless="run", questions=questions)

    def _questions(self, result: Result, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """All that an audit of the request needs, and which facts were still said, or not seen, when it was done."""
        named = replace(self.records[0], aliases=tuple(dict.fromkeys((*self.records[0].aliases, *self.identifiers))))
        records = [replace(record, key=str(n)) for n, record in enumerate([named, *self.records[1:]])]
        answers = [answer["after"] for answer in result.answers]
        return {
            "format": QUESTIONS_FORMAT,
            "forget": [record.row() for record in records],
            "system_prompt": self.settings.system_prompt,
            "chat_template": self.settings.chat_template,
            "said": said(by_answer(records), answers, self.identifiers),
            "unseen": result.metrics["after"]["forget"].get("facts_unseen") or 0,
            "worst_kind_facts_said": result.metrics["after"]["forget"].get("worst_kind_facts_said"),
        }


def said(records: Sequence[Record], answers: Sequence[str], known: Sequence[str]) -> list[str]:
    """Which facts answers say, by the keys that an audit's ``facts_said`` has: the record's, a slash and a number."""
    found = []
    for record, answer in zip(records, answers, strict=False):  # there are none of a purged run
        facts = facts_in(facts_of(record, known), gold_answer(record, None))
        found += [f"{record.key}/{n}" for n, flag in enumerate(facts_said(facts, answer)) if flag]
    return found
