"""``rkld ledger recheck``: does the newest model know again what was erased before?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rkld.auditing.evidence import model_path
from rkld.auditing.running import audit
from rkld.commands.note_request import ASKING, QUESTIONS_FORMAT, facts_by_record
from rkld.errors import UserError
from rkld.progress import NoProgress
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.records.record import by_answer
from rkld.reporting.ledger import ERASED, RECHECKED, append, check_appendable, find_sealed, read_ledger
from rkld.reporting.rechecked import Finding, share
from rkld.reporting.sealing import unseal
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.manifest import run_of
from rkld.text.printable import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


@dataclass(frozen=True)
class Rechecked:
    """What became of one erasure.

    Attributes:
        entry: of the ledger.
        reason: why nothing was looked at; "" where it was.
        finding: what was found then.
        model: its hashes, as the audit knows them.
        path: of the audit, which holds no text.
    """

    entry: Mapping[str, Any]
    reason: str = ""
    finding: Finding = field(default_factory=Finding)
    model: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def clean(self) -> bool:
        """Whether all was looked at, and nothing came back."""
        return not self.reason and self.finding.clean

    def line(self) -> str:
        """For people."""
        what = [str(self.entry["number"]), self.entry["time"][:10], str(self.entry.get("request") or "-")]
        found = f"not rechecked: {self.reason}" if self.reason else self.finding.words()
        return printable("  ".join([*what, found]))


def recheck(
    model: str,
    ledger: Path,
    opening: X25519PrivateKey | None,
    *,
    key: bytes | None = None,
    attacks: Sequence[str] = ("standard",),
    max_new_tokens: int | None = None,
    out: Path = Path("runs/recheck"),
    progress: NoProgress | None = None,
) -> Iterator[Rechecked]:
    """Audit every erasure of a ledger on a model, one after another; the audits hold no text.

    Each is asked as its run asked. What was found is yielded first and appended then.

    Args:
        opening: the private half of the key that the questions were sealed to; without it none is rechecked.
        key: the ledger's; with it the ledger is checked, and what was found is appended to it.
        attacks: as of ``rkld audit``.
        max_new_tokens: the longest answer, in place of the run's.
        out: folder of the audits.

    Raises:
        UserError: the ledger cannot be read or does not hold; with its key, nothing can be appended to it.
    """
    found = read_ledger(ledger, key)
    if found.broken:
        raise UserError(f"{ledger}: does not hold together: {found.broken}. See rkld ledger verify.")
    if found.torn:
        raise UserError(f"{ledger}: its last line is not whole ({found.torn} bytes). See rkld ledger verify.")
    if key is not None:
        check_appendable(ledger, key)  # before the minutes of an audit
    failed: list[str] = []
    for entry in found.of(ERASED):
        one = _recheck(model, ledger, opening, entry, attacks, max_new_tokens, out, progress)
        yield one
        if key is not None and not one.reason:
            line = {"event": RECHECKED, "of": entry["number"], **one.model, **one.finding.stored()}
            try:
                append(ledger, key, line)
            except UserError as error:  # the others are rechecked all the same
                failed.append(f"what was found of line {entry['number']} is not in the ledger: {error}")
    if failed:
        raise UserError("\n".join(failed))


def _recheck(
    model: str,
    ledger: Path,
    opening: X25519PrivateKey | None,
    entry: Mapping[str, Any],
    attacks: Sequence[str],
    max_new_tokens: int | None,
    out: Path,
    progress: NoProgress | None,
) -> Rechecked:
    if entry.get("sealed") is None:
        return Rechecked(entry, "its questions were not sealed (--seal-to)")
    try:
        if (content := find_sealed(ledger, entry["sealed"])) is None:
            return Rechecked(entry, "its sealed questions have been deleted")
        if opening is None:
            return Rechecked(entry, "its questions are sealed, and no key was given (--unseal)")
        questions = _questions(unseal(content, opening))
        asking = dict(questions["asking"])
        if max_new_tokens is not None:
            asking["max_new_tokens"] = max_new_tokens
        made = audit(
            model,
            questions["forget"],
            attacks=tuple(attacks),
            **asking,
            out=str(out / f"{_name(model)}-{entry['number']}"),
            redact=True,
            progress=progress,
        )
        facts = _facts(questions["forget"])
    except UserError as error:
        return Rechecked(entry, str(error))
    if not facts:
        return Rechecked(entry, "its records hold no fact to look for", path=made.path)
    audited = made.document["models"]["audited"]
    return Rechecked(
        entry,
        finding=_finding(made.document, questions, facts, asking.get("max_new_tokens"), _wrote(entry, audited)),
        model={name: audited.get(name) for name in ("weights", "base_weights", "fingerprint")},
        path=made.path,
    )


def _facts(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many facts records hold."""
    records = read_records(rows, "forget")
    return sum(map(len, facts_by_record(by_answer(records), identifiers(records, ()))))


def _wrote(entry: Mapping[str, Any], audited: Mapping[str, Any]) -> bool:
    """Whether a model's weights are those that the run of an entry wrote; of an adapter also those beneath it."""
    same = bool(audited.get("weights")) and audited["weights"] == entry.get("weights")
    return same and ("base" not in audited or _same(audited.get("base_weights"), entry.get("base_weights")))


def _same(one: object, other: object) -> bool:
    """Whether two hashes are there and equal."""
    return one is not None and one == other


def _finding(
    document: Mapping[str, Any], questions: Mapping[str, Any], facts: int, longest: int | None, same_weights: bool
) -> Finding:
    """What an audit found, beside what was found after the erasure.

    Args:
        facts: how many there are.
        longest: the answer that was asked for, in tokens, where that was bounded.
    """
    metrics = document["metrics"]
    metric = metrics.get("facts_said", {"figures": {}})  # none where every answer was cut
    figure = metric["figures"].get("audited", {"n": facts, "unmeasured": facts, "high": 1.0})
    now = {name for name, flag in metric.get("records", {}).get("audited", {}).items() if flag}
    otherwise = _otherwise(metrics)
    kind = max(otherwise, key=lambda name: otherwise[name]["value"], default=None)
    found = compared(
        now,
        set(questions["said"]),
        questions["unseen"],
        _texts(questions["forget"]),
        as_long=longest is not None and longest == questions["asking"].get("max_new_tokens"),
        same=same_weights and _same(document["models"]["audited"].get("template"), questions.get("template")),
    )
    return Finding(
        facts=figure["n"],
        said=len(now),
        came_back=found.came_back,
        in_texts=found.in_texts,
        not_seen_then=found.not_seen_then,
        unmeasured=figure["unmeasured"],
        high=figure["high"],
        otherwise=None if kind is None else otherwise[kind]["value"],
        kind=kind,
        otherwise_then=questions.get("worst_kind_facts_said"),
        cut_otherwise=_cut_otherwise(document["not_run"], otherwise),
        same_weights=same_weights,
    )


def _otherwise(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Other kinds of wording → the figure of the facts that are said in them, as far as it was measured."""
    return {
        name.removesuffix("_facts_said"): metric["figures"]["audited"]
        for name, metric in metrics.items()
        if name.endswith("_facts_said") and not name.startswith("worst_") and "audited" in metric["figures"]
    }


def _cut_otherwise(not_run: Sequence[Mapping[str, str]], otherwise: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Kinds of wording in which answers were cut before they had said every fact; also those with no figure at all."""
    noted = (entry["name"].removeprefix("audited: ") for entry in not_run if entry["name"].startswith("audited: "))
    cut = {name for name in noted if name != "answers" and otherwise.get(name, {"unmeasured": 1})["unmeasured"]}
    return sorted(cut | {name for name, figure in otherwise.items() if figure["unmeasured"]})


def _name(model: str) -> str:
    """Of a model, with the beginning of its weights' hash, so that the next one of its name is another."""
    folder = Path(model_path(model))
    of = f"-{weights_hash(folder)[:8]}" if folder.is_dir() else ""
    return f"{(run_of(model) or folder).name or 'model'}{of}"


def _questions(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What :mod:`rkld.commands.note_request` sealed. Whoever has the public half of the key may have sealed another.

    The first version noted neither how long answers could be nor which facts were not seen, only how many.
    """
    form = found.get("format")
    if form == 1:
        asking = {name: found.get(name) for name in ("system_prompt", "chat_template")}
        found = {**found, "asking": asking, "template": None}
    said, worst, unseen = found.get("said"), found.get("worst_kind_facts_said"), found.get("unseen")
    if (
        form not in (1, QUESTIONS_FORMAT)
        or not isinstance(found.get("forget"), list)
        or not _are_keys(said)
        or not (_are_keys(unseen) or (type(unseen) is int and unseen >= 0))
        or not _is_asking(found.get("asking"))
        or not (worst is None or share(worst) is not None)
        or not (found.get("template") is None or isinstance(found["template"], str))
    ):
        raise UserError("what is sealed are no questions of this version of rkld")
    return found


def _are_keys(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def _is_asking(found: object) -> bool:
    """Whether they are settings of :data:`rkld.commands.note_request.ASKING`, and no others, each of its type."""
    return isinstance(found, dict) and all(
        name in ASKING and (type(value) is ASKING[name] or (value is None and name != "template_date"))
        for name, value in found.items()
    )


def _texts(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys of the records that are running text."""
    return {str(n) for n, row in enumerate(rows) if "text" in row}


class Compared(NamedTuple):
    """As of :class:`rkld.reporting.rechecked.Finding`."""

    came_back: int
    in_texts: int
    not_seen_then: int


def compared(
    now: set[str], then: set[str], unseen: Sequence[str] | int, texts: set[str], *, as_long: bool, same: bool
) -> Compared:
    """How many facts are said now that were not said then, apart from those of which nobody can know.

    Args:
        now, then: keys of facts, as of :func:`rkld.commands.note_request.said`.
        unseen: of those that could not be seen then, or how many that were.
        texts: keys of records whose facts have no numbers that hold: where a text is cut depends on the tokenizer. No
            end shows that all of it was seen.
        as_long: whether answers may be as long as then, and no longer.
        same: whether the same model was asked in the same way: what it says now it would have said.
    """
    new = [key for key in now - then if key.rpartition("/")[0] not in texts]
    hidden = min(len(new), unseen) if isinstance(unseen, int) else len(set(new) & set(unseen))
    of_texts = [Counter(key.rpartition("/")[0] for key in some) for some in (now, then)]
    in_texts = sum(max(0, n - of_texts[1][key]) for key, n in of_texts[0].items() if key in texts)
    if same:
        return Compared(0, 0, len(new) + in_texts)
    return Compared(len(new) - hidden + in_texts, 0 if as_long else in_texts, hidden)
