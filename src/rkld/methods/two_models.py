"""Two causal language models used as one: the unlearned model of methods that work on logits at inference.

Both models read the same text. The common backbone puts their final hidden states side by side; the common head turns
each half into logits, which the method combines. To the metrics it is a language model like any other.

Shapes: B sequences, L length, d₁ and d₂ hidden sizes, V vocabulary size.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from rkld.errors import UserError
from rkld.files import new_folder, write_json
from rkld.losses.products import accurate_logits
from rkld.methods.method import LogitArithmetic
from rkld.methods.registry import method_of_folder
from rkld.models.folders import check_files
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model, resolve
from rkld.models.logit_transform import transform_of
from rkld.models.saving import save_model, write_card
from rkld.registry import file_and_name

PAIR_FILE = "pair.json"
"""Marks a folder of two models that are used as one: it names the method that combines them, its hyper-parameters, and
α. Beside it lie ``original`` and ``assistant``, each ready for ``from_pretrained``."""


def open_model(
    source: str | os.PathLike[str] | PreTrainedModel | PeftModel, *, method_files: Sequence[str] = (), **options: Any
) -> LanguageModel:
    """:func:`rkld.models.loading.load_model`; of a folder that :func:`save_two_models` wrote, the two models as one.

    Args:
        method_files: the user's own methods, each as ``FILE.py:NAME``. Only for what the user typed: the files are run.
        options: as of ``load_model``, for each of the two models.

    Raises:
        UserError: as of ``load_model``; a broken folder, or a method that is neither registered nor among
            ``method_files``: no file is run because a folder names it.
    """
    folder = Path(resolve(source)) if isinstance(source, (str, os.PathLike)) else None
    if folder is None or not (folder / PAIR_FILE).exists():
        return load_model(source, **options)
    where = str(folder / PAIR_FILE)
    check_files(str(folder), folder, fetched=False)  # before it is read: it may be a pipe, or a terabyte
    try:
        facts = json.loads((folder / PAIR_FILE).read_text(encoding="utf-8"))
        name, arguments, alpha = facts["method"], facts["method_arg"], facts["alpha"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where} is broken: make the model again.") from None
    method = method_of_folder(name, arguments, where, method_files)
    if not isinstance(method, LogitArithmetic):
        raise UserError(f"{where} is broken: the method {name} does not combine two models. Make the model again.")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= LARGEST_ALPHA:
        raise UserError(f"{where} is broken: its 'alpha' is no number from 0 to {LARGEST_ALPHA:g}.")
    for part in ("original", "assistant"):
        if not (folder / part).is_dir():  # else its path would be asked for as a name on the hub
            raise UserError(f"{where} is broken: there is no folder {folder / part}. Make the model again.")
    original, assistant = (load_model(folder / part, **options) for part in ("original", "assistant"))
    if original.vocab_rows != assistant.vocab_rows:
        raise UserError(
            f"{folder}: the two models have {original.vocab_rows} and {assistant.vocab_rows} rows of logits, so they "
            "cannot be combined. Make the model again."
        )
    return two_models(original, assistant, method, float(alpha))


LARGEST_ALPHA = 1e6
"""Of a folder; beyond it float32 logits have no digits left."""


def save_two_models(
    original: LanguageModel,
    assistant: LanguageModel,
    folder: Path,
    *,
    method: str,
    method_arg: Sequence[str],
    alpha: float,
    merge: bool = False,
    card: str = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that :func:`open_model` makes one model of. It appears whole or not at all.

    Args:
        method, method_arg, alpha: as in the settings. Of a user's own ``FILE.py:NAME`` the NAME is written, and that
            ``--method-file`` is needed; never the path, which means nothing elsewhere.
        merge, card, dtype: as of :func:`rkld.models.saving.save_model`.
    """
    own = file_and_name(method)
    facts: dict[str, object] = {"method": own[1] if own else method, "method_arg": list(method_arg), "alpha": alpha}
    if own:
        facts["note"] = f"{own[1]} is a method of the user's: to load this model, give --method-file FILE.py:{own[1]}"
    with new_folder(folder) as new:
        save_model(original, new / "original", merge=merge, dtype=dtype)
        save_model(assistant, new / "assistant", merge=merge, dtype=dtype)
        write_json(new / PAIR_FILE, facts)
        write_card(new, card)


Combine = Callable[[Tensor, Tensor], Tensor]
"""The two models' logits, (…, V) each, which may be overwritten → the combined ones."""


class _Backbone(nn.Module):
    """Both models without their heads."""

    def __init__(self, config: PreTrainedConfig, models: tuple[PreTrainedModel, PreTrainedModel]):
        super().__init__()
        self.config = config
        self.models = nn.ModuleList(models)

    @property
    def parts(self) -> list[PreTrainedModel]:
        """The two models; nn.ModuleList is typed as holding mere modules."""
        return [cast(PreTrainedModel, model) for model in self.models]

    def forward(
        self, input_ids: Tensor, past_key_values: Cache | None = None, **inputs: Any
    ) -> BaseModelOutputWithPast:
        states, start = [], 0
        for model in self.parts:
            part, blocks = None, model.config.get_text_config().num_hidden_layers
            if past_key_values is not None:  # the common cache holds the blocks of both, one model's after the other's
                part = copy.copy(past_key_values)
                part.layers = past_key_values.layers[start : start + blocks]
                start += blocks
            found = model.base_model(input_ids=input_ids, past_key_values=part, **inputs)
            states.append(found.last_hidden_state)  # (B, L, dᵢ)
        return BaseModelOutputWithPast(torch.cat(states, dim=-1), past_key_values=past_key_values)


class _Head(nn.Module):
    """Both models' logits on (…, d₁ + d₂), combined: (…, V)."""

    def __init__(self, models: tuple[PreTrainedModel, PreTrainedModel], combine: Combine):
        super().__init__()
        self.heads = nn.ModuleList([model.get_output_embeddings() for model in models])
        self.transforms = [transform_of(model) for model in models]
        self.combine = combine

    @property
    def linears(self) -> list[nn.Linear]:
        """The two heads; nn.ModuleList is typed as holding mere modules."""
        return [cast(nn.Linear, head) for head in self.heads]

    @property
    def weight(self) -> Tensor:
        """The original's, (V, d₁): for dtype, device and V."""
        return self.linears[0].weight

    @torch.no_grad()  # the logits may be overwritten
    def forward(self, hidden: Tensor) -> Tensor:
        parts = hidden.split([head.weight.shape[1] for head in self.linears], dim=-1)
        outputs = (_output(head, part) for head, part in zip(self.linears, parts))
        return self.combine(*(transform.apply_(found) for transform, found in zip(self.transforms, outputs)))


def _output(head: nn.Linear, hidden: Tensor) -> Tensor:
    """``head(hidden)`` in float32 at least: the method multiplies their difference, and its rounding, by α."""
    if type(head) is not nn.Linear or not head.weight.is_floating_point():  # quantised: it computes as it can
        return head(hidden).to(torch.promote_types(hidden.dtype, torch.float32))
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    out = torch.empty((hidden.numel() // hidden.shape[-1], len(head.weight)), dtype=dtype, device=hidden.device)
    accurate_logits(hidden.flatten(0, -2).to(head.weight.dtype), head.weight, head.bias, out)
    return out.view(*hidden.shape[:-1], -1)


class TwoModelCausalLM(PreTrainedModel, GenerationMixin):
    """Two models as one, with ``forward`` and ``generate``; to measure, not to train."""

    base_model_prefix = "backbone"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, original: PreTrainedModel, assistant: PreTrainedModel, combine: Combine):
        config = copy.deepcopy(original.config)
        text = config.get_text_config()
        configs = [model.config.get_text_config() for model in (original, assistant)]
        # So that generate() makes a cache with room for the blocks of both.
        if getattr(text, "layer_types", None):
            text.layer_types = [kind for found in configs for kind in found.layer_types]
        text.num_hidden_layers = sum(found.num_hidden_layers for found in configs)
        super().__init__(config)
        self.backbone = _Backbone(config, (original, assistant))
        self.head = _Head((original, assistant), combine)
        self.generation_config = original.generation_config
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.parts[0].get_input_embeddings()

    def get_output_embeddings(self) -> _Head:
        return self.head

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        found = self.backbone(input_ids, **inputs)
        logits = self.head(found.last_hidden_state[:, -logits_to_keep:])  # 0 keeps all
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values)


def two_models(
    original: LanguageModel, assistant: LanguageModel, method: LogitArithmetic, alpha: float
) -> LanguageModel:
    """The unlearned model of ``method``. The two are used, not copied."""
    both = TwoModelCausalLM(original.inner, assistant.inner, lambda o, a: method.logits(o, a, alpha))
    return dataclasses.replace(original, model=both)
