"""The teacher's log-probabilities of few records, whole and on the device: two products fewer in every step.

Shapes: R rows of a term's records, n of a chunk, V vocabulary size.

They are made once, by the same target, and read by their row from then on. They are never cut to the likeliest tokens:
a reverse KL asks the teacher about whatever the student says, and outside of what is kept it would have no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rkld.losses.chunked import chunk_rows_for
from rkld.losses.objective import CachedStates, Objective, Term
from rkld.losses.products import Head, accurate, compute_dtype
from rkld.losses.targets import Composition, Inputs, Recipe, Target, Towards
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, marked


class Kept(Target):
    """Rows of a tensor of log-probabilities (R, V); inputs hold their numbers (n,) under ``part``."""

    def __init__(self, log_probs: Tensor, part: str):
        self.log_probs, self.part = log_probs, part

    def recipe(self, inputs: Inputs, student: Head | None = None) -> Recipe:
        return Recipe((), Composition())

    def read(self, inputs: Inputs, out: Tensor) -> None:
        if out.dtype == self.log_probs.dtype:
            torch.index_select(self.log_probs, 0, inputs[self.part], out=out)
        else:
            out.copy_(self.log_probs.index_select(0, inputs[self.part]))


def room_for(device: torch.device) -> int:
    """Bytes that may be taken: a sixteenth of a GPU's free memory; none elsewhere, where memory is what is scarce."""
    return torch.cuda.mem_get_info(device)[0] // 16 if device.type == "cuda" else 0


def keep(objective: Objective, lm: LanguageModel, room: int) -> Objective:
    """The objective with the targets of its terms kept, one after another while they fit into ``room`` bytes.

    On a GPU in the dtype that products are computed in (autocast's, where it is on), elsewhere in float32 at least.
    """
    V, dtype, cache = len(lm.head.weight), compute_dtype(lm.head.weight), objective.cache
    held = dtype if lm.device.type == "cuda" else accurate(dtype)
    terms: list[Term] = []
    numbers: dict[tuple[str, str], Tensor] = {}
    for place, term in enumerate(objective.terms):
        records = objective.sets[term.records]
        size = sum(sum(term.mask(e)) for e in records) * V * held.itemsize
        if cache is None or not isinstance(term.loss, Towards) or not term.cached or not 0 < size <= room:
            terms.append(term)
            continue
        room -= size
        part = f"kept{place}"
        rows = torch.empty((size // (V * held.itemsize), V), dtype=held, device=lm.device)
        start = 0
        for e in records:
            chosen = _chosen(term, e)
            end = start + int(chosen.sum())
            numbers[f"{part}/{term.records}", e.key] = found = torch.full(chosen.shape, -1)
            found[chosen] = torch.arange(start, end)
            if end > start:
                _make(term, e, cache, lm, rows[start:end])
            start = end
        terms.append(replace(term, loss=Towards(term.loss.divergence, Kept(rows, part)), cached=(part,)))
    return replace(objective, terms=terms, cache=None if cache is None else _Numbered(cache, numbers))


def _chosen(term: Term, e: Encoded) -> Tensor:
    """Which of a record's marked tokens the term scores, (marked tokens,) bool."""
    return torch.tensor([bool(m) for m, kept in zip(term.mask(e), marked(e)) if kept], dtype=torch.bool)


@torch.no_grad()
def _make(term: Term, e: Encoded, cache: CachedStates, lm: LanguageModel, out: Tensor) -> None:
    """Write the log-probabilities of a record's rows into ``out``, a chunk at a time."""
    assert isinstance(term.loss, Towards)
    chosen = _chosen(term, e)
    labels = [i for i, m in zip(e.ids, term.mask(e)) if m]
    inputs = {part: cache.read(f"{part}/{term.records}", e.key)[chosen].to(lm.device) for part in term.cached}
    inputs["labels"] = torch.tensor(labels, device=lm.device)
    sums = accurate(out.dtype)
    step = chunk_rows_for(out.shape[1], sums, lm.device)
    for a in range(0, len(out), step):
        part = out[a : a + step]
        spare = torch.empty((2, *part.shape), dtype=sums, device=lm.device)
        part.copy_(term.loss.target({name: tensor[a : a + step] for name, tensor in inputs.items()}, spare))


class _Numbered:
    """A cache that knows the row numbers of what is kept, too."""

    def __init__(self, cache: CachedStates, numbers: Mapping[tuple[str, str], Tensor]):
        self.cache, self.numbers = cache, numbers

    def read(self, part: str, key: str) -> Tensor:
        found = self.numbers.get((part, key))
        return self.cache.read(part, key) if found is None else found
