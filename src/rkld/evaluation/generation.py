"""Greedy answers: what a model says, without chance and whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

from ..errors import UserError
from .likelihood import measuring

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..models import LanguageModel


@dataclass(frozen=True)
class Generated:
    """One answer: its new token ids with the end token, if one came, and its text without special tokens."""

    ids: tuple[int, ...]
    text: str
    finished: bool  # ended by an end token, not cut at the cap


def greedy(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int] = 200,
    batch_size: int = 48,
    progress: Callable[[int], object] | None = None,
) -> list[Generated]:
    """The most likely next token again and again, from each prompt (token ids), in the order given.

    An answer ends with an end token (those of the model's generation config, and the tokenizer's eos), after
    ``max_new_tokens`` (one cap for all or one per prompt; 200 as in TOFU) or where the context is full.
    Temperature, repetition penalty and the like of the model's generation config do not apply. ``progress``
    is called with the number of answers just made. UserError where a prompt is empty or fills the context.
    """
    caps = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(caps) != len(prompts):
        raise ValueError(f"max_new_tokens has {len(caps)} values for {len(prompts)} prompts")
    base = lm.model.get_base_model() if hasattr(lm.model, "get_base_model") else lm.model
    room = _room(base, prompts)
    caps = [min(cap, left) for cap, left in zip(caps, room, strict=True)]
    ends = _end_ids(base, lm.tokenizer)
    answers: dict[int, Generated] = {}
    own_config = base.generation_config
    # generate() fills whatever a config leaves open from the model's own, so that must be neutral as well.
    base.generation_config = GenerationConfig()
    try:
        with measuring(lm.model):
            for batch in _batches([len(prompt) for prompt in prompts], caps, room, batch_size):
                steps = max(caps[i] for i in batch)
                rows = _generate(base, [prompts[i] for i in batch], steps, ends, lm.device)
                for i, row in zip(batch, rows, strict=True):
                    answers[i] = _cut(row[: caps[i]], ends, lm.tokenizer)
                if progress is not None:
                    progress(len(batch))
    finally:
        base.generation_config = own_config
    return [answers[i] for i in range(len(prompts))]


def _generate(
    base: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    steps: int,
    ends: frozenset[int],
    device: torch.device,
) -> list[list[int]]:
    """At most ``steps`` new ids per prompt, filled up after an end token. Prompts are padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    # Any id can pad (0 always has an embedding row): the attention mask says what is padding.
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=steps,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,
        use_cache=True,
    )
    output = base.generate(input_ids=ids, attention_mask=attention, generation_config=config)
    return output[:, width:].tolist()


def _cut(ids: list[int], ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> Generated:
    """The answer up to its first end token."""
    stop = next((n for n, token in enumerate(ids, start=1) if token in ends), None)
    ids = ids[:stop]
    return Generated(tuple(ids), tokenizer.decode(ids, skip_special_tokens=True), finished=stop is not None)


def _batches(
    lengths: Sequence[int], caps: Sequence[int], room: Sequence[int], batch_size: int
) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first.

    A batch runs for the largest cap in it, rows that have finished included, so none may ask for more steps
    than the first, which has the least room, can take: learned position embeddings would run out.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == batch_size or caps[i] > room[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _room(base: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Positions left in the context after each prompt."""
    context = getattr(base.config.get_text_config(), "max_position_embeddings", None) or 2**31
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise UserError(
                f"Prompt {number} of {len(prompts)} has no tokens, but a model needs one to go on from:"
                " give it a prompt."
            )
        if len(prompt) >= context:
            raise UserError(
                f"Prompt {number} of {len(prompts)} has {len(prompt)} tokens, but the model's context holds"
                f" {context} and the answer needs room in it: shorten the prompt."
            )
    return [context - len(prompt) for prompt in prompts]


def _end_ids(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: chat models name their end of turn in one place or the other."""
    configured = base.generation_config.eos_token_id
    configured = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(token for token in (*configured, tokenizer.eos_token_id) if token is not None)
