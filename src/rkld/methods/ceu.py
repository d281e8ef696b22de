"""CE-U, cross-entropy to the model's own distribution without the answer's token (Yang 2025, arXiv 2503.01224)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

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


@METHODS.register("ceu")
@dataclass(frozen=True)
class CEU(Method):
    """``−Σ_v t(v) log π_θ(v)`` with t the student's own distribution, held fixed, without the recorded token.

    The gradient ``π_θ − t`` vanishes as the token's probability does, so it is bounded where gradient ascent is not.
    As in the authors' code (open-unlearning).

    Attributes:
        skip: tokens at the beginning of an answer that are left as they are.
    """

    skip: int = 1  # the authors'

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise UserError(f"--method-arg skip is {self.skip}; it must be 0 or more.")

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        def behind_the_first(encoded: Encoded) -> Sequence[bool]:
            before = accumulate(encoded.answer)  # answer tokens up to this one
            return [s and (n > self.skip or not a) for s, a, n in zip(scored(encoded), encoded.answer, before)]

        return [Term("forget", "forget", behind_the_first, self.loss(teacher), self.weight)]

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            labels = inputs["labels"][:, None]
            log_probs = torch.log_softmax(logits, dim=-1, out=spare[0])
            logits.scatter_(-1, labels, -torch.inf)
            target = torch.softmax(logits, dim=-1, out=spare[1])
            values = torch.mul(target, log_probs, out=logits).nan_to_num_(nan=0.0).sum(-1).neg_()  # 0 · −inf is 0
            return values, log_probs.exp_().sub_(target)

        return loss
