"""IDK+AP: refusals to forget questions, answers to all others preserved (Yuan et al. 2024, arXiv 2410.08109)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from rkld.losses.answers import Answers
from rkld.losses.objective import REFUSALS, AnswerTerm, Term, answer
from rkld.methods.idk import Refusal
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("idk_ap")
@dataclass(frozen=True)
class AnswerPreservation(Refusal):
    """IDK, plus ``−1/β · log σ(β log π_θ(y|x)/π_θ(y_idk|x))`` on retain records: an answer outweighs its refusal."""

    beta: float = 0.1  # the authors'

    needs: ClassVar[tuple[str, ...]] = ("retain",)
    refusals: ClassVar[tuple[str, ...]] = ("forget", "retain")
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        def loss(retain: Answers, refusal: Answers) -> Tensor:
            return -1 / self.beta * logsigmoid(self.beta * (retain.log_likelihood - refusal.log_likelihood))

        preserved = AnswerTerm("preserve", "retain", answer, loss, pair="retain" + REFUSALS)
        return [*super().terms(teacher, sets, lm), preserved]
