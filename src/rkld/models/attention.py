"""Attention of a single new token on a CPU, which is slower in bfloat16 than in float32.

torch 2.13, two cores of AVX-512 with units for bfloat16, 48 rows of 9 heads of 64, 40 positions, 30 layers: 21 ms in
bfloat16, 5 ms in float32 (all linear layers of that step: 23 ms). Of many tokens at once both take the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rkld.models.language_model import LanguageModel

SDPA = "sdpa"

Attention = Callable[..., tuple[Tensor, Tensor | None]]


@contextmanager
def single_tokens_in_float32(lm: LanguageModel, dtype: torch.dtype) -> Iterator[None]:
    """Within it, attention that is computed in bfloat16 on a CPU is computed in float32 for single tokens.

    For all models of this process, as transformers looks the function up by its name.

    Args:
        dtype: what the model is computed in; nothing is changed for another, or on another device.
    """
    if lm.device.type != "cpu" or dtype != torch.bfloat16:
        yield
        return
    own = ALL_ATTENTION_FUNCTIONS[SDPA]
    ALL_ATTENTION_FUNCTIONS[SDPA] = _widened(own)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[SDPA] = own


def _widened(attention: Attention) -> Attention:
    def widened(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Of query, key and value (B, H, L, d)."""
        if query.dtype != torch.bfloat16 or query.shape[2] != 1:
            return attention(module, query, key, value, attention_mask, **kwargs)
        if attention_mask is not None and attention_mask.dtype != torch.bool:
            attention_mask = attention_mask.float()
        with torch.autocast("cpu", enabled=False):
            found, weights = attention(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
        return found.to(query.dtype), weights

    return widened
