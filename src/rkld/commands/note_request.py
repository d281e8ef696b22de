"""``rkld unlearn --ledger``: a request is noted, and its questions are sealed for ``rkld ledger recheck``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rkld.errors import UserError, machine_errors_explained
from rkld.evaluation.readings import facts_in, gold_answer
from rkld.models.loading import read_template, resolve
from rkld.pipeline.running import Result
from rkld.records.identity import each_once, identifiers
from rkld.records.probes import facts_of
from rkld.records.reading import read_records, read_subjects
from rkld.records.record import Record, by_answer
from rkld.reporting.keys import read_ledger_key, read_sealing_key
from rkld.reporting.ledger import ERASED, append, check_appendable, pseudonyms, run_mark
from rkld.reporting.sealing import seal
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.manifest import read_manifest
from rkld.settings.unlearning import Settings
from rkld.text.facts import facts_said

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

QUESTIONS_FORMAT = 2
"""Of what is sealed."""

ASKING = {"system_prompt": str, "chat_template": str, "template_date": str, "max_length": int, "max_new_tokens": int}
"""Settings that decide what is asked and how much of an answer is seen, and their types: sealed with the questions.

A template is sealed as its text, whatever it was given by: a file is not there years later, or elsewhere.
"""

SAID = ("probability", "facts_said", "facts_unseen", "worst_kind_facts_said", "worst_kind_facts_unseen")
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
            UserError: a key that is none; a ledger that nothing can be appended to; a template that cannot be read.
        """
        if settings.ledger is None or settings.ledger_key is None:
            return None
        key, path = read_ledger_key(settings.ledger_key), Path(settings.ledger)
        seal_to = None if settings.seal_to is None else read_sealing_key(settings.seal_to)
        check_appendable(path, key)
        given = settings.forget if objects.get("forget") is None else objects["forget"]
        records, _ = each_once(read_records(given, "forget"))
        if settings.chat_template is not None:  # before the run, in whose hours a file may change
            settings = replace(settings, chat_template=read_template(settings.chat_template))
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
            "base_weights": base_weights(result.model_path),
            "after": {name: result.metrics["after"]["forget"].get(name) for name in SAID},
            "sealed": None,
        }
        questions = None if self.seal_to is None else seal(self._questions(result, manifest), self.seal_to)
        return append(self.path, self.key, entry, unless="run", questions=questions)

    def _questions(self, result: Result, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """All that an audit of the request needs, and which facts were still said, or not seen, when it was done."""
        named = replace(self.records[0], aliases=tuple(dict.fromkeys((*self.records[0].aliases, *self.identifiers))))
        records = [replace(record, key=str(n)) for n, record in enumerate([named, *self.records[1:]])]
        answers = [answer["after"] for answer in result.answers]
        still = said(by_answer(records), answers, self.identifiers)
        return {
            "format": QUESTIONS_FORMAT,
            "forget": [record.row() for record in records],
            "asking": {name: getattr(self.settings, name) for name in ASKING},
            "template": manifest["records"].get("template"),
            "said": still,
            "unseen": self._unseen(result, manifest, records, set(still)),
            "worst_kind_facts_said": result.metrics["after"]["forget"].get("worst_kind_facts_said"),
        }

    def _unseen(
        self, result: Result, manifest: Mapping[str, Any], records: Sequence[Record], still: set[str]
    ) -> list[str] | int:
        """Which facts answers that were cut might have said; how many, of a run that noted no more than that."""
        cut = manifest["phases"].get("after", {}).get("cut")
        if not isinstance(cut, list):
            return int(result.metrics["after"]["forget"].get("facts_unseen") or 0)
        asked = list(zip(by_answer(records), facts_by_record(by_answer(records), self.identifiers), strict=True))
        keys = (f"{asked[i][0].key}/{n}" for i in cut if i < len(asked) for n in range(len(asked[i][1])))
        return [key for key in keys if key not in still]


def base_weights(model: Path) -> str | None:
    """The hash of the weights that an adapter is put on; None of another model, or where they are no files here."""
    try:
        base = json.loads((model / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        folder = Path(resolve(base))
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    return weights_hash(folder) if folder.is_dir() else None


def facts_by_record(records: Sequence[Record], known: Sequence[str]) -> list[list[str]]:
    """The facts of each record that are looked for in its answer."""
    return [facts_in(facts_of(record, known), gold_answer(record, None)) for record in records]


def said(records: Sequence[Record], answers: Sequence[str], known: Sequence[str]) -> list[str]:
    """Which facts answers say, by the keys that an audit's ``facts_said`` has: the record's, a slash and a number."""
    found = []
    facts_of_each = facts_by_record(records, known)
    for record, facts, answer in zip(records, facts_of_each, answers, strict=False):  # none of a purged run
        found += [f"{record.key}/{n}" for n, flag in enumerate(facts_said(facts, answer)) if flag]
    return found
