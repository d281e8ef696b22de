"""Task arithmetic: the strengthened weights' difference, subtracted (Ilharco et al. 2023, arXiv 2212.04089)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rkld.methods.method import WeightArithmetic
from rkld.methods.registry import METHODS


@METHODS.register("task_arithmetic")
@dataclass(frozen=True)
class TaskArithmetic(WeightArithmetic):
    """``θ_o − scale · (θ_aug − θ_o)``: forgetting by negation."""

    scale: float = 2.5  # RKLD's table, arXiv 2406.01983

    def weights(self, original: Tensor, assistant: Tensor) -> Tensor:
        return original - self.scale * (assistant - original)
