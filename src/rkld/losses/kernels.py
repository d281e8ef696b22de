"""Triton kernels of the loss: teacher, divergence and gradient of rows of logits, without a tensor in between.

Shapes: n rows, V vocabulary size, b of it.

One program a row. Sums over the vocabulary are taken block by block in float32, rescaled whenever a larger logit comes
(online softmax, Milakov and Gimelshein 2018, arXiv 1805.02867), in a first pass that needs no second reading for the
value of a KL: ``KL(p ‖ q) = Σ p (s − t) − log Z_s + log Z_t``. The gradient is written in the last pass. The reference
is :mod:`rkld.losses.divergences` and :class:`rkld.losses.targets.Composition`, which the tests compare, through
Triton's interpreter where there is no GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rkld.losses.targets import Composition
from rkld.models.logit_transform import LogitTransform

BLOCK = 4096
"""Entries of a row that a program holds at once."""

LOWEST = tl.constexpr(-1e30)
"""In place of −∞, of which differences are not numbers."""

LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _transformed(x, scale, cap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    x = x * scale
    if CAPPED:
        x = cap * (2 * tl.sigmoid(2 * x / cap) - 1)  # c · tanh(x / c)
    return x


@triton.jit
def _read(pointer, columns, inside, scale, cap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits of a block, in float32."""
    x = tl.load(pointer + columns, mask=inside, other=0.0).to(tl.float32)
    return tl.maximum(_transformed(x, scale, cap, CAPPED), LOWEST)


@triton.jit
def _compose_kernel(  # type: ignore[no-untyped-def]
    first, second, out, n_columns, row_stride, out_stride, scale, cap, alpha,
    SECOND: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n_columns
    x = tl.load(first + row * row_stride + columns, mask=inside, other=0.0).to(tl.float32)
    made = _transformed(x, scale, cap, CAPPED)
    if SECOND != 0:
        y = tl.load(second + row * row_stride + columns, mask=inside, other=0.0).to(tl.float32)
        if CAPPED:
            if SECOND == 1:
                y = y + x
            rise = _transformed(y, scale, cap, CAPPED) - made
        else:
            if SECOND == 2:
                y = y - x
            rise = y * scale
        made = made - alpha * tl.maximum(rise, 0.0)
    tl.store(out + row * out_stride + columns, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _normaliser_kernel(logits, out, V, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    top = LOWEST
    total = 0.0
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        t = _read(logits, columns, inside, 1.0, 1.0, False)
        higher = tl.maximum(top, tl.max(tl.where(inside, t, LOWEST), 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.where(inside, tl.exp(t - higher), 0.0), 0)
        top = higher
    tl.store(out + row, top + tl.log(total))


@triton.jit
def _divergence_kernel(  # type: ignore[no-untyped-def]
    student, teacher, weights, values, V, student_stride, teacher_stride, scale, cap,
    KIND: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """KIND: 0 reverse KL, 1 forward KL, 2 Jensen–Shannon."""
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    top_s = LOWEST
    top_t = LOWEST
    total_s = 0.0
    total_t = 0.0
    expected = 0.0  # Σ exp(s − top_s) (s − t), or the same under the teacher
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        s = _read(student, columns, inside, scale, cap, CAPPED)
        t = _read(teacher, columns, inside, 1.0, 1.0, False)
        higher_s = tl.maximum(top_s, tl.max(tl.where(inside, s, LOWEST), 0))
        higher_t = tl.maximum(top_t, tl.max(tl.where(inside, t, LOWEST), 0))
        e_s = tl.where(inside, tl.exp(s - higher_s), 0.0)
        e_t = tl.where(inside, tl.exp(t - higher_t), 0.0)
        factor_s = tl.exp(top_s - higher_s)
        factor_t = tl.exp(top_t - higher_t)
        if KIND == 0:
            expected = expected * factor_s + tl.sum(e_s * (s - t), 0)
        if KIND == 1:
            expected = expected * factor_t + tl.sum(e_t * (t - s), 0)
        total_s = total_s * factor_s + tl.sum(e_s, 0)
        total_t = total_t * factor_t + tl.sum(e_t, 0)
        top_s = higher_s
        top_t = higher_t
    log_s = top_s + tl.log(total_s)
    log_t = top_t + tl.log(total_t)
    value = 0.0
    own = 0.0  # what the gradient has subtracted from each entry's gap
    if KIND == 0:
        value = expected / total_s - log_s + log_t
        own = value
    if KIND == 1:
        value = expected / total_t - log_t + log_s
    if KIND == 2:
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < V
            log_p = _read(student, columns, inside, scale, cap, CAPPED) - log_s
            log_q = _read(teacher, columns, inside, 1.0, 1.0, False) - log_t
            log_mean = tl.maximum(log_p, log_q) + tl.log(1 + tl.exp(-tl.abs(log_p - log_q))) - LOG_2
            own += tl.sum(tl.where(inside, tl.exp(log_p) * (log_p - log_mean), 0.0), 0)
            value += tl.sum(tl.where(inside, tl.exp(log_q) * (log_q - log_mean), 0.0), 0)
        value = (value + own) / 2
    tl.store(values + row, value)
    weight = tl.load(weights + row).to(tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        s = _read(student, columns, inside, scale, cap, CAPPED)
        log_p = s - log_s
        log_q = _read(teacher, columns, inside, 1.0, 1.0, False) - log_t
        p = tl.exp(log_p)
        if KIND == 0:
            gradient = p * (log_p - log_q - own)
        elif KIND == 1:
            gradient = p - tl.exp(log_q)
        else:
            log_mean = tl.maximum(log_p, log_q) + tl.log(1 + tl.exp(-tl.abs(log_p - log_q))) - LOG_2
            gradient = 0.5 * p * (log_p - log_mean - own)
        gradient = gradient * weight * scale
        if CAPPED:
            gradient = gradient * (1 - (s / cap) * (s / cap))
        tl.store(student + columns, gradient.to(student.dtype.element_ty), mask=inside)


@triton.jit
def _labels_kernel(  # type: ignore[no-untyped-def]
    student, labels, weights, values, V, stride, scale, cap, CAPPED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    student += row * stride
    label = tl.load(labels + row)
    gold = _read(student, label, label < V, scale, cap, CAPPED)
    top = LOWEST
    total = 0.0
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        s = _read(student, columns, inside, scale, cap, CAPPED)
        higher = tl.maximum(top, tl.max(tl.where(inside, s, LOWEST), 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.where(inside, tl.exp(s - higher), 0.0), 0)
        top = higher
    log_s = top + tl.log(total)
    tl.store(values + row, log_s - gold)
    weight = tl.load(weights + row).to(tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        s = _read(student, columns, inside, scale, cap, CAPPED)
        gradient = tl.exp(s - log_s) - tl.where(columns == label, 1.0, 0.0)
        gradient = gradient * weight * scale
        if CAPPED:
            gradient = gradient * (1 - (s / cap) * (s / cap))
        tl.store(student + columns, gradient.to(student.dtype.element_ty), mask=inside)


def compose(outputs: Tensor, composition: Composition, out: Tensor) -> None:
    """``composition(outputs)`` of one or two outputs (k, n, b), into ``out`` (n, b), whose rows may lie apart."""
    k, n, b = outputs.shape
    block = _block(b, 1024)
    second = 0 if k == 1 else 1 if composition.second == "rise" else 2
    with _device_of(out):
        _compose_kernel[n, triton.cdiv(b, block)](
            outputs[0], outputs[k - 1], out, b, outputs.stride(1), out.stride(0), *_numbers(composition.transform),
            composition.alpha, SECOND=second, CAPPED=composition.transform.cap is not None, BLOCK=block, num_warps=4,
        )  # fmt: skip


def normalisers(logits: Tensor) -> Tensor:
    """Logarithms of the sums of exponentials of the rows of ``logits`` (n, V): (n,), float32."""
    n, V = logits.shape
    found = torch.empty(n, dtype=torch.float32, device=logits.device)
    with _device_of(logits):
        _normaliser_kernel[n,](logits, found, V, logits.stride(0), BLOCK=_block(V), num_warps=8)
    return found


def divergence_(kind: str, student: Tensor, teacher: Tensor, weights: Tensor, transform: LogitTransform) -> Tensor:
    """Values (n,) float32 in nats of a divergence of rows; the weighted gradient takes the memory of ``student``.

    Args:
        kind: "reverse_kl", "forward_kl" or "jensen_shannon" (:mod:`rkld.losses.divergences`).
        student: the head's output (n, V), before ``transform``; the gradient is of it.
        teacher: log-probabilities that need not be normalised, (n, V).
        weights: (n,), factor of each row's gradient.
    """
    n, V = student.shape
    values = torch.empty(n, dtype=torch.float32, device=student.device)
    with _device_of(student):
        _divergence_kernel[n,](
            student, teacher, weights.contiguous(), values, V, student.stride(0), teacher.stride(0),
            *_numbers(transform), KIND=("reverse_kl", "forward_kl", "jensen_shannon").index(kind),
            CAPPED=transform.cap is not None, BLOCK=_block(V), num_warps=8,
        )  # fmt: skip
    return values


def to_labels_(student: Tensor, labels: Tensor, weights: Tensor, transform: LogitTransform) -> Tensor:
    """Values (n,) float32 in nats of the cross-entropy to ``labels`` (n,); else as :func:`divergence_`."""
    n, V = student.shape
    values = torch.empty(n, dtype=torch.float32, device=student.device)
    with _device_of(student):
        _labels_kernel[n,](
            student, labels.contiguous(), weights.contiguous(), values, V, student.stride(0), *_numbers(transform),
            CAPPED=transform.cap is not None, BLOCK=_block(V), num_warps=8,
        )  # fmt: skip
    return values


def _device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def _numbers(transform: LogitTransform) -> tuple[float, float]:
    return float(transform.scale), float(transform.cap or 1.0)


def _block(columns: int, most: int = BLOCK) -> Any:
    return min(triton.next_power_of_2(columns), most)
