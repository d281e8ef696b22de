"""Sampled answers: drawn from the model's distribution, the same on every run and whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rkld import processes
from rkld.evaluation.generation import (
    Generated,
    answer,
    answering,
    begun,
    can_go_on,
    cut_at_end_of_sequence,
    end_ids,
    generation_batch_size,
    room,
)
from rkld.models.sharded import gathered, is_sharded

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
    top_p: float = 1.0,
    max_new_tokens: int | Sequence[int] = 200,
    batch_size: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Generated]]:
    """n answers to each prompt (token ids), drawn from the model's own distribution; in the order given.

    Nothing is cut from the distribution unless ``top_p`` is below 1 (:func:`draw`), whatever the model's generation
    config says. The chance in an answer comes from ``seed``, the prompt's place and the answer's number alone: neither
    ``n`` nor ``batch_size`` nor the other prompts change it, up to rounding. ``max_new_tokens`` is one cap for all or
    one per prompt. ``progress`` is called with the number of answers just made. Of several processes each answers a
    part of the prompts. ValueError for n < 1 or a temperature that is not positive; UserError where a prompt is empty
    or fills the context.
    """
    if n < 1 or not temperature > 0:
        raise ValueError(f"n is {n} and temperature {temperature}; both must be positive")
    ends = end_ids(lm)
    caps = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    longest = max(caps, default=0)
    caps = [min(cap, left) for cap, left in zip(caps, room(lm, prompts), strict=True)]
    size = batch_size or generation_batch_size(lm)

    def answered(mine: Sequence[int], _: object) -> list[list[Generated]]:
        answers: dict[tuple[int, int], Generated] = {}

        def done(pair: tuple[int, int], ids: Sequence[int]) -> None:
            answers[pair] = answer(lm, ids, ends, prompts[pair[0]])
            if progress is not None:
                progress(1)

        def draw_all() -> None:
            longest_first = sorted(mine, key=lambda i: -len(prompts[i]))
            each = max(1, size // SPREAD)
            for some in (longest_first[at : at + each] for at in range(0, len(mine), each)):
                chance = {(i, j): chance_of(seed, i, j, longest) for i in some for j in range(n)}
                _Sampling(lm, chance, {i: caps[i] for i in some}, temperature, top_p, ends, size, done).go(prompts)

        with answering(lm):
            gathered(lm.model, draw_all)
        return [[answers[i, j] for j in range(n)] for i in mine]

    return processes.shared(range(len(prompts)), answered, split=not is_sharded(lm.model))


def chance_of(seed: int, prompt: int, answer: int, length: int) -> np.ndarray:
    """The chance in one answer to one prompt, of which each token takes one: (length,) float64, uniform in [0, 1)."""
    return np.random.default_rng((seed, prompt, answer)).random(length)


SPREAD = 4
"""Rows that the samples of a question are expected to become on average, where a batch is filled with questions."""


@dataclass
class _Rows:
    """Beginnings of answers, each drawn by one sample or by several: these are read once."""

    ids: torch.Tensor
    """(R, L): prompts, padded (:func:`rkld.evaluation.generation.begun`), and the tokens drawn so far."""
    attention: torch.Tensor
    """(R, L)."""
    samples: list[list[tuple[int, int]]]
    """R lists of (prompt, answer)."""
    step: int
    """Tokens drawn so far."""
    cache: Any = None
    """Keys and values of all but the last token of ``ids``, or of what all prompts begin with; None: all is read."""

    def part(self, rows: slice) -> _Rows:
        return _Rows(self.ids[rows], self.attention[rows], self.samples[rows], self.step)


class _Sampling:
    """Draws the answers to some prompts, sample by sample from its own chance.

    Samples that have drawn the same tokens so far stand in one row of the batch, so that of a model which is sure of
    what it says many samples cost little more than one. Rows beyond ``size`` wait, and are read anew.
    """

    def __init__(
        self,
        lm: LanguageModel,
        chance: Mapping[tuple[int, int], np.ndarray],
        caps: Mapping[int, int],
        temperature: float,
        top_p: float,
        ends: frozenset[int],
        size: int,
        done: Callable[[tuple[int, int], Sequence[int]], None],
    ) -> None:
        self.lm, self.chance, self.caps, self.ends = lm, chance, caps, ends
        self.temperature, self.top_p, self.size, self.done = temperature, top_p, size, done
        self.drawn: dict[tuple[int, int], list[int]] = {pair: [] for pair in chance}

    def go(self, prompts: Sequence[Sequence[int]]) -> None:
        samples = [[pair for pair in self.chance if pair[0] == i] for i in self.caps]
        ids, attention, cache = begun(self.lm, [prompts[i] for i in self.caps])
        waiting = [_Rows(ids, attention, samples, 0, cache)]
        while waiting:
            rows = waiting.pop()
            while rows.samples:
                if len(rows.samples) > self.size:
                    waiting.append(rows.part(slice(self.size, None)))
                    rows = rows.part(slice(self.size))
                logits, cache = next_logits(self.lm, rows.ids, rows.attention, rows.cache)
                if rows.step == 0 and not can_go_on(cache):
                    self._one_by_one(rows)
                    break
                rows = self._drawn(rows, logits, cache)

    def _drawn(self, rows: _Rows, logits: torch.Tensor, cache: Any) -> _Rows:
        """The rows one token later: those that have come to their end are gone, others may have become several."""
        pairs = [(row, pair) for row, some in enumerate(rows.samples) for pair in some]
        chance = torch.tensor([self.chance[pair][rows.step] for _, pair in pairs], dtype=torch.float64)
        of = torch.tensor([row for row, _ in pairs], device=logits.device)
        tokens = draw(logits, of, chance, self.temperature, self.top_p)
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for (row, pair), token in zip(pairs, tokens.tolist(), strict=True):
            self.drawn[pair].append(token)
            if token in self.ends or len(self.drawn[pair]) == self.caps[pair[0]]:
                self.done(pair, self.drawn[pair])
            else:
                found.setdefault((row, token), []).append(pair)
        parents = torch.tensor([row for row, _ in found], dtype=torch.int64, device=logits.device)
        new = torch.tensor([[token] for _, token in found], dtype=torch.int64, device=logits.device).view(-1, 1)
        ids = torch.cat([rows.ids[parents], new], dim=1)
        if len(found) <= self.size and found:  # else they are parted, and read anew
            cache.reorder_cache(parents)
        else:
            cache = None
        return _Rows(ids, F.pad(rows.attention[parents], (0, 1), value=1), list(found.values()), rows.step + 1, cache)

    def _one_by_one(self, rows: _Rows) -> None:
        """For recurrent states and others that cannot be gone on from row by row: every sample in a row of its own."""
        pairs = [(row, pair) for row, some in enumerate(rows.samples) for pair in some]
        pairs.sort(key=lambda one: self.caps[one[1][0]])
        for cap, same in groupby(pairs, key=lambda one: self.caps[one[1][0]]):
            some = list(same)
            for batch in (some[at : at + self.size] for at in range(0, len(some), self.size)):
                of = torch.tensor([row for row, _ in batch], device=rows.ids.device)
                chance = np.stack([self.chance[pair] for _, pair in batch])
                draws = _Draws(chance, rows.ids.shape[1], self.temperature, self.top_p)
                new = _generate(self.lm.inner, rows.ids[of], rows.attention[of], cap, draws, self.ends)
                for (_, pair), ids in zip(batch, new, strict=True):
                    self.done(pair, ids)


def next_logits(lm: LanguageModel, ids: torch.Tensor, attention: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
    """Logits of what follows, (R, V), and the keys and values of all that has been read.

    Within :func:`rkld.evaluation.generation.answering`.

    Args:
        ids, attention: (R, L), padded (:func:`rkld.evaluation.generation.begun`).
        cache: as it was returned for all but the last token, or of the first ones; None: everything is read.
    """
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=1, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    output = lm.inner.generate(input_ids=ids, attention_mask=attention, past_key_values=cache, generation_config=config)
    return output.logits[0], output.past_key_values


def draw(
    logits: torch.Tensor, of: torch.Tensor, chance: torch.Tensor, temperature: float, top_p: float = 1.0
) -> torch.Tensor:
    """Tokens drawn by inverse transform sampling, (n,) int64.

    Args:
        logits: (R, V).
        of: (n,), from which of the R rows each is drawn.
        chance: (n,) float64, uniform in [0, 1).
        top_p: of the most likely tokens only as many as make up this share are drawn (Holtzman et al. 2020, arXiv
            1904.09751, section 3.1); 1: all.
    """
    # Float64: the rounding of a float32 sum over a vocabulary would move draws from token to token.
    found = (logits.double() / temperature).softmax(dim=-1)  # (R, V)
    if top_p < 1:
        largest, tokens = found.sort(dim=-1, descending=True)
        found = found.scatter(-1, tokens, largest.where(largest.cumsum(dim=-1) - largest < top_p, 0.0))
    below = found.cumsum(dim=-1)[of]  # (n, V)
    drawn = chance[:, None].to(logits.device) * below[:, -1:]
    return torch.searchsorted(below, drawn, right=True).clamp_(max=logits.shape[1] - 1)[:, 0]


class _Draws(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed: Any
    """Draws a token per row and leaves it as the only one: greedy search takes it."""

    def __init__(self, chance: np.ndarray, width: int, temperature: float, top_p: float) -> None:
        self.chance = torch.from_numpy(chance)  # (rows, steps), uniform in [0, 1)
        self.width, self.temperature, self.top_p = width, temperature, top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        rows = torch.arange(len(scores), device=scores.device)
        tokens = draw(scores, rows, self.chance[:, step], self.temperature, self.top_p)[:, None]  # (rows, 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)


def _generate(
    base: PreTrainedModel,
    ids: torch.Tensor,
    attention: torch.Tensor,
    cap: int,
    draws: _Draws,
    ends: frozenset[int],
) -> list[list[int]]:
    """At most ``cap`` new ids per prompt, up to the first end token. Prompts (B, L) are padded on the left."""
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
