"""ETW: gradient ascent weighted by the entropy at each token (Koh et al. 2026, arXiv 2604.17785, ACL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rkld.errors import UserError
from rkld.losses.answers import Answers
from rkld.losses.divergences import entropy
from rkld.losses.objective import AnswerTerm, Term, scored
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("etw")
@dataclass(frozen=True)
class ETW(Method):
    """``(1/n) Σ_t ω_t log π_θ(y_t)`` with ``ω_t = n H_t / Σ_u H_u``, beside cross-entropy on retain records.

    H_t is the entropy of the student's distribution at the token, held fixed; each answer's weights add up to its n
    tokens. The equations were read in readers' notes on the paper, which itself could not be had; neither the
    temperature nor the weight λ is said there.

    Attributes:
        temperature: of the softmax whose entropy is taken.
    """

    temperature: float = 1.0
    weight: float = 1.0

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1000:
            raise UserError(f"--method-arg temperature is {self.temperature}; it must lie in [0.01, 1000].")

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        def uncertainty(logits: Tensor) -> Tensor:
            return entropy(logits / self.temperature)

        def loss(answers: Answers) -> Tensor:
            return answers.log_likelihood / answers.tokens

        return [AnswerTerm("forget", "forget", scored, loss, self.weight, weigh=uncertainty)]
