"""Products of hidden states with heads, in the accuracy that what is made of them needs.

Shapes: n rows of a chunk, d hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Head(NamedTuple):
    """A head in the dtype that products are computed in."""

    weight: Tensor
    """(V, d)."""
    bias: Tensor | None
    """(V,)."""
    stored: Tensor
    """What ``weight`` was cast from; itself where nothing was cast."""


class Product(NamedTuple):
    """``hidden @ weight.T + bias``, (n, V)."""

    hidden: Tensor
    """(n, d), in the dtype of the weight."""
    weight: Tensor
    bias: Tensor | None = None


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What products with ``weight`` are computed in: autocast's dtype where it is on, else the weight's own.

    Autocast would cast a head again for every chunk of rows; who calls this casts it once.
    """
    kind = weight.device.type
    cast = weight.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else weight.dtype


def accurate(dtype: torch.dtype) -> torch.dtype:
    """What sums are held in: float32 at least, and float64 when the model is float64 (tests)."""
    return torch.promote_types(dtype, torch.float32)


BLOCK_BYTES = 8 << 20
"""Of a head's rows that :func:`accurate_logits` holds in float32 at once."""


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """``hidden @ weight.T + bias`` (n, V), written into ``out``, whose dtype may be the more accurate one.

    ``hidden`` and ``weight`` are of one dtype (:func:`compute_dtype`). On a CPU, products of 16-bit numbers are rounded
    to 16 bits before they are written, as the model's own forward pass does it: good for a student, whose logits
    nothing multiplies, and three times as fast as :func:`accurate_logits`.
    """
    if rounds(hidden, out):
        return out.copy_(F.linear(hidden, weight, bias))
    return accurate_logits(hidden, weight, bias, out)


def rounds(hidden: Tensor, out: Tensor) -> bool:
    """Whether :func:`head_logits` rounds to the dtype of ``hidden`` what it writes into the more accurate ``out``."""
    return hidden.dtype != out.dtype and not _adds_up_in(out)


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


def multiply(products: Sequence[Product], out: Tensor) -> Tensor:
    """All products, accurately, into ``out`` (k, n, V); neighbours on one head are one product.

    A product of few rows takes as long as reading the head does. With LoRA the original, the strengthened model and
    the student have one head: it is read once for all three.
    """
    start = 0
    while start < len(products):
        first, end = products[start], start + 1
        while end < len(products) and same_tensor(products[end].weight, first.weight):
            end += 1
        group = products[start:end]
        if len(group) == 1:
            accurate_logits(*first, out=out[start])
        else:
            stacked = torch.cat([p.hidden for p in group])  # (k · n, d)
            accurate_logits(stacked, first.weight, None, out[start:end].view(len(stacked), -1))
            for product, logits in zip(group, out[start:end]):
                if product.bias is not None:
                    logits.add_(product.bias)
        start = end
    return out


def same_tensor(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same numbers in the same memory."""
    if one is other:
        return True
    alike = (one.dtype, one.device, one.shape, one.stride()) == (other.dtype, other.device, other.shape, other.stride())
    return alike and one.numel() > 0 and one.data_ptr() == other.data_ptr()


def add_product(total: Tensor, gradient: Tensor, hidden: Tensor, *, first: bool = False) -> None:
    """``total += gradient.T @ hidden``, (V, d), in the accuracy of ``total``.

    A GPU multiplies in the dtype of the hidden states, as backpropagation would (in float32 it was half the time of the
    whole loss on an H100), and adds the product to a float32 total without a second tensor of that size.

    Args:
        gradient: (n, V), in the dtype of ``hidden`` on a GPU, of either on a CPU.
        first: ``total`` holds nothing yet, and need not be zeros.
    """
    beta = 0 if first else 1
    if total.device.type == "cpu" or hidden.dtype == total.dtype:
        total.addmm_(gradient.to(total.dtype).t(), hidden.to(total.dtype), beta=beta)
    elif _adds_to_float32(total.device, hidden.dtype):
        torch.addmm(total, gradient.t(), hidden, out_dtype=total.dtype, beta=beta, out=total)
    else:
        product = torch.mm(gradient.t(), hidden)
        total.copy_(product) if first else total.add_(product)


def _adds_up_in(out: Tensor) -> bool:
    """Whether the device multiplies 16-bit matrices into ``out`` without rounding to 16 bits."""
    return out.device.type == "cuda" and out.dtype == torch.float32 and "dtype_out" in torch.ops.aten.mm.overloads()


@cache
def _adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``torch.addmm`` adds a product of 16-bit matrices to a float32 one in place; first releases refused."""
    total, factor = torch.zeros((16, 16), device=device), torch.zeros((16, 16), device=device, dtype=dtype)
    try:
        torch.addmm(total, factor, factor, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True
