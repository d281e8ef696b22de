"""Who's Harry Potter: the logit-difference teacher, used itself (Eldan and Russinovich 2023, arXiv 2310.02238)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rkld.losses.divergences import composite_logits
from rkld.methods.method import LogitArithmetic
from rkld.methods.registry import METHODS


@METHODS.register("whp")
@dataclass(frozen=True)
class LogitDifference(LogitArithmetic):
    """``l_o − α · ReLU(l_aug − l_o)`` (eq. 1), with the run's α: RKLD's teacher before it is distilled."""

    @property
    def reads_alpha(self) -> bool:
        return True

    def logits(self, original: Tensor, assistant: Tensor, alpha: float) -> Tensor:
        return composite_logits(original, assistant, alpha)
