"""SatImp: gradient ascent on tokens neither saturated nor unimportant (Yang et al. 2025, arXiv 2505.11953, ICML)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rkld.losses.divergences import weighted_ascent
from rkld.losses.targets import RowLoss
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("satimp")
@dataclass(frozen=True)
class SatImp(Method):
    """``p^β₁ (1 − p)^β₂ · log π_θ(y)``, p the token's probability, held fixed, beside cross-entropy on retain records.

    β₁ turns away from what is improbable already, β₂ from what anybody would say. As in the authors' code
    (open-unlearning), whose notes put ten times the weight on forgetting, and whose configuration a tenth: here ten.
    """

    saturation: float = 5.0  # β₁, and the two below, are the authors'
    importance: float = 1.0  # β₂
    weight: float = 10.0

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def loss(self, teacher: Teacher) -> RowLoss:
        def weigh(p: Tensor) -> Tensor:
            return p**self.saturation * (1 - p) ** self.importance

        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            return weighted_ascent(logits, inputs["labels"], weigh, spare[0])

        return loss
