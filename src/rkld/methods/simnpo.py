"""SimNPO: NPO without a reference, length-normalised (Fan et al. 2024, arXiv 2410.07163)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from rkld.losses.answers import Answers
from rkld.losses.objective import AnswerTerm, Term, scored
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("simnpo")
@dataclass(frozen=True)
class SimNPO(Method):
    """``−2/β · log σ(−β/|y| · log π_θ(y|x) − γ)`` on whole answers (eq. 4).

    Defaults are those of the authors' code for forget05, beside cross-entropy on retain records (for forget10: beta
    4.5, weight .125).
    """

    beta: float = 2.5
    gamma: float = 0.0
    weight: float = 0.1375

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        def loss(forget: Answers) -> Tensor:
            mean = forget.log_likelihood / forget.tokens
            return -2 / self.beta * logsigmoid(-self.beta * mean - self.gamma)

        return [AnswerTerm("forget", "forget", scored, loss, self.weight)]
