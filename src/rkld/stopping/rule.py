"""What a stopping rule is, and what it decides: pure functions of the recorded evidence."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.evidence import Evidence

Control = Callable[[], tuple[LanguageModel, Encoder]]
"""Loads the control, a model that has never seen the records, with its own encoder."""


@dataclass(frozen=True)
class StoppingRule(ABC):
    """A rule that has its aim; a subclass is a rule, and its file is all that there is of it.

    A rule defines :meth:`gap`, and mostly :meth:`read_aim`. The run ends at the first check whose gap is not above
    :attr:`margin`.
    """

    aim: float = 0.0
    """What :meth:`gap` is the distance to, as :meth:`read_aim` found it. It stands in the run's manifest."""

    help: ClassVar[str]
    """What it means to stop by it: half a line in the command line's help."""
    margin: ClassVar[float] = 0.0
    """In units of the gap."""
    required: ClassVar[tuple[str, ...]] = ()
    """Settings that must be given with it, such as "control"; without them a run is refused before it begins."""
    advice: ClassVar[str] = ""
    """What can be done where :meth:`compare` finds nothing to compare with."""
    steers: ClassVar[bool] = True
    """False: nothing is read during the training, and its last step is taken."""
    benchmarks_only: ClassVar[bool] = False
    """True: it needs what a real erasure does not have, so ``--stop`` does not take it."""

    @classmethod
    def compare(cls, material: Material) -> Comparison | None:
        """What the checks read; None where there is nothing to compare with. By default the steering records alone."""
        return Comparison(material, "forget records", material.encoded_steering())

    @classmethod
    def read_aim(cls, comparison: Comparison, original: LanguageModel, control: Control | None) -> float:
        """The aim, read before the distillation; by default the class's own, where it depends on no model.

        Args:
            original: the model before any change.
            control: None where no control was given.
        """
        return cls.aim

    @classmethod
    def aimed(cls, comparison: Comparison, original: LanguageModel, control: Control | None) -> Self:
        """The rule with its aim; for a rule that keeps more than that. Arguments as of :meth:`read_aim`."""
        return cls(cls.read_aim(comparison, original, control))

    def state(self) -> dict[str, Any]:
        """What the aimed rule is made again from (:meth:`of_state`), also after a journey through JSON."""
        return asdict(self)

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """The rule that :meth:`state` described."""
        return cls(**state)

    @abstractmethod
    def gap(self, evidence: Evidence) -> float:
        """Distance to the aim: positive where the records are still known too well, negative below it."""

    def refusal(self, comparison: Comparison, original: Evidence) -> str | None:
        """Why the rule cannot steer, if it cannot: what ``original``, the model before any change, shows of the aim."""
        if decide(self, [original]).stop:
            return "by it the original has forgotten the records already"
        return None


@dataclass(frozen=True)
class Decision:
    """What a rule makes of the checks so far."""

    stop: bool
    step: int
    """Of the check nearest to the aim, the earliest of several."""
    gap: float
    """There."""
    margin: float


def decide(rule: StoppingRule, evidence: Sequence[Evidence]) -> Decision:
    """The rule's decision after these checks, in their order. ValueError without any, or where a gap is no number."""
    gaps = [rule.gap(one) for one in evidence]
    if not gaps or any(map(math.isnan, gaps)):
        raise ValueError(f"a rule needs checks whose gaps are numbers, found {gaps}")
    best = min(range(len(gaps)), key=lambda i: abs(gaps[i]))
    return Decision(gaps[-1] <= rule.margin, evidence[best].step, gaps[best], rule.margin)


def simulate(rule: StoppingRule, evidence: Sequence[Evidence]) -> Decision:
    """The decision that a run with these checks would have ended with."""
    found = (decide(rule, evidence[:n]) for n in range(1, len(evidence) + 1))
    return next((decision for decision in found if decision.stop), None) or decide(rule, evidence)
