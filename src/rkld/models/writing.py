"""Model and tokenizer as files: the only place that calls their ``save_pretrained``.

What is written is read by transformers 5 and 4 alike (:mod:`rkld.models.transformers_4`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rkld import processes
from rkld.files import write_json
from rkld.models.language_model import LanguageModel
from rkld.models.modes import dtype_name
from rkld.models.sharded import is_sharded, like, reshard, whole, whole_state
from rkld.models.transformers_4 import add_older_forms


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config, weights, generation config and tokenizer into a folder.

    Args:
        dtype: round the weights to it (:func:`rounds`). The model in memory stays as it is.
        weights: those of a model that lie elsewhere; by default its own.
    """
    if dtype is not None:
        weights = rounded(model, dtype, weights)
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


def rounded(
    model: PreTrainedModel, dtype: torch.dtype, weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The model's state, or ``weights``, rounded to ``dtype``; tied ones are one tensor, as they were."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    state = {}
    for name, tensor in (model.state_dict() if weights is None else weights).items():
        if rounds(model, name, tensor):
            tensor = made.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
        state[name] = tensor
    return state


def gathered_weights(lm: LanguageModel) -> dict[str, Tensor] | None:
    """What is written of a model in shards (:func:`rkld.models.saving.save_model`), on the CPU of the first process;
    nothing in the others, and None of a model that is whole. All processes gather it together.
    """
    if not is_sharded(lm.model):
        return None
    if not isinstance(lm.model, PeftModel):
        return whole_state(lm.model)
    reshard(lm.model)
    found = {name: whole(tensor.detach()) for name, tensor in adapter_of(lm.model)[2].items()}
    return {name: tensor.cpu() for name, tensor in found.items()} if processes.writes() else {}


def adapter_of(model: PeftModel) -> tuple[str, PeftConfig, dict[str, Tensor]]:
    """Name, config and own weights of the one adapter on a model: what is written of it."""
    ((name, config),) = model.peft_config.items()
    return name, config, get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


@torch.no_grad()
def round_in_place(model: PreTrainedModel | PeftModel, dtype: torch.dtype, seed: int | None = None) -> None:
    """Give the model values that ``dtype`` can hold, in the dtype that it has, so that writing them changes nothing.

    Of an adapter's model the adapter alone: its base stays where it is.

    Args:
        seed: round up or down at random, up as often as a value is near to it (:func:`at_random`), from this seed; by
            default to the nearest.
    """
    draw = None if seed is None else torch.Generator().manual_seed(seed)
    reshard(model)
    if isinstance(model, PeftModel):  # what is written of it
        _, _, state = adapter_of(model)
    else:
        state = {name: tensor for name, tensor in model.state_dict().items() if rounds(model, name, tensor)}
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(dtype) if draw is None else like(at_random(whole(tensor), draw), tensor))


def at_random(tensor: Tensor, draw: torch.Generator) -> Tensor:
    """float32 values rounded to one of their two neighbours in bfloat16, in the mean to themselves; what bfloat16 can
    hold stays as it is. (Stochastic rounding: Gupta et al. 2015, arXiv 1502.02551.)

    Args:
        draw: on the CPU, whatever the tensor is on: the same values anywhere.
    """
    bits = tensor.to(torch.float32).contiguous().view(torch.int32)
    added = torch.randint(0, 1 << 16, tensor.shape, generator=draw, dtype=torch.int32).to(tensor.device)
    return ((bits + added) & -(1 << 16)).view(torch.float32)  # a bfloat16 is the upper half of a float32


def rounds(model: PreTrainedModel, name: str, tensor: Tensor) -> bool:
    """Whether a tensor is rounded: floating point, and none that the model computes with in float32 always."""
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    return tensor.is_floating_point() and not any(part in name for part in kept)


def _with_dtype(config: dict, name: str) -> dict:
    """The config, and those within it, with ``dtype``."""
    found = {k: _with_dtype(v, name) if isinstance(v, dict) else v for k, v in config.items()}
    return found | {"dtype": name} if found.get("dtype") else found
