"""IDK+AP: refusals to forget questions, answers to all others preserved (Yuan et al. 2024, arXiv 2410.08109)."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from rkld.losses.objective import REFUSALS, AnswerTerm, answer
from rkld.methods.idk import Refusal
from rkld.methods.registry import METHODS


@METHODS.register("idk_ap")
@dataclass(frozen=True)
class AnswerPreservation(Refusal):
    """IDK, plus ``−1/β · log σ(β log π_θ(y|x)/π_θ(y_idk|x))`` on retain records: an answer outweighs its refusal."""

    beta: float = 0.1  # the authors'

    needs = ("retain",)
    refusals = ("forget", "retain")
    retain_loss = "none"

    def terms(self, teacher, sets, lm):
        def loss(retain, refusal):
            return -1 / self.beta * logsigmoid(self.beta * (retain.log_likelihood - refusal.log_likelihood))

        preserved = AnswerTerm("preserve", "retain", answer, loss, pair="retain" + REFUSALS)
        return [*super().terms(teacher, sets, lm), preserved]
