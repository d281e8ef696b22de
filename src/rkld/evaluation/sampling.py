"""Sampled answers: drawn from the model's distribution, the same on every run and whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rkld.evaluation.generation import (
    Generated,
    answer,
    cut_at_end_of_sequence,
    default_generation_config,
    end_ids,
    generation_batch_size,
    left_padded,
    room,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rkld.models.language_model import LanguageModel


def sample(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    n: int,
    *,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int | Sequence[int] = 200,
    batch_size: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Generated]]:
    """n answers to each prompt (token ids), drawn from the model's own distribution; in the order given.

    Nothing is cut from the distribution (no top-k, no top-p), whatever the model's generation config says. The chance
    in an answer comes from ``seed``, the prompt's place and the answer's number alone: neither ``n`` nor ``batch_size``
    nor the other prompts change it, up to rounding. ``max_new_tokens`` is one cap for all or one per prompt.
    ``progress`` is called with the number of answers just made. ValueError for n < 1 or a temperature that is not
    positive; UserError where a prompt is empty or fills the context.
    """
    if n < 1 or not temperature > 0:
        raise ValueError(f"n is {n} and temperature {temperature}; both must be positive")
    ends = end_ids(lm)
    caps = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    longest = max(caps, default=0)
    caps = [min(cap, left) for cap, left in zip(caps, room(lm, prompts), strict=True)]
    answers: dict[tuple[int, int], Generated] = {}
    with default_generation_config(lm):
        for batch in _batches(prompts, caps, n, batch_size or generation_batch_size(lm)):
            given = [prompts[i] for i, _ in batch]
            chance = np.stack([np.random.default_rng((seed, i, j)).random(longest) for i, j in batch])
            draws = _Draws(chance, max(map(len, given)), temperature)
            generated = _generate(lm.inner, given, caps[batch[0][0]], draws, ends, lm.device)
            for (i, j), ids in zip(batch, generated, strict=True):
                answers[i, j] = answer(lm, ids, ends)
            if progress is not None:
                progress(len(batch))
    return [[answers[i, j] for j in range(n)] for i in range(len(prompts))]


class _Draws(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed: Any
    """Draws a token per row by inverse transform sampling and leaves it as the only one: greedy search takes it."""

    def __init__(self, chance: np.ndarray, width: int, temperature: float) -> None:
        self.chance = torch.from_numpy(chance)  # (rows, steps), uniform in [0, 1)
        self.width = width
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        # Float64: the rounding of a float32 sum over a vocabulary would move draws from token to token.
        below = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)  # (rows, V)
        drawn = self.chance[:, step, None].to(scores.device) * below[:, -1:]
        tokens = torch.searchsorted(below, drawn, right=True).clamp_(max=scores.shape[1] - 1)  # (rows, 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)


def _batches(
    prompts: Sequence[Sequence[int]], caps: Sequence[int], n: int, batch_size: int
) -> list[list[tuple[int, int]]]:
    """(prompt, answer) pairs in batches of like length, the longest first; all of a batch have the same cap."""
    pairs = [(i, j) for i in range(len(prompts)) for j in range(n)]
    pairs.sort(key=lambda pair: (caps[pair[0]], -len(prompts[pair[0]])))
    found: list[list[tuple[int, int]]] = []
    for pair in pairs:
        if not found or len(found[-1]) == batch_size or caps[found[-1][0][0]] != caps[pair[0]]:
            found.append([])
        found[-1].append(pair)
    return found


def _generate(
    base: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    cap: int,
    draws: _Draws,
    ends: frozenset[int],
    device: torch.device,
) -> list[list[int]]:
    """At most ``cap`` new ids per prompt, up to the first end token. Prompts are padded on the left."""
    ids, attention = left_padded(prompts, device)
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=cap, eos_token_id=sorted(ends) or None, pad_token_id=0
    )
    output = base.generate(
        input_ids=ids,
        attention_mask=attention,
        generation_config=config,
        logits_processor=LogitsProcessorList([draws]),
    )
    return [cut_at_end_of_sequence(new, ends) for new in output[:, draws.width :].tolist()]
