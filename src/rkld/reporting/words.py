"""The words of the page: what verdicts, states and kinds of test are called, and how numbers are written.

It claims nothing beyond what was measured: :data:`FORBIDDEN` are words that no report uses of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORBIDDEN = ("erased", "gone", "anonymous", "anonymised", "compliant", "unrecoverable", "as if retrained")
"""Claims that no test of a model can bear out."""

ROLES = {"original": "Original", "audited": "Unlearned", "control": "Control"}
"""Role → what it is called, in the order in which they stand."""

VERDICTS: Mapping[str | None, tuple[str, str]] = {
    "pass": ("✓", "Passed"),
    "fail": ("✕", "Failed"),
    "not established": ("?", "Not established"),
    None: ("–", "Not audited"),
}
"""Verdict → sign and word."""

STATES = {
    "held": ("✓", "kept"),
    "failed": ("✕", "missed"),
    "not established": ("?", "open"),
    "not measured": ("–", "not measured"),
}
"""State of a limit → sign and word."""

OPINION = {
    "membership inference": "Does it show that the records were trained on?",
    "attribute inference": "Can single facts be worked out, from a hint, a blank or a choice of answers?",
    "exfiltration": "Do prompts that are made for it, or many tries, draw the facts out?",
    "regurgitation": "Does the model say the records by itself, or go on with them word for word?",
    "model inversion": "Can data be worked out of the weights by optimising what goes in?",
    "reconstruction": "Can records be put together again from weights, gradients or updates?",
}
"""Attacks that EDPB Opinion 28/2024 (paragraph 55) names → the question that each asks. The last two are not made."""

WEIGHTS = {
    "relearning": "Do the facts come back where somebody trains the weights on a few of the records?",
    "quantisation": "Do they come back where the weights are rounded to 8 or 4 bits?",
}
"""What whoever holds the weights can do beside asking."""

USE = {
    "kept": "What does the model still know of what it should have kept?",
    "fluency": "Are its answers still language?",
}

OUTSIDE = (
    "logs of what was asked and answered",
    "vector stores, search indexes and prompts that hold the records",
    "what the model's users have kept",
)
"""What no test of a model sees, beside :data:`rkld.runfolder.purging.ELSEWHERE`."""

NOT_MEASURED = "not measured"

CUT = "facts in answers that were cut"
"""What a table calls facts that an answer might have said that ended before it was whole."""


def unseen(n: int, of: int | None) -> str:
    """How many values are unknown because answers were cut: unseen is not forgotten."""
    return f"{n}{'' if of is None else f' of {of}'} {'is' if n == 1 else 'are'} unknown: answers were cut"


UNCOUNTED = "some are unknown: answers were cut"
"""The same where nobody counted."""


def number(value: Any) -> float | None:
    """A number of the document, which may hold anything; None for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def is_share(unit: str) -> bool:
    """Whether a figure of this unit is written in percent."""
    return unit in ("share", "probability", "ratio")


def written(value: Any, unit: str = "share") -> str:
    """A figure for people: shares in percent, others with three digits."""
    found = number(value)
    if found is None:
        return "never reached" if unit == "optimizer steps" else "–"
    if not is_share(unit):
        return f"{found:.3g}" if abs(found) < 1000 else f"{found:.0f}"
    percent = 100 * found
    if 0 < abs(percent) < 0.5:
        return "<1 %" if percent > 0 else ">−1 %"
    if 99.5 <= percent < 100:
        return ">99 %"
    return f"{percent:.0f} %".replace("-", "−")


def points(text: str, word: str = "points") -> str:
    """A difference between shares, as it is written: 20 % more than 10 % may be 12 %, and 30 % is meant."""
    return text.replace("%", word)


def interval(figure: Mapping[str, Any], unit: str = "share") -> str:
    """The ends of a figure's interval; empty where it has none."""
    low, high = (number(figure.get(end)) for end in ("low", "high"))
    if low is None and high is None:
        return ""
    ends = [_end(low, unit, "at least"), _end(high, unit, "at most")]
    if low is None or high is None:
        return f"{'at most' if low is None else 'at least'} {ends[low is None]}"
    to = "–" if is_share(unit) and low >= 0 else " to "
    return f"{ends[0].removesuffix(' %') if is_share(unit) else ends[0]}{to}{ends[1]}"


def _end(value: float | None, unit: str, unbounded: str) -> str:
    return (
        unbounded
        if value is None
        else f"{100 * value:.0f} %".replace("-", "−")
        if is_share(unit)
        else written(value, unit)
    )
