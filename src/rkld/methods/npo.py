"""NPO, negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from rkld.losses.answers import Answers
from rkld.losses.objective import AnswerTerm, Term, scored
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("npo")
@dataclass(frozen=True)
class NPO(Method):
    """``−2/β · log σ(−β log π_θ(y|x)/π_o(y|x))`` on whole answers (eq. 3): DPO without the preferred answer."""

    beta: float = 0.1  # the paper's, on TOFU

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        def loss(forget: Answers) -> Tensor:
            return -2 / self.beta * logsigmoid(-self.beta * (forget.log_likelihood - forget.reference))

        return [AnswerTerm("forget", "forget", scored, loss, self.weight, cached=("reference",))]
