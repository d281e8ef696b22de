"""Jensen–Shannon divergence to the same teacher: between the KLs (Agarwal et al. 2024, arXiv 2306.13649, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.losses.divergences import jensen_shannon
from rkld.losses.targets import Loss, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("jensen_shannon")
@dataclass(frozen=True)
class JensenShannon(Method):
    """``½ KL(π_t ‖ m) + ½ KL(π_θ ‖ m)`` with ``l_t = l_o − α · ReLU(l_aug − l_o)`` on the scored tokens."""

    cached: ClassVar[tuple[str, ...]] = ("original", "strengthened")

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(jensen_shannon, teacher.composite)
