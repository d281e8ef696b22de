"""The model's head and the loss in one step, chunk by chunk, so that (T, V) logits never exist at once.

Shapes: T scored rows, d hidden size, V vocabulary size, n rows of a chunk.

For each chunk the logits are formed, the loss gives value and gradient (:mod:`rkld.losses.divergences`), and the
gradient is at once folded into the (T, d) gradient of the hidden states and the (V, d) gradient of the head. Gradients
are thus ready when the forward pass ends; the backward pass only scales them. All chunks share three buffers (n, V),
the student's logits and two for the teacher's: allocated anew, malloc would scatter them and hold twice as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rkld.models.logit_transform import NONE, LogitTransform

RowLoss = Callable[[Tensor, Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor]]
"""(student logits (n, V), the same rows of the segment's inputs, spare (2, n, V)) → values (n,), gradient (n, V).

The logits and the two spare buffers are the loss's to overwrite, and the gradient may lie in them."""


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
    chunk_rows: int | None = None,
    transform: LogitTransform = NONE,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over rows of a loss on ``transform(hidden @ weight.T + bias)``.

    Args:
        hidden: final hidden states of the scored rows, (T, d), the segments' rows one after another.
        weight: the head, (V, d); its gradient is formed only if it requires one.
        bias: (V,) or None.
        segments: their row counts add up to T.
        chunk_rows: rows whose logits exist at once; None: :func:`chunk_rows_for` decides.
        transform: what the model does to its head's output; the gradient passes its derivative.

    Returns:
        the total (scalar, differentiable in hidden, weight and bias), and the unweighted values (T,), detached.
    """
    chunk_rows = chunk_rows or chunk_rows_for(len(weight), hidden.dtype, hidden.device)
    return _LinearDivergence.apply(hidden, weight, bias, tuple(segments), chunk_rows, transform)


def chunk_rows_for(vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    """Rows whose logits exist at once; three or four buffers of their size do.

    On a CPU 128, for vocabularies from 32768 to 131072 alike: fewer read the head too often (measured with one thread:
    96 rows take 5 % longer, 64 a fifth, 48 a third), 192 save 2 %. Larger vocabularies get fewer, so that a buffer
    stays within 64 MiB. On other devices as many as fit into 256 MiB, so that a chunk fills the device.

    Args:
        vocabulary: V.
        dtype: of the hidden states; logits are held in float32 at least.
    """
    most, buffer_bytes = (128, 64 << 20) if device.type == "cpu" else (4096, 256 << 20)
    rows = buffer_bytes // (vocabulary * _accurate(dtype).itemsize)
    return min(max(rows // 16 * 16, 16), most)  # whole tiles of the matrix product


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What products with ``weight`` are computed in: autocast's dtype where it is on, else the weight's own.

    Autocast would cast a head again for every chunk of rows; who calls this casts it once.
    """
    kind = weight.device.type
    cast = weight.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else weight.dtype


BLOCK_BYTES = 8 << 20
"""Of a head's rows that :func:`accurate_logits` holds in float32 at once."""


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """``hidden @ weight.T + bias`` (n, V), written into ``out``, whose dtype may be the more accurate one.

    ``hidden`` and ``weight`` are of one dtype (:func:`compute_dtype`). On a CPU, products of 16-bit numbers are rounded
    to 16 bits before they are written, as the model's own forward pass does it: good for a student, whose logits
    nothing multiplies, and three times as fast as :func:`accurate_logits`.
    """
    if hidden.dtype != out.dtype and not _adds_up_in(out):
        return out.copy_(F.linear(hidden, weight, bias))
    return accurate_logits(hidden, weight, bias, out)


def accurate_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """:func:`head_logits` with products added up, and returned, in the dtype of ``out``: nothing is rounded to 16 bits.

    Where the difference of two models' logits is multiplied by α, so is their rounding: at a logit of 12, bfloat16 is
    off by up to .03, and by .5 after a multiplication by 16. GPUs add up 16-bit products in float32 anyway and can hand
    the sums out (torch ≥ 2.8). Elsewhere blocks of the head's rows are cast, of :data:`BLOCK_BYTES`, so that the head
    never exists in float32.
    """
    if hidden.dtype == weight.dtype == out.dtype:
        if bias is None:
            return torch.mm(hidden, weight.t(), out=out)
        return torch.addmm(bias, hidden, weight.t(), out=out)
    if hidden.dtype == weight.dtype and _adds_up_in(out):
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    else:
        x, (V, d) = hidden.to(out.dtype), weight.shape
        rows = max(1, min(V, BLOCK_BYTES // (d * out.element_size())))
        block = torch.empty((rows, d), dtype=out.dtype, device=out.device)
        for start in range(0, V, rows):
            part = block[: min(rows, V - start)]
            part.copy_(weight[start : start + rows])
            torch.mm(x, part.t(), out=out[:, start : start + rows])
    return out if bias is None else out.add_(bias)


def _adds_up_in(out: Tensor) -> bool:
    """Whether the device multiplies 16-bit matrices into ``out`` without rounding to 16 bits."""
    return out.device.type == "cuda" and out.dtype == torch.float32 and "dtype_out" in torch.ops.aten.mm.overloads()


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """``total += gradient.T @ hidden``, (V, d).

    A GPU takes the product of a chunk in the dtype of the hidden states, as backpropagation would: in float32 it was
    half the time of the whole loss on an H100. The chunks' products are added up in float32 everywhere.
    """
    if total.device.type == "cpu" or hidden.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden.to(total.dtype))
    else:
        total.add_(torch.mm(gradient.to(hidden.dtype).t(), hidden))


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """What sums are held in: float32 at least, and float64 when the model is float64 (tests)."""
    return torch.promote_types(dtype, torch.float32)


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        segments: tuple[Segment, ...],
        chunk_rows: int,
        transform: LogitTransform,
    ) -> tuple[Tensor, Tensor]:
        accurate = _accurate(hidden.dtype)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=accurate) if needs_weight else None
        grad_bias = None if bias is None or not needs_bias else torch.zeros_like(bias, dtype=accurate)
        values = hidden.new_empty(len(hidden), dtype=accurate)
        dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        dtype = compute_dtype(weight)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        buffers = hidden.new_empty((3, min(chunk_rows, len(hidden)), len(weight)), dtype=accurate)

        start = 0
        for segment in segments:
            rows = len(segment.weights)
            for a in range(0, rows, chunk_rows):
                b = min(a + chunk_rows, rows)
                here = slice(start + a, start + b)
                x = hidden[here]  # (n, d)
                here_buffers = buffers[:, : b - a]
                logits = transform.apply_(head_logits(x, weight, bias, out=here_buffers[0]))  # (n, V)
                slope = transform.slope(logits)  # of these, before the loss overwrites them
                inputs = {name: tensor[a:b] for name, tensor in segment.inputs.items()}
                values[here], gradient = segment.loss(logits, inputs, here_buffers[1:])  # (n,), (n, V)
                gradient.mul_(segment.weights[a:b, None])
                if transform != NONE:
                    gradient.mul_(slope)
                if grad_hidden is not None:
                    grad_hidden[here] = torch.mm(gradient.to(dtype), weight)
                if grad_weight is not None:
                    _add_product(grad_weight, gradient, x)
                if grad_bias is not None:
                    grad_bias.add_(gradient.sum(0))
            start += rows

        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = dtypes
        weights = torch.cat([segment.weights for segment in segments]).to(accurate)
        ctx.mark_non_differentiable(values)
        return torch.dot(weights, values), values

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_values: Tensor) -> tuple[Tensor | None, ...]:
        # The saved gradients must outlive a retain_graph, so they are never scaled in place. They are handed on as
        # they are where nothing is to be scaled, which is known on the CPU; elsewhere to ask would halt the device.
        unscaled = grad_total.device.type == "cpu" and grad_total.item() == 1

        def scaled(grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
            if grad is None or (unscaled and grad.dtype == dtype):
                return grad
            return torch.mul(grad, grad_total, out=torch.empty_like(grad, dtype=dtype))

        return (*map(scaled, ctx.saved_tensors, ctx.dtypes), None, None, None)
