"""The model's head and the loss in one step, chunk by chunk, so that (T, V) logits never exist at once.

Shapes: T scored rows, d hidden size, V vocabulary size, n rows of a chunk.

For each chunk the logits are formed, the loss gives value and gradient (:mod:`rkld.divergence`), and the gradient
is at once folded into the (T, d) gradient of the hidden states and the (V, d) gradient of the head. Gradients are
thus ready when the forward pass ends; the backward pass only scales them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_ROWS = 128
"""Rows whose logits exist at once: 128 × 49152 × 4 B = 25 MB for SmolLM2. Measured best on CPU (benchmarks)."""

RowLoss = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""(student logits (n, V), the same rows of the segment's inputs) → values (n,), gradient (n, V)."""


@dataclass(frozen=True)
class Segment:
    """Consecutive rows under one loss.

    Attributes:
        weights: (rows,), factor of each row's value in the total.
        loss: value and gradient of a chunk of rows.
        inputs: what the loss needs beside the logits, each with the segment's rows as first dimension.
    """

    weights: Tensor
    loss: RowLoss
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


def linear_divergence(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Sequence[Segment],
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over rows of a loss on ``hidden @ weight.T + bias``.

    Args:
        hidden: final hidden states of the scored rows, (T, d), the segments' rows one after another.
        weight: the head, (V, d); its gradient is formed only if it requires one.
        bias: (V,) or None.
        segments: their row counts add up to T.
        chunk_rows: rows whose logits exist at once.

    Returns:
        the total (scalar, differentiable in hidden, weight and bias), and the unweighted values (T,), detached.
    """
    return _LinearDivergence.apply(hidden, weight, bias, tuple(segments), chunk_rows)


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, segments, chunk_rows):
        # Accumulate in at least float32, and in float64 when the model is float64 (tests).
        accurate = torch.promote_types(hidden.dtype, torch.float32)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=accurate) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=accurate) if needs_bias else None
        values = hidden.new_empty(len(hidden), dtype=accurate)

        start = 0
        for segment in segments:
            rows = len(segment.weights)
            for a in range(0, rows, chunk_rows):
                b = min(a + chunk_rows, rows)
                here = slice(start + a, start + b)
                x = hidden[here]  # (n, d)
                logits = F.linear(x, weight, bias).to(accurate)  # (n, V)
                inputs = {name: tensor[a:b] for name, tensor in segment.inputs.items()}
                values[here], gradient = segment.loss(logits, inputs)  # (n,), (n, V)
                del logits
                gradient.mul_(segment.weights[a:b, None])
                if needs_hidden:
                    grad_hidden[here] = torch.mm(gradient.to(weight.dtype), weight)
                if needs_weight:
                    grad_weight.addmm_(gradient.t(), x.to(accurate))
                if needs_bias:
                    grad_bias.add_(gradient.sum(0))
                del gradient
            start += rows

        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        weights = torch.cat([segment.weights for segment in segments]).to(accurate)
        ctx.mark_non_differentiable(values)
        return torch.dot(weights, values), values

    @staticmethod
    def backward(ctx, grad_total, _grad_values):
        grads = [
            None if grad is None else (grad * grad_total).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes)
        ]
        return (*grads, None, None)
