"""What a model does to its head's output before that becomes logits: a scale, a soft cap.

``l = s · x``, or ``l = c · tanh(s · x / c)``, for ``x = head(backbone(ids))``. Everything that is said of logits here,
l_o, l_aug and l_θ alike, is said of ``l``: losses, teacher, likelihoods and membership use the one transform that the
model itself uses when it answers. Whether it is the right one is tested when a model is loaded
(:func:`rkld.models.checks.check_outputs`).

Shapes: n rows, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class LogitTransform:
    """A scale and a soft cap, in this order.

    Attributes:
        scale: factor of the head's output, no unit.
        cap: the bound c that the logits approach, in logits; None where there is none.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, output: Tensor) -> Tensor:
        """Logits of a head's output, differentiable; the output itself where nothing is done to it."""
        scaled = output if self.scale == 1 else output * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def apply_(self, output: Tensor) -> Tensor:
        """The same in the output's own memory; no gradient passes."""
        if self.scale != 1:
            output.mul_(self.scale)
        return output if self.cap is None else output.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """``dl/dx``: a new (n, V) tensor, ``s · (1 − (l/c)²)``, for logits (n, V); the scale alone without a cap."""
        if self.cap is None:
            return self.scale
        return (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


NONE = LogitTransform()
"""The logits are the head's output, as in most models."""

_SCALES: dict[str, Callable[[float], float]] = {
    "logit_scale": float,  # Cohere
    "lm_head_multiplier": float,  # Falcon-H1
    "logits_scaling": lambda divisor: 1 / divisor,  # Granite, MiniCPM3
}
"""Entry of a config → the factor that it stands for."""

_MULTIPLIED = ("hyperclovax",)
"""Model types whose ``logits_scaling`` is a factor."""

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Entries of a config for soft caps: Gemma 2 and later, RecurrentGemma, xLSTM."""


def transform_of(model: PreTrainedModel) -> LogitTransform:
    """What the config of a model says is done to its head's output; a head of our own has done it already."""
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        return NONE
    config = model.config.get_text_config()
    scale = 1.0
    for name, factor in _SCALES.items():
        value = getattr(config, name, None)
        if isinstance(value, (int, float)) and value:
            scale *= float(value) if config.model_type in _MULTIPLIED else factor(value)
    caps = (getattr(config, name, None) for name in _CAPS)
    cap = next((float(cap) for cap in caps if isinstance(cap, (int, float)) and cap > 0), None)
    return LogitTransform(scale, cap)
