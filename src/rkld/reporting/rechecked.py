"""What a recheck of the ledger found of one erasure: as it is stored, and in the one wording that is shown of it.

Whoever prints a finding when it is made and whoever lists it years later say the same, from what the line holds. What
was not measured, or not stored, is said, and never taken for what was found to be well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

COUNTS = {
    "facts": "how many facts there are",
    "said": "how many are said",
    "came_back": "how many came back",
    "not_seen_then": "how many of them could not be seen then",
    "unmeasured": "how many were not measured",
    "cut_otherwise": "what was not measured in other words",
}
"""What a finding must hold to be a clean one → what is not known without it."""


@dataclass(frozen=True)
class Finding:
    """Of one erasure on one model. None is what an earlier version did not store; so is what is of no such kind.

    Attributes:
        facts: how many the model was asked for, by the questions of the records; said: how many of them its own greedy
            answers say; unmeasured: how many of them an answer might have said that was cut.
        came_back: how many that were not said after the erasure; in_texts: how many of these in texts that may have
            been continued less far then.
        not_seen_then: how many more that nobody could see then, as the answers were cut or shorter.
        high: upper end of the 95 % interval of their share.
        otherwise: the largest share that is said in another kind of wording, and kind, which; None where none was read.
        otherwise_then: the same after the erasure, in the two kinds that a run asks in.
        cut_otherwise: kinds of wording in which answers were cut, so that facts were not measured.
        same_weights: whether the weights are those that the run wrote.
    """

    facts: int | None = None
    said: int | None = None
    came_back: int | None = None
    not_seen_then: int | None = None
    unmeasured: int | None = None
    in_texts: int | None = None
    high: float | None = None
    otherwise: float | None = None
    kind: str | None = None
    otherwise_then: float | None = None
    cut_otherwise: Sequence[str] | None = None
    same_weights: bool | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], erased: Mapping[str, Any]) -> Finding:
        """What a line holds, whoever wrote it.

        Args:
            erased: the line of the erasure, which holds what was said in other words then, too.
        """
        found = {one.name: _plain(one.name, entry.get(one.name)) for one in fields(cls)}
        if "otherwise_then" not in entry:
            after = erased.get("after")
            worst = after.get("worst_kind_facts_said") if isinstance(after, Mapping) else None
            found["otherwise_then"] = _plain("otherwise_then", worst)
        return cls(**found)

    def stored(self) -> dict[str, Any]:
        """What a line holds of it."""
        return asdict(self)

    @property
    def more_otherwise(self) -> bool:
        """Whether more is said in some other kind of wording than was then, as far as was asked then."""
        return (self.otherwise or 0.0) > (self.otherwise_then or 0.0)

    @property
    def clean(self) -> bool:
        """Whether all was looked at and measured, and nothing came back."""
        return not any(self._alarms())

    def words(self) -> str:
        """For people."""
        alarms = list(self._alarms())
        said = f"{_number(self.said)} of {_number(self.facts)} facts said now"
        said += "" if self.high is None else f" (95 %: at most {self.high:.2f})"
        rest = [*alarms, said] if alarms else [f"nothing came back: {said}"]
        if self.otherwise is None:
            rest.append("nothing measured in other words")
        elif not self.more_otherwise:
            rest.append(f"asked otherwise{self._kind} {self.otherwise:.2f}")
        if self.same_weights:
            rest.append("these are the weights that the run wrote")
        return "; ".join(rest)

    def _alarms(self) -> Iterator[str]:
        if self.came_back:
            less = f" ({self.in_texts} of them in texts, which may have been continued less far)" * bool(self.in_texts)
            yield f"CAME BACK: {self.came_back} facts that were not said then{less}"
        if self.not_seen_then:
            yield f"SAID, not seen then: {self.not_seen_then} facts, as answers were cut or shorter then"
        if self.more_otherwise:
            then = "not asked" if self.otherwise_then is None else f"{self.otherwise_then:.2f} in two kinds"
            yield f"SAID in other words: {self.otherwise:.2f}{self._kind} (then: {then})"
        if self.unmeasured:
            yield f"NOT MEASURED: {self.unmeasured} of {_number(self.facts)} facts, as answers were cut"
        if self.cut_otherwise:
            yield f"NOT MEASURED in full in other words ({', '.join(self.cut_otherwise)}), as answers were cut"
        if missing := [what for name, what in COUNTS.items() if getattr(self, name) is None]:
            yield f"NOT STORED: {', '.join(missing)}"

    @property
    def _kind(self) -> str:
        return f" ({self.kind})" if self.kind else ""


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _plain(name: str, value: object) -> Any:
    """A value of a line, which anybody may have written, where it is of the kind that a finding has; else None."""
    if name in ("high", "otherwise", "otherwise_then"):
        return share(value)
    if name == "kind":
        return value if isinstance(value, str) else None
    if name == "cut_otherwise":
        return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None
    if name == "same_weights":
        return value if isinstance(value, bool) else None
    return count(value)


def count(value: object) -> int | None:
    """A number of things; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None


def share(value: object) -> float | None:
    """A share of the facts; None where it is none."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
    return float(value) if known else None  # type: ignore[arg-type]
