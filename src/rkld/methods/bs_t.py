"""BS-T: ascent on what the model believes beside the recorded token (Li et al. 2025, arXiv 2510.19422, eq. 6–7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rkld.errors import UserError
from rkld.losses.objective import Term, scored
from rkld.losses.targets import RowLoss
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("bs_t")
@dataclass(frozen=True)
class TokenBeliefs(Method):
    """``Σ_v t(v) log π_θ(v)`` with ``t = share · π_top + (1 − share) · onehot(y)``, with retain cross-entropy.

    π_top are the student's likeliest tokens by their probability, held fixed: what ascent takes from the recorded token
    would go to these, its paraphrases. As in the authors' code: a mean over each answer, then over answers.

    Attributes:
        share: λ, of the beliefs.
        top: how many tokens they are.
    """

    share: float = 0.2  # both are the authors'
    top: int = 20

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.top < 1:
            raise UserError(
                f"--method-arg share is {self.share} and top {self.top}; share must lie in [0, 1] and top be 1 or more."
            )

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return [Term("forget", "forget", scored, self.loss(teacher), self.weight, unit="record")]

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            labels = inputs["labels"][:, None]
            highest, index = logits.topk(min(self.top, logits.shape[-1]), dim=-1)
            target = spare[0].zero_().scatter_(-1, index, self.share * highest.softmax(-1))
            target.scatter_add_(-1, labels, target.new_full(labels.shape, 1 - self.share))
            log_probs = torch.log_softmax(logits, dim=-1, out=spare[1])
            values = torch.mul(target, log_probs, out=logits).nan_to_num_(nan=0.0).sum(-1)  # 0 · −inf is 0
            return values, target.sub_(log_probs.exp_())

        return loss
