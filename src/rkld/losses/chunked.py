"""The model's head and the loss in one step, chunk by chunk, so that (T, V) logits never exist at once.

Shapes: T scored rows, d hidden size, V vocabulary size, n rows of a chunk.

For each chunk the logits are formed, the loss gives value and gradient (:mod:`rkld.losses.divergences`), and the
gradient is at once folded into the (T, d) gradient of the hidden states and the (V, d) gradient of the head. Gradients
are thus ready when the forward pass ends; the backward pass only scales them. All chunks share a few buffers (n, V):
allocated anew, malloc would scatter them and hold twice as much.

Step by step there are three of them, in float32: the student's logits and two for the teacher's. On a GPU two are
enough, in the dtype that the model computes in (:mod:`rkld.losses.fused`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rkld.losses.fused import Buffers, fused_rows, kernels_for
from rkld.losses.products import (
    Head,
    Product,
    accurate,
    add_product,
    compute_dtype,
    head_logits,
    multiply,
    rounds,
    same_tensor,
)
from rkld.losses.targets import Inputs, Loss, Towards, normalised
from rkld.models.logit_transform import NONE, LogitTransform


@dataclass(frozen=True)
class Segment:
    """Consecutive rows under one loss.

    Attributes:
        weights: (rows,), factor of each row's value in the total.
        loss: value and gradient of a chunk of rows.
        inputs: what the loss needs beside the logits, each with the segment's rows as first dimension.
    """

    weights: Tensor
    loss: Loss
    inputs: Inputs = field(default_factory=dict)


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

    The head decides where all of this is computed: hidden states and inputs may lie on other devices.

    Returns:
        the total (scalar, differentiable in hidden, weight and bias), and the unweighted values (T,), detached.
    """
    hidden = hidden.to(weight.device)
    segments = [replace(segment, weights=segment.weights.to(weight.device)) for segment in segments]
    return _LinearDivergence.apply(hidden, weight, bias, tuple(segments), chunk_rows, transform)


CPU_ROWS, CPU_BUFFER = 128, 64 << 20
GPU_ROWS, GPU_BUFFERS = 1024, 768 << 20


def chunk_rows_for(vocabulary: int, dtype: torch.dtype, device: torch.device, *, fused: bool = False) -> int:
    """Rows whose logits exist at once.

    On a CPU :data:`CPU_ROWS`, for vocabularies from 32768 to 131072 alike: fewer read the head too often (measured with
    one thread: 96 rows take 5 % longer, 64 a fifth, 48 a third), 192 save 2 %. Larger vocabularies get fewer, so that a
    buffer stays within :data:`CPU_BUFFER`.

    On a GPU :data:`GPU_ROWS`, by arithmetic that ``benchmarks.gpu`` is to confirm. A product with n rows does n
    operations for every byte of the head that it reads (bfloat16), and n / 4 for every byte of the head's gradient
    (float32, read and written); an H100 does some 230 in the time of a byte, so that 920 rows keep it at work. Twice as
    many would take .53 GB more at 128256 tokens. Fewer where the buffers would not stay within :data:`GPU_BUFFERS`.

    Args:
        vocabulary: V.
        dtype: that products are computed in; step by step logits are held in float32 at least.
        fused: two buffers in ``dtype`` (:mod:`rkld.losses.fused`) in place of three in float32.
    """
    if device.type == "cpu":
        most, rows = CPU_ROWS, CPU_BUFFER // (vocabulary * accurate(dtype).itemsize)
    else:
        row = 2 * dtype.itemsize if fused else 3 * accurate(dtype).itemsize
        most, rows = GPU_ROWS, GPU_BUFFERS // (vocabulary * row)
    return min(max(rows // 16 * 16, 16), most)  # whole tiles of the matrix product


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        segments: tuple[Segment, ...],
        chunk_rows: int | None,
        transform: LogitTransform,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(weight)
        head = Head(weight.to(dtype), None if bias is None else bias.to(dtype), weight)
        x, sums, buffers = hidden.to(dtype), accurate(hidden.dtype), Buffers()
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.empty_like(weight, dtype=sums) if needs_weight else None
        grad_bias = None if bias is None or not needs_bias else torch.zeros_like(bias, dtype=sums)
        values = hidden.new_empty(len(hidden), dtype=sums)

        start = 0
        for segment in segments:
            kernels = kernels_for(segment.loss, head.weight)
            rows = len(segment.weights)
            step = chunk_rows or chunk_rows_for(len(weight), dtype, weight.device, fused=kernels is not None)
            for a in range(0, rows, step):
                b = min(a + step, rows)
                here = slice(start + a, start + b)
                inputs = {name: tensor[a:b].to(weight.device) for name, tensor in segment.inputs.items()}
                weights, most = segment.weights[a:b], min(step, rows)
                if kernels is None:
                    found = _rows(segment.loss, x[here], head, inputs, weights, buffers, most, transform)
                else:
                    found = fused_rows(kernels, segment.loss, x[here], head, inputs, weights, buffers, most, transform)
                values[here], gradient = found  # (n,), (n, V)
                cast = gradient.to(dtype)  # once for both products
                if grad_hidden is not None:
                    grad_hidden[here] = torch.mm(cast, head.weight)
                if grad_weight is not None:
                    exact = gradient.device.type == "cpu"
                    add_product(grad_weight, gradient if exact else cast, x[here], first=here.start == 0)
                if grad_bias is not None:
                    grad_bias.add_(gradient.sum(0, dtype=sums))
            start += rows
        if grad_weight is not None and not start:
            grad_weight.zero_()

        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        weights = torch.cat([segment.weights for segment in segments]).to(sums)
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


def _rows(
    loss: Loss,
    x: Tensor,
    head: Head,
    inputs: Inputs,
    weights: Tensor,
    buffers: Buffers,
    most: int,
    transform: LogitTransform,
) -> tuple[Tensor, Tensor]:
    """Values (n,) of a chunk's rows, and the weighted gradient (n, V) of the head's output: step by step.

    Args:
        x: the student's hidden states, (n, d).
        most: rows of the segment's longest chunk.
    """
    n, V = len(x), len(head.weight)
    room = buffers.get("rows", (3, n, V), accurate(x.dtype), x.device, 3 * most * V)
    recipe = loss.target.recipe(inputs, head) if isinstance(loss, Towards) else None
    products = [] if recipe is None else list(recipe.products)
    if products and not rounds(x, room[0]) and same_tensor(products[0].weight, head.weight):
        multiply([Product(x, head.weight, head.bias), *products], room[: 1 + len(products)])
    else:
        head_logits(x, head.weight, head.bias, out=room[0])
        multiply(products, room[1 : 1 + len(products)])
    logits = transform.apply_(room[0])
    slope = transform.slope(logits)  # of these, before the loss overwrites them
    if isinstance(loss, Towards) and recipe is not None:
        log_probs, spare = normalised(loss.target, recipe, inputs, room[1:])
        values, gradient = loss.divergence(logits, log_probs, spare)
    else:
        assert not isinstance(loss, Towards)
        values, gradient = loss(logits, inputs, room[1:])
    gradient.mul_(weights[:, None])
    if transform != NONE:
        gradient.mul_(slope)
    return values, gradient
