"""Forward KL to the same composite teacher: the paper's ablation (arXiv 2406.01983, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.losses.divergences import forward_kl
from rkld.losses.targets import Loss, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("forward_kl")
@dataclass(frozen=True)
class ForwardKL(Method):
    """``KL(π_t ‖ π_θ)`` with ``l_t = l_o − α · ReLU(l_aug − l_o)`` on the scored tokens."""

    cached: ClassVar[tuple[str, ...]] = ("original", "strengthened")

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(forward_kl, teacher.composite)
