"""The loss of a chunk of rows on a GPU: products in blocks of the vocabulary, and one kernel for all the rest.

Shapes: n rows of a chunk, d hidden size, V vocabulary size, b of it that are multiplied at a time, k products.

Step by step every pass over a chunk's logits costs as much as reading them; here teacher, divergence, weight and
gradient are one kernel (:mod:`rkld.losses.kernels`), which reads the student's logits and the teacher's twice and
writes the gradient over the student's. Both are held in the dtype that products are computed in. What α multiplies is
not rounded to it: products come in float32, a block of the vocabulary at a time, and the teacher is made of them there.
All sums over the vocabulary are float32.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from rkld.losses.divergences import forward_kl, jensen_shannon, reverse_kl
from rkld.losses.products import Head, Product, accurate, head_logits, multiply, same_tensor
from rkld.losses.targets import Divergence, Inputs, Loss, Recipe, Towards, to_labels
from rkld.models.logit_transform import LogitTransform

KINDS: dict[Divergence, str] = {reverse_kl: "reverse_kl", forward_kl: "forward_kl", jensen_shannon: "jensen_shannon"}
"""The divergences that the kernel knows."""

BLOCK_BYTES = 48 << 20
"""Of products in float32 that exist at once: about what a data-centre GPU caches."""


class Buffers:
    """Memory that the chunks of one call share, by name."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def get(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, elements: int = 0
    ) -> Tensor:
        """A tensor with anything in it.

        Args:
            elements: what will be asked for at most, so that the first call takes memory once for all.
        """
        needed = torch.Size(shape).numel()
        if name not in self._flat or self._flat[name].numel() < needed:
            self._flat.pop(name, None)
            self._flat[name] = torch.empty(max(elements, needed), dtype=dtype, device=device)
        return self._flat[name][:needed].view(shape)


@cache
def _kernels() -> ModuleType | None:
    """The kernels, where Triton is installed."""
    try:
        from rkld.losses import kernels
    except ImportError:
        return None
    return kernels


def kernels_for(loss: Loss, weight: Tensor) -> ModuleType | None:
    """The kernels, where there is one for this loss and this head; None: step by step."""
    known = loss.divergence in KINDS if isinstance(loss, Towards) else loss is to_labels
    return _kernels() if known and runs_kernels(weight.device) and weight.dtype != torch.float64 else None


def runs_kernels(device: torch.device) -> bool:
    """Whether Triton's kernels can be run on tensors of this device."""
    return device.type == "cuda"


def fused_rows(
    kernels: ModuleType,
    loss: Loss,
    x: Tensor,
    head: Head,
    inputs: Inputs,
    weights: Tensor,
    buffers: Buffers,
    most: int,
    transform: LogitTransform,
) -> tuple[Tensor, Tensor]:
    """Values (n,) of a chunk's rows, and the weighted gradient (n, V) of the head's output.

    Args:
        x: the student's hidden states, (n, d).
        weights: (n,), factor of each row's gradient.
        most: rows of the segment's longest chunk.
    """
    shape = len(x), len(head.weight)
    student = buffers.get("student", shape, x.dtype, x.device, most * shape[1])
    if not isinstance(loss, Towards):
        head_logits(x, head.weight, head.bias, out=student)
        return kernels.to_labels_(student, inputs["labels"], weights, transform), student
    teacher = buffers.get("teacher", shape, x.dtype, x.device, most * shape[1])
    recipe = loss.target.recipe(inputs, head)
    if not recipe.products:
        head_logits(x, head.weight, head.bias, out=student)
        loss.target.read(inputs, teacher)
    else:
        _fill(kernels, Product(x, head.weight, head.bias), recipe, student, teacher, buffers)
        if loss.target.finishes(inputs):
            loss.target.finish(teacher, kernels.normalisers(teacher)[:, None], inputs)
    return kernels.divergence_(KINDS[loss.divergence], student, teacher, weights, transform), student


def _fill(
    kernels: ModuleType, own: Product, recipe: Recipe, student: Tensor, teacher: Tensor, buffers: Buffers
) -> None:
    """The head's output for the student (n, V), and the teacher's logits (n, V)."""
    products = list(recipe.products)
    shared = same_tensor(products[0].weight, own.weight)  # then all that has this head is one product
    if shared:
        products.insert(0, own)
    else:
        head_logits(*own, out=student)
    (n, V), k = student.shape, len(products)
    dtype = accurate(student.dtype)
    columns = min(max(BLOCK_BYTES // (k * n * dtype.itemsize) // 256 * 256, 256), V)
    for start in range(0, V, columns):
        end = min(start + columns, V)
        part = [Product(h, w[start:end], None if c is None else c[start:end]) for h, w, c in products]
        outputs = multiply(part, buffers.get("block", (k, n, end - start), dtype, student.device, k * n * columns))
        if shared:
            student[:, start:end] = outputs[0]
            outputs = outputs[1:]
        kernels.compose(outputs, recipe.composition, teacher[:, start:end])
