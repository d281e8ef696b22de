"""Control: the records are known no better than to a model that has never seen them.

The control must have been trained like the original on everything else: a base model may lack the domain's style, so
that its level is too low and the run stops late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.evaluation.likelihood import probability
from rkld.models.language_model import LanguageModel
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.evidence import Evidence
from rkld.stopping.registry import STOPPING_RULES
from rkld.stopping.rule import Control as LoadControl
from rkld.stopping.rule import StoppingRule


@STOPPING_RULES.register("control")
@dataclass(frozen=True)
class Control(StoppingRule):
    """The mean probability of the answers comes down to the control's."""

    help: ClassVar[str] = "known no better than to a model that never saw the records (--control)"
    margin: ClassVar[float] = 0.02
    required: ClassVar[tuple[str, ...]] = ("control",)

    @classmethod
    def compare(cls, material: Material) -> Comparison | None:
        return Comparison(material, "control", material.encoded_steering())

    @classmethod
    def read_aim(cls, comparison: Comparison, original: LanguageModel, control: LoadControl | None) -> float:
        assert control is not None  # it is in ``required``
        lm, encoder = control()
        return float(probability(lm, comparison.material.encoded_steering(encoder), mask="scored").mean())

    def gap(self, evidence: Evidence) -> float:
        return evidence.probability - self.aim
