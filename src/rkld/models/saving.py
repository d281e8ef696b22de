"""Writing a model so that plain ``from_pretrained`` loads it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from rkld.files import new_folder
from rkld.models.checks import check_alike, check_mergeable
from rkld.models.language_model import LanguageModel
from rkld.models.loading import lasting_reference
from rkld.models.source import carry
from rkld.models.writing import adapter_of, write_model, write_tokenizer


def save_model(
    lm: LanguageModel,
    folder: Path,
    *,
    merge: bool = False,
    card: str = "",
    dtype: torch.dtype | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a folder that plain ``from_pretrained`` loads. It appears whole or not at all.

    With the weights go the tokenizer, its chat template, the generation config, README.md, and licences and processor
    files of where the model came from. An adapter names its base by absolute path or hub name.

    Args:
        folder: where to; what it held before is replaced.
        merge: write an adapter's model with the adapter merged in; needs memory for a second copy. Weights of few bits
            are written in full (:func:`merged`).
        card: text of README.md; without one there is none.
        dtype: round the weights to it; by default they are written as they are. The model in memory does not change.
        weights: of a model in shards (:func:`rkld.models.writing.gathered_weights`).
    """
    lm = merged(lm) if merge else lm
    with new_folder(folder) as new:
        if lm.is_adapter:
            _save_adapter(lm, new, dtype, weights)
        else:
            write_model(lm.model, lm.tokenizer, new, dtype, weights)
        write_card(new, card)
        carry(lm, new)


def write_card(folder: Path, card: str) -> None:
    """README.md of this text, or none: an adapter's library leaves a form behind that nobody has filled in."""
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")
    else:
        (folder / "README.md").unlink(missing_ok=True)


def merged(lm: LanguageModel) -> LanguageModel:
    """The model with its adapter merged in, a second copy; a model without one as it is.

    Quantised weights are made whole first, in the dtype of the head: rounded to few bits again, they would lose most of
    what the adapter has learned.

    Raises:
        UserError: nothing makes these quantised weights whole, or what came out says something else.
    """
    if not lm.is_adapter:
        return lm
    check_mergeable(lm)
    model = copy.deepcopy(lm.model)
    if not lm.is_quantised:
        return dataclasses.replace(lm, model=model.merge_and_unload())
    whole = dataclasses.replace(lm, model=_whole(model, lm.dtype).merge_and_unload())
    check_alike(lm, whole)
    return whole


def _whole(model: PeftModel, dtype: torch.dtype) -> PeftModel:
    """The adapter on its base with the weights in full: PEFT's layers for quantised weights cannot hold others."""
    name, config, learned = adapter_of(model)
    base = model.unload().dequantize(dtype)
    whole = get_peft_model(base, config, adapter_name=name)
    set_peft_model_state_dict(whole, learned, adapter_name=name)
    return whole


def _save_adapter(
    lm: LanguageModel, folder: Path, dtype: torch.dtype | None, weights: Mapping[str, Tensor] | None
) -> None:
    # Not PeftModel.save_pretrained: it writes a card of its own and asks the hub about the base model.
    _, config, own = adapter_of(lm.model)
    state = {k: v.to(dtype or v.dtype).contiguous() for k, v in (own if weights is None else weights).items()}
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    config = copy.deepcopy(config)
    config.base_model_name_or_path = lasting_reference(lm.inner.name_or_path)
    config.inference_mode = True
    config.save_pretrained(folder)
    write_tokenizer(lm.tokenizer, folder)
