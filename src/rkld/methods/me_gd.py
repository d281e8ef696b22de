"""ME+GD: maximise entropy on the forget set, fine-tune on the retain set (Yuan et al. 2024, arXiv 2410.08109)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.losses.divergences import to_uniform
from rkld.losses.targets import RowLoss
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("me_gd")
@dataclass(frozen=True)
class MaximumEntropy(Method):
    """``KL(U ‖ π_θ)`` on the forget records, U uniform over the vocabulary, plus cross-entropy on retain records.

    In the direction of the authors' code, which their figures come from. Their code also scores the question:
    ``--score all``.
    """

    weight: float = 0.1  # the authors'

    needs: ClassVar[tuple[str, ...]] = ("retain",)
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def loss(self, teacher: Teacher) -> RowLoss:
        return lambda logits, inputs, spare: to_uniform(logits, spare[0])
