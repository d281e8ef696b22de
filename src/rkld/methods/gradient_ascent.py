"""GA, gradient ascent on the forget answers (Jang et al. 2023, arXiv 2210.01504; TOFU, arXiv 2401.06121, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rkld.losses.divergences import cross_entropy
from rkld.losses.targets import RowLoss
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("gradient_ascent")
@dataclass(frozen=True)
class GradientAscent(Method):
    """``log π_θ(y | x)``: cross-entropy with its sign turned. Unbounded: it ends in ruin where nothing holds it."""

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            values, gradient = cross_entropy(logits, inputs["labels"], spare[0])
            return values.neg_(), gradient.neg_()

        return loss
