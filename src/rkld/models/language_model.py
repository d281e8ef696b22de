"""A causal language model seen as backbone and head.

Everything else relies on ``logits = transform(head(backbone(ids).last_hidden_state))``, which
:mod:`rkld.models.checks` tests; in most models nothing is done to the head's output.

Shapes: B sequences, L length, d hidden size, V rows of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkld.models.logit_transform import LogitTransform, transform_of


@dataclass
class LanguageModel:
    """A causal language model without dropout, and its tokenizer. Made by :func:`rkld.models.loading.load_model`."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    """Where it came from: absolute folder or hub name."""
    stored_dtype: torch.dtype | None = None
    """Of the weights before they were loaded, or cast, in the one that the setting says; None where nobody knows."""
    template_source: str | None = None
    """Whose chat template the tokenizer has, in words; None without one."""
    answers_in: torch.dtype | None = None
    """What answers are computed in, greedy and sampled, by autocast; None: in the dtype of the weights."""

    @property
    def inner(self) -> PreTrainedModel:
        """The transformers model itself; an adapter's layers sit inside it."""
        return self.model.get_base_model() if self.is_adapter else self.model

    @property
    def backbone(self) -> nn.Module:
        """Ids (B, L) → output whose ``last_hidden_state`` (B, L, d) feeds the head."""
        inner = self.inner
        if inner.base_model is not inner:
            return inner.base_model
        # Llama 4's text model names its multimodal parent's prefix.
        return next((part for part in inner.children() if isinstance(part, PreTrainedModel)), inner)

    @property
    def head(self) -> nn.Linear:
        """Hidden states (…, d) → what :attr:`logit_transform` makes logits of (…, V)."""
        return self.inner.get_output_embeddings()

    @property
    def logit_transform(self) -> LogitTransform:
        """Scale and soft cap of the head's output."""
        return transform_of(self.inner)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of final hidden states (…, d): (…, V)."""
        return self.logit_transform(self.head(hidden.to(self.device)))

    @property
    def is_adapter(self) -> bool:
        return isinstance(self.model, PeftModel)

    @property
    def parameters(self) -> int:
        """How many, those of an adapter too."""
        return int(self.inner.num_parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, as the head has it."""
        return self.head.weight.dtype

    @property
    def has_lasting_source(self) -> bool:
        """Whether the model (an adapter's base) has a folder or hub name to be loaded from again."""
        return bool(self.inner.name_or_path)

    @property
    def is_quantised(self) -> bool:
        """Whether weights are kept in few bits (AWQ, GPTQ, bitsandbytes, …): good to measure, not to train."""
        return getattr(self.inner, "is_quantized", False)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def vocab_rows(self) -> int:
        """V: rows of the head, at least as many as the tokenizer has ids (vocabularies are often padded)."""
        return self.head.weight.shape[0]

    @property
    def context_length(self) -> int | None:
        """Most tokens the model can read at once, ``None`` where its config sets no bound."""
        config = self.inner.config.get_text_config()
        found = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        return next((length for length in found if isinstance(length, int)), None)
