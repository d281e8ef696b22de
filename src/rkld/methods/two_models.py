"""Two causal language models that speak as one: the unlearned model of methods that work on logits at inference.

Both models read the same text. The pair's backbone puts their final hidden states side by side; its head turns each
half into logits and has the method make one of the two. To the metrics it is a language model like any other.

Shapes: B sequences, L length, d₁ and d₂ hidden sizes, V vocabulary size.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from rkld.errors import UserError
from rkld.files import new_folder, write_json
from rkld.methods.method import LogitArithmetic
from rkld.methods.registry import get_method
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model

PAIR = "pair.json"
"""Says that a folder holds two models that speak as one: the method that makes one of them, its hyper-parameters, and α.
Beside it lie ``original`` and ``assistant``, each ready for ``from_pretrained``."""


def open_model(source: str | os.PathLike | PreTrainedModel | PeftModel, **options: Any) -> LanguageModel:
    """:func:`rkld.models.loading.load_model`, of a folder that :func:`save_pair` wrote the two models as one.

    Args:
        options: as of ``load_model``, for each of the two models.

    Raises:
        UserError: as of ``load_model``; a broken folder, or a method that is not registered: no file is run because a
            folder names it.
    """
    if not isinstance(source, (str, os.PathLike)) or not (Path(source) / PAIR).exists():
        return load_model(source, **options)
    folder = Path(source)
    try:
        facts = json.loads((folder / PAIR).read_text(encoding="utf-8"))
        name, arguments, alpha = facts["method"], facts["method_arg"], float(facts["alpha"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / PAIR} is broken: make the model again.") from None
    method = get_method(name, arguments)
    return pair(*(load_model(folder / part, **options) for part in ("original", "assistant")), method, alpha)


def save_pair(
    original: LanguageModel,
    assistant: LanguageModel,
    facts: Mapping[str, Any],
    folder: Path,
    *,
    merge: bool = False,
    card: str = "",
) -> None:
    """Write a folder that :func:`open_model` makes one model of (:mod:`rkld.methods.two_models`). It appears whole or not at all.

    Args:
        facts: "method", "method_arg" and "alpha", as in the settings.
        merge, card: as of :func:`save_model`.
    """
    with new_folder(folder) as new:
        save_model(original, new / "original", merge=merge)
        save_model(assistant, new / "assistant", merge=merge)
        write_json(new / PAIR, dict(facts))
        (new / "README.md").write_text(card, encoding="utf-8")


Combine = Callable[[Tensor, Tensor], Tensor]
"""The two models' logits, (…, V) each, which may be overwritten → the pair's."""


class _Backbone(nn.Module):
    """Both models without their heads."""

    def __init__(self, config, models: tuple[PreTrainedModel, PreTrainedModel]):
        super().__init__()
        self.config = config
        self.models = nn.ModuleList(models)

    def forward(self, input_ids: Tensor, past_key_values: Cache | None = None, **inputs) -> BaseModelOutputWithPast:
        states, start = [], 0
        for model in self.models:
            part, blocks = None, model.config.get_text_config().num_hidden_layers
            if past_key_values is not None:  # the pair's cache holds the blocks of both, one model's after the other's
                part = copy.copy(past_key_values)
                part.layers = past_key_values.layers[start : start + blocks]
                start += blocks
            found = model.base_model(input_ids=input_ids, past_key_values=part, **inputs)
            states.append(found.last_hidden_state)  # (B, L, dᵢ)
        return BaseModelOutputWithPast(torch.cat(states, dim=-1), past_key_values=past_key_values)


class _Head(nn.Module):
    """Both heads on (…, d₁ + d₂), combined: (…, V)."""

    def __init__(self, heads: tuple[nn.Linear, nn.Linear], combine: Combine):
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.combine = combine

    @property
    def weight(self) -> Tensor:
        """The original's, (V, d₁): for dtype, device and V."""
        return self.heads[0].weight

    @torch.no_grad()  # the logits may be overwritten
    def forward(self, hidden: Tensor) -> Tensor:
        parts = hidden.split([head.weight.shape[1] for head in self.heads], dim=-1)
        return self.combine(*(head(part) for head, part in zip(self.heads, parts)))


class PairForCausalLM(PreTrainedModel, GenerationMixin):
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
        self.head = _Head((original.get_output_embeddings(), assistant.get_output_embeddings()), combine)
        self.generation_config = original.generation_config
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.models[0].get_input_embeddings()

    def get_output_embeddings(self) -> _Head:
        return self.head

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **inputs) -> CausalLMOutputWithPast:
        found = self.backbone(input_ids, **inputs)
        logits = self.head(found.last_hidden_state[:, -logits_to_keep:])  # 0 keeps all
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values)


def pair(original: LanguageModel, assistant: LanguageModel, method: LogitArithmetic, alpha: float) -> LanguageModel:
    """The unlearned model of ``method``. The two are used, not copied."""
    both = PairForCausalLM(original.inner, assistant.inner, lambda o, a: method.logits(o, a, alpha))
    return LanguageModel(both, original.tokenizer, original.source)
