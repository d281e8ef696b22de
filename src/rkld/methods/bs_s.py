"""BS-S: ascent on the model's own answers beside the recorded ones (Li et al. 2025, arXiv 2510.19422, eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.errors import UserError
from rkld.losses.objective import OWN, Term, answer, scored
from rkld.methods.gradient_ascent import GradientAscent
from rkld.methods.method import OwnAnswers
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("bs_s")
@dataclass(frozen=True)
class AnswerBeliefs(GradientAscent):
    """Gradient ascent on the recorded answers (``1 − share``) and on drawn ones (``share``), and retain cross-entropy.

    The student answers each question anew at the beginning of every epoch, once. The authors draw three answers, every
    second epoch, of one batch's questions.

    Attributes:
        share: λ, of the drawn answers.
        temperature: of the draw.
    """

    share: float = 0.5  # both are the authors'
    temperature: float = 1.0

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.temperature <= 0:
            raise UserError(
                f"--method-arg share is {self.share} and temperature {self.temperature}; share must lie in [0, 1] and "
                "the temperature above 0."
            )

    @property
    def own_answers(self) -> OwnAnswers:
        return OwnAnswers(temperature=self.temperature)

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        loss = self.loss(teacher)
        return [
            Term("forget", "forget", scored, loss, self.weight * (1 - self.share)),
            Term("own", "forget" + OWN, answer, loss, self.weight * self.share),
        ]
