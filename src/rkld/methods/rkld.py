"""RKLD: reverse KL to the composite teacher (Wang et al. 2024, arXiv 2406.01983; NAACL 2025 as RKLU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.losses.divergences import reverse_kl
from rkld.losses.targets import Loss, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("rkld")
@dataclass(frozen=True)
class ReverseKL(Method):
    """``KL(π_θ ‖ π_t)`` with ``l_t = l_o − α · ReLU(l_aug − l_o)`` on the scored tokens (eq. 4–6)."""

    cached: ClassVar[tuple[str, ...]] = ("original", "strengthened")

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(reverse_kl, teacher.composite)
