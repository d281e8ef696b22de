"""Evaluation mode, or another dtype, for a while; and what dtypes are called."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each of its modules is in its own mode again, whatever happened."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def keeping_dtypes(model: nn.Module | None) -> Iterator[None]:
    """Whatever is cast within, afterwards each of the model's tensors is in its own dtype again.

    A cast to a wider dtype and back is exact. None is no model.
    """
    dtypes: dict[torch.Tensor, torch.dtype] = {}
    if model is not None:
        dtypes = {tensor: tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
    try:
        yield
    finally:
        for tensor, dtype in dtypes.items():
            tensor.data = tensor.data.to(dtype)


def dtype_name(dtype: torch.dtype | None) -> str:
    """As settings and configs write it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
