"""Chance rank: the true answers are ranked among wrong ones of their kind as by chance. Needs no other model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.evidence import Evidence
from rkld.stopping.references import contrasted_questions
from rkld.stopping.registry import STOPPING_RULES
from rkld.stopping.rule import StoppingRule


@STOPPING_RULES.register("chance_rank")
@dataclass(frozen=True)
class ChanceRank(StoppingRule):
    """The true answer outranks half of the wrong ones: neither more nor far less."""

    aim: float = 0.5

    help: ClassVar[str] = "true answers rank among wrong ones of their kind as by chance"
    margin: ClassVar[float] = 0.05
    advice: ClassVar[str] = "Give records of others with --holdout, or 'perturbed_answer' in the forget records."

    @classmethod
    def compare(cls, material: Material) -> Comparison | None:
        m = material
        questions = contrasted_questions(m.steering.records, [*m.retain, *m.holdout], m.identifiers, m.seed)
        return Comparison(m, "wrong answers", m.encoded_steering(), questions=questions) if questions else None

    def gap(self, evidence: Evidence) -> float:
        return evidence.share_outranked - self.aim
