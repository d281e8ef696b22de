"""``rkld ledger recheck``: does the newest model know again what was erased before?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rkld.auditing.evidence import model_path
from rkld.auditing.running import audit
from rkld.commands.note_request import QUESTIONS_FORMAT
from rkld.errors import UserError
from rkld.progress import NoProgress
from rkld.reporting.ledger import ERASED, RECHECKED, append, find_sealed, read_ledger
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
        facts: how many facts the model was asked for, by the questions of the records.
        said: how many of them its own greedy answers say; came_back: how many that were not said after the erasure.
        unmeasured: how many of them an answer might have said that was cut; unseen_then: the same after the erasure.
        high: upper end of the 95 % interval of their share.
        otherwise: the largest share that is said in another kind of wording, and kind, which; None where none was read.
        otherwise_then: the same after the erasure, in the two kinds that a run asks in.
        model: its hashes, as the audit knows them.
        path: of the audit, which holds no text.
    """

    entry: Mapping[str, Any]
    reason: str = ""
    facts: int = 0
    said: int = 0
    came_back: int = 0
    unmeasured: int = 0
    unseen_then: int = 0
    high: float | None = None
    otherwise: float | None = None
    kind: str = ""
    otherwise_then: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def more_otherwise(self) -> bool:
        """Whether more is said in some other kind of wording than was then, as far as was asked then."""
        return (self.otherwise or 0.0) > (self.otherwise_then or 0.0)

    @property
    def clean(self) -> bool:
        """Whether all was looked at, and nothing came back."""
        return not (self.reason or self.came_back or self.unmeasured or self.more_otherwise)

    def line(self) -> str:
        """For people."""
        what = [str(self.entry["number"]), self.entry["time"][:10], str(self.entry.get("request") or "-")]
        return printable("  ".join([*what, f"not rechecked: {self.reason}" if self.reason else self._found()]))

    def _found(self) -> str:
        share = f"{self.said} of {self.facts} facts said now"
        share += "" if self.high is None else f" (95 %: at most {self.high:.2f})"
        if self.unmeasured:
            share += f", {self.unmeasured} of them not measured, as answers were cut"
        other = "" if self.otherwise is None else f"; asked otherwise ({self.kind}) {self.otherwise:.2f}"
        if self.came_back:
            unseen = f" (or not seen: answers were cut before {self.unseen_then})" if self.unseen_then else ""
            return f"CAME BACK: {self.came_back} facts that were not said then{unseen}; {share}{other}"
        if self.more_otherwise:
            then = "not asked" if self.otherwise_then is None else f"{self.otherwise_then:.2f} in two kinds"
            return f"SAID in other words: {share}{other} (then: {then})"
        return f"{'nothing known to have come back' if self.unmeasured else 'nothing came back'}: {share}{other}"


def recheck(
    model: str,
    ledger: Path,
    opening: X25519PrivateKey | None,
    *,
    key: bytes | None = None,
    attacks: Sequence[str] = ("standard",),
    out: Path = Path("runs/recheck"),
    progress: NoProgress | None = None,
) -> Iterator[Rechecked]:
    """Audit every erasure of a ledger on a model, one after another; the audits hold no text.

    Args:
        opening: the private half of the key that the questions were sealed to; without it none is rechecked.
        key: the ledger's; with it the ledger is checked, and what was found is appended to it.
        attacks: as of ``rkld audit``.
        out: folder of the audits.

    Raises:
        UserError: the ledger cannot be read or does not hold.
    """
    found = read_ledger(ledger, key)
    if found.broken:
        raise UserError(f"{ledger}: does not hold together: {found.broken}. See rkld ledger verify.")
    if found.torn:
        raise UserError(f"{ledger}: its last line is not whole ({found.torn} bytes). See rkld ledger verify.")
    for entry in found.of(ERASED):
        one = _recheck(model, ledger, opening, entry, attacks, out, progress)
        if key is not None and not one.reason:
            figures: dict[str, Any] = {"facts": one.facts, "said": one.said, "came_back": one.came_back}
            figures |= {"unmeasured": one.unmeasured, "otherwise": one.otherwise}
            append(ledger, key, {"event": RECHECKED, "of": entry["number"], **one.model, **figures})
        yield one


def _recheck(
    model: str,
    ledger: Path,
    opening: X25519PrivateKey | None,
    entry: Mapping[str, Any],
    attacks: Sequence[str],
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
        made = audit(
            model,
            questions["forget"],
            attacks=tuple(attacks),
            system_prompt=questions["system_prompt"],
            chat_template=questions["chat_template"],
            out=str(out / f"{_name(model)}-{entry['number']}"),
            redact=True,
            progress=progress,
        )
    except UserError as error:
        return Rechecked(entry, str(error))
    metrics = made.document["metrics"]
    if "facts_said" not in metrics:
        return Rechecked(entry, "its records hold no fact to look for", path=made.path)
    flags = metrics["facts_said"].get("records", {}).get("audited", {})
    figure = metrics["facts_said"]["figures"]["audited"]
    now = {name for name, flag in flags.items() if flag}
    kind, otherwise = _otherwise(metrics)
    return Rechecked(
        entry,
        facts=figure["n"],
        said=len(now),
        came_back=came_back(now, set(questions["said"]), _texts(questions["forget"])),
        unmeasured=figure["unmeasured"],
        unseen_then=questions["unseen"],
        high=figure["high"],
        otherwise=otherwise,
        kind=kind,
        otherwise_then=questions["worst_kind_facts_said"],
        model={name: made.document["models"]["audited"].get(name) for name in ("weights", "fingerprint")},
        path=made.path,
    )


def _otherwise(metrics: Mapping[str, Any]) -> tuple[str, float | None]:
    """The other kind of wording in which the largest share of the facts is said, as far as was measured, and that."""
    shares = {
        name.removesuffix("_facts_said"): metric["figures"]["audited"]["value"]
        for name, metric in metrics.items()
        if name.endswith("_facts_said") and not name.startswith("worst_") and "audited" in metric["figures"]
    }
    kind = max(shares, key=lambda name: shares[name], default="")
    return kind, shares.get(kind)


def _name(model: str) -> str:
    """Of a model, with the beginning of its weights' hash, so that the next one of its name is another."""
    folder = Path(model_path(model))
    of = f"-{weights_hash(folder)[:8]}" if folder.is_dir() else ""
    return f"{(run_of(model) or folder).name or 'model'}{of}"


def _questions(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What :mod:`rkld.commands.note_request` sealed. Whoever has the public half of the key may have sealed another."""
    texts = [found.get(name) for name in ("system_prompt", "chat_template")]
    said, worst = found.get("said"), found.get("worst_kind_facts_said")
    if (
        found.get("format") != QUESTIONS_FORMAT
        or not isinstance(found.get("forget"), list)
        or not isinstance(said, list)
        or not all(isinstance(one, str) for one in said)
        or not all(text is None or isinstance(text, str) for text in texts)
        or not (worst is None or isinstance(worst, int | float))
        or type(found.get("unseen")) is not int
    ):
        raise UserError("what is sealed are no questions of this version of rkld")
    return found


def _texts(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys of the records that are running text."""
    return {str(n) for n, row in enumerate(rows) if "text" in row}


def came_back(now: set[str], then: set[str], texts: set[str]) -> int:
    """How many facts are said now that were not said then.

    Args:
        now, then: keys of facts, as of :func:`rkld.commands.note_request.said`.
        texts: keys of records whose facts have no numbers that hold: where a text is cut depends on the tokenizer.
    """
    new = [key for key in now - then if key.rpartition("/")[0] not in texts]
    of_texts = [Counter(key.rpartition("/")[0] for key in some) for some in (now, then)]
    return len(new) + sum(max(0, n - of_texts[1][key]) for key, n in of_texts[0].items() if key in texts)
