"""Retraining: the base is tuned once more, on the data without the person (the gold standard of arXiv 2401.06121)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.losses.objective import Term, answer
from rkld.losses.targets import to_labels
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("retrain")
@dataclass(frozen=True)
class Retrain(Method):
    """The base, fine-tuned on the answers of the retain records: they are the data that the original was tuned on,
    without the person."""

    needs: ClassVar[tuple[str, ...]] = ("retain",)
    start: ClassVar[Literal["original", "base", "negated"]] = "base"
    epochs_of: ClassVar[str] = "retain"
    accepts_extra_terms: ClassVar[bool] = False
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return [Term("retain", "retain", answer, to_labels)]
