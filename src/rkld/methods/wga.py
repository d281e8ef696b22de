"""WGA: gradient ascent weighted by each token's probability (Wang et al. 2025, arXiv 2502.19301, ICLR)."""

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


@METHODS.register("wga")
@dataclass(frozen=True)
class WGA(Method):
    """``p^β · log π_θ(y)`` with p the token's probability, held fixed, beside cross-entropy on retain records.

    What is improbable already is not pushed further. As in the authors' code (open-unlearning).
    """

    beta: float = 1.0  # the authors'

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            return weighted_ascent(logits, inputs["labels"], lambda p: p**self.beta, spare[0])

        return loss
