"""Model and tokenizer as files: the only place that calls their ``save_pretrained``.

What is written is read by transformers 5 and 4 alike (:mod:`rkld.models.transformers_4`).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rkld.files import write_json
from rkld.models.modes import dtype_name
from rkld.models.transformers_4 import add_older_forms


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write config, weights, generation config and tokenizer into a folder.

    Args:
        dtype: round the weights to it (:func:`rounds`). The model in memory stays as it is.
    """
    weights = None if dtype is None else rounded(model, dtype)
    own = getattr(model, "generation_config", None)
    # Published generation configs have small flaws, which some versions of transformers refuse to save: that must not
    # come after hours of training. It is written as it is, beside a model that has a neutral one meanwhile.
    if own is not None:
        model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder, state_dict=weights)
    finally:
        if own is not None:
            model.generation_config = own
    if own is not None:
        own.to_json_file(folder / "generation_config.json")
    if dtype is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", _with_dtype(config, dtype_name(dtype)))
    write_tokenizer(tokenizer, folder)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer beside a model, and complete the files of both."""
    tokenizer.save_pretrained(folder)
    add_older_forms(folder, tokenizer)


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's state, its weights rounded to ``dtype``; tied ones are one tensor, as they were."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        if rounds(model, name, tensor):
            tensor = made.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
        state[name] = tensor
    return state


@torch.no_grad()
def round_in_place(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the model the values that :func:`rounded` writes, in the dtype that it has."""
    for name, tensor in model.state_dict().items():
        if rounds(model, name, tensor):
            tensor.copy_(tensor.to(dtype))


def rounds(model: PreTrainedModel, name: str, tensor: Tensor) -> bool:
    """Whether a tensor is rounded: floating point, and none that the model computes with in float32 always."""
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    return tensor.is_floating_point() and not any(part in name for part in kept)


def _with_dtype(config: dict, name: str) -> dict:
    """The config, and those within it, with ``dtype``."""
    found = {k: _with_dtype(v, name) if isinstance(v, dict) else v for k, v in config.items()}
    return found | {"dtype": name} if found.get("dtype") else found
