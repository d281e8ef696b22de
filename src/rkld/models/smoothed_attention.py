"""A model whose attention is smoothed: the products of queries and keys are divided by a temperature.

Not so a sink's logit beside them (gpt_oss); a cap on them (gemma2) comes after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from rkld.errors import UserError


def scaled(model: nn.Module) -> list[Any]:
    """The attention modules that keep the scale of their softmax's input where transformers' own mostly do.

    Raises:
        UserError: there are none.
    """
    found = [
        module
        for module in model.modules()
        if "Attention" in type(module).__name__ and isinstance(vars(module).get("scaling"), float)
    ]
    if not found:
        raise UserError(
            f"the attention of {type(model).__name__} cannot be smoothed: no attention module of it has a number "
            "'scaling'. Take another method."
        )
    return found


@contextmanager
def smoothed(model: nn.Module, temperature: float) -> Iterator[None]:
    """Within it every attention is smoothed by ``temperature``, no unit; 1 changes nothing.

    Raises:
        UserError: as of :func:`scaled`.
    """
    scales = [(module, module.scaling) for module in scaled(model)]
    try:
        for module, scale in scales:
            module.scaling = scale / temperature
        yield
    finally:
        for module, scale in scales:
            module.scaling = scale
