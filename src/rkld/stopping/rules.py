"""Rules: pure functions of the recorded evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rkld.evaluation.tofu import forget_quality
from rkld.stopping.evidence import Evidence


@dataclass(frozen=True)
class Rule:
    """Says of one check how far the student is from the aim; a subclass is a rule.

    The run ends at the first check whose gap is not above the ``margin``.
    """

    margin: ClassVar[float] = 0.0

    def gap(self, evidence: Evidence) -> float:
        """Distance to the aim: positive where the records are still known too well, negative below it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Level(Rule):
    """``placebo`` and ``control``: the mean probability of the answers comes down to ``aim``."""

    aim: float
    margin: ClassVar[float] = 0.02

    def gap(self, evidence: Evidence) -> float:
        return evidence.probability - self.aim


@dataclass(frozen=True)
class Exposure(Rule):
    """The true answers are ranked among the wrong ones as by chance: neither above nor far below."""

    margin: ClassVar[float] = 0.05

    def gap(self, evidence: Evidence) -> float:
        return evidence.beaten - 0.5


@dataclass(frozen=True)
class Last(Rule):
    """The last of ``steps``."""

    steps: int

    def gap(self, evidence: Evidence) -> float:
        return self.steps - evidence.step


@dataclass(frozen=True)
class Oracle(Rule):
    """The best forget quality of the whole run; ``retrained`` holds the retrained model's truth ratios."""

    retrained: tuple[float, ...]
    margin: ClassVar[float] = -math.inf

    def gap(self, evidence: Evidence) -> float:
        return forget_quality(evidence.truth_ratios, self.retrained).statistic


@dataclass(frozen=True)
class Decision:
    """What a rule makes of the checks so far."""

    stop: bool
    step: int
    """Of the check nearest to the aim, the earliest of several."""
    gap: float
    """There."""
    margin: float


def decide(rule: Rule, evidence: Sequence[Evidence]) -> Decision:
    """The rule's decision after these checks, in their order. ValueError without any, or where a gap is no number."""
    gaps = [rule.gap(one) for one in evidence]
    if not gaps or any(map(math.isnan, gaps)):
        raise ValueError(f"a rule needs checks whose gaps are numbers, found {gaps}")
    best = min(range(len(gaps)), key=lambda i: abs(gaps[i]))
    return Decision(gaps[-1] <= rule.margin, evidence[best].step, gaps[best], rule.margin)


def replayed(rule: Rule, evidence: Sequence[Evidence]) -> Decision:
    """The decision that a run with these checks would have ended with."""
    found = (decide(rule, evidence[:n]) for n in range(1, len(evidence) + 1))
    return next((decision for decision in found if decision.stop), None) or decide(rule, evidence)
