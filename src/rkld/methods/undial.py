"""UNDIAL: self-distillation with the gold token's logit lowered (Dong et al. 2024, arXiv 2402.10052; NAACL 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rkld.losses.divergences import forward_kl
from rkld.losses.products import Head
from rkld.losses.targets import Inputs, Loss, Recipe, Target, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("undial")
@dataclass(frozen=True)
class UNDIAL(Method):
    """``KL(softmax(l_o − β · onehot(y)) ‖ π_θ)``: the paper's cross-entropy to this target, less its entropy."""

    beta: float = 10.0  # of 3, 10 and 30, which the authors advise

    cached: ClassVar[tuple[str, ...]] = ("original",)

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(forward_kl, _Lowered(teacher.original, self.beta))


class _Lowered(Target):
    """Another target's logits, the recorded token's lowered by β."""

    def __init__(self, target: Target, beta: float):
        self.target, self.beta = target, beta

    def recipe(self, inputs: Inputs, student: Head | None = None) -> Recipe:
        return self.target.recipe(inputs, student)

    def finishes(self, inputs: Inputs) -> bool:
        return True

    def finish(self, logits: Tensor, normaliser: Tensor | float, inputs: Inputs) -> None:
        labels = inputs["labels"][:, None]
        logits.scatter_add_(-1, labels, logits.new_full(labels.shape, -self.beta))
