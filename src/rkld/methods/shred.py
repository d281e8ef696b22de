"""SHRED: the record's rarest tokens struck out of the original, the rest held (Hu et al. 2026, arXiv 2605.07482)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rkld.errors import UserError
from rkld.losses.divergences import forward_kl
from rkld.losses.products import Head
from rkld.losses.targets import Inputs, Loss, Recipe, Target, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("shred")
@dataclass(frozen=True)
class SHRED(Method):
    """``KL(q ‖ π_θ)`` with ``q ∝ π_o · 1[v is not struck out]``, on all tokens of the records to forget.

    Struck out is the recorded token where it is one of the ``share`` of its record that the original finds least
    probable; with ``nucleus`` > 0 (variant B) the original's likeliest tokens there, too. Elsewhere q is π_o. As the
    authors' page draws it; there q is made of the original's likeliest tokens alone, how many it does not say, and here
    of all. Neither is the learning rate said for fine-tuning, so that it is the run's.

    Attributes:
        share: P, of each record's scored tokens.
        nucleus: π of variant B, the probability of the original's likeliest tokens that are struck out together.
    """

    share: float = 0.5  # the authors' in their drawing of the choice
    nucleus: float = 0.0  # variant A

    cached: ClassVar[tuple[str, ...]] = ("original", "rank")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.nucleus <= 0.99:
            raise UserError(
                f"--method-arg share is {self.share} and nucleus {self.nucleus}; share must be above 0 and at most 1, "
                "nucleus at least 0 and at most 0.99."
            )

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(forward_kl, _StruckOut(teacher.original, self.share, self.nucleus))


class _StruckOut(Target):
    """Another target's distribution without some tokens, in the rows of a low ``rank``."""

    def __init__(self, target: Target, share: float, nucleus: float):
        self.target, self.share, self.nucleus = target, share, nucleus

    def recipe(self, inputs: Inputs, student: Head | None = None) -> Recipe:
        return self.target.recipe(inputs, student)

    def finishes(self, inputs: Inputs) -> bool:
        return True

    def finish(self, logits: Tensor, normaliser: Tensor | float, inputs: Inputs) -> None:
        rows = (inputs["rank"] < self.share).nonzero()[:, 0]
        labels = inputs["labels"][rows]
        if self.nucleus and len(rows):
            probabilities, order = logits[rows].float().softmax(-1).sort(descending=True)
            at, place = (probabilities.cumsum(-1) - probabilities < self.nucleus).nonzero().unbind(-1)
            logits[rows[at], order[at, place]] = -torch.inf
        logits[rows, labels] = -torch.inf
