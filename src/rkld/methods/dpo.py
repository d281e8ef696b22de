"""DPO, refusals preferred to forget answers (Rafailov et al. 2023, arXiv 2305.18290; TOFU, arXiv 2401.06121)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from rkld.losses.answers import Answers
from rkld.losses.objective import REFUSALS, AnswerTerm, Term, scored
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("dpo")
@dataclass(frozen=True)
class DPO(Method):
    """``−2/β · log σ(β (log π_θ(y_idk)/π_o(y_idk) − log π_θ(y)/π_o(y)))`` on whole answers (DPO's eq. 7).

    The factor 2/β, as in NPO, keeps the size of the loss apart from β.
    """

    beta: float = 0.1  # both papers

    refusals: ClassVar[tuple[str, ...]] = ("forget",)

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return [preference("forget" + REFUSALS, self.beta, self.weight)]


def preference(preferred: str, beta: float, weight: float) -> AnswerTerm:
    """The loss of :class:`DPO`.

    Args:
        preferred: the set of the answers that are preferred to those of "forget".
    """

    def loss(forget: Answers, better: Answers) -> Tensor:
        gain = better.log_likelihood - better.reference - (forget.log_likelihood - forget.reference)
        return -2 / beta * logsigmoid(beta * gain)

    return AnswerTerm("forget", "forget", scored, loss, weight, cached=("reference",), pair=preferred)
