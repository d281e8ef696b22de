"""Jensen–Shannon divergence to the same composite teacher: an ablation between the two directions of KL."""

from __future__ import annotations

from ..divergence import jensen_shannon


class JensenShannon:
    """``½ KL(π_t ‖ m) + ½ KL(π_θ ‖ m)`` with ``l_t = l_o − α · ReLU(l_aug − l_o)`` on the scored tokens."""

    cached = ("original", "strengthened")

    def loss(self, teacher):
        return lambda logits, inputs, spare: jensen_shannon(logits, teacher.composite(inputs, spare), spare[1])


METHOD = JensenShannon()
