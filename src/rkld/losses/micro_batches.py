"""Which records each optimizer step sees, and how its rows are weighted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rkld.losses.objective import ALTERNATES, OWN, REFUSALS, AnswerTerm, Objective, StateTerm, Term
from rkld.models.hidden_states import pad, predictors
from rkld.records.encoding import Encoded, marked


def paired_sets(names: Collection[str]) -> dict[str, str]:
    """Sets that are not drawn, but come with another: its i-th record is where the other's i-th is."""
    return {of + ending: of for of in names for ending in (REFUSALS, ALTERNATES, OWN) if of + ending in names}


def units(sets: Mapping[str, Sequence[Encoded]], step: Mapping[str, Sequence[int]]) -> list[list[tuple[str, Encoded]]]:
    """The records of a step, with the name of their set, each together with those that come with it.

    A unit stays in one micro-batch.

    Args:
        step: indices by set, as of :func:`plan_steps`.
    """
    beside = paired_sets(sets)
    return [
        [(name, sets[name][i]), *((c, sets[c][i]) for c, of in beside.items() if of == name)]
        for name, indices in step.items()
        for i in indices
    ]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimizer steps of an epoch that draws ``n`` records (:func:`pools`); the last may see fewer."""
    return math.ceil(n / batch_size)


def is_reworded(encoded: Encoded) -> bool:
    """Whether it says another record in other words."""
    return encoded.record is not None and bool(encoded.record.source)


def pools(records: Sequence[Encoded]) -> list[list[int]]:
    """Indices of which an epoch takes one each: a record by itself, all rewordings of one record together.

    So a record counts twice in an epoch that has rewordings, as it was given and in one of its other wordings, however
    many of these there are.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for i, e in enumerate(records):
        source = e.record.source if e.record else ""
        found.setdefault(("rewordings", source) if source else ("record", str(i)), []).append(i)
    return list(found.values())


def plan_steps(
    sizes: Mapping[str, int],
    batch_size: int,
    epochs: int,
    seed: int,
    first_pools: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, list[int]]]:
    """The records of every optimizer step, from the seed alone.

    The first set is shuffled anew each epoch and cut into batches (the last may be smaller). Each other set runs
    through its own shuffles beside it, ``batch_size`` records a step, none twice in a step.

    Paired sets (:func:`paired_sets`) are not drawn.

    Args:
        first_pools: of the first set, :func:`pools`: an epoch takes one of each, in the next all others before it comes
            again. By default every record is a pool.

    Returns:
        one mapping set → indices per step, ``epochs`` times :func:`steps_per_epoch` of them.
    """
    beside = paired_sets(sizes)
    (first, n), *others = ((name, size) for name, size in sizes.items() if name not in beside)
    sizes = {first: n, **dict(others)}
    turns = _Turns(first_pools or [[i] for i in range(n)], seed)
    draw = {name: torch.Generator().manual_seed(seed + 1000 * i) for i, name in enumerate(sizes)}
    waiting: dict[str, list[int]] = {name: [] for name, _ in others}
    steps = []
    for _ in range(epochs):
        indices = turns.next_epoch()
        order = [indices[i] for i in torch.randperm(len(indices), generator=draw[first]).tolist()]
        for start in range(0, len(order), batch_size):
            step = {first: order[start : start + batch_size]}
            for name, size in others:
                queue = waiting[name]
                taken: list[int] = []
                while len(taken) < min(batch_size, size):
                    if not queue:
                        queue += torch.randperm(size, generator=draw[name]).tolist()
                    fresh = next((i for i in queue if i not in taken), None)
                    if fresh is None:
                        queue += torch.randperm(size, generator=draw[name]).tolist()
                        continue
                    queue.remove(fresh)
                    taken.append(fresh)
                step[name] = taken
            steps.append(step)
    return steps


class _Turns:
    """Epoch after epoch one index of each pool, all of a pool before one comes again."""

    def __init__(self, of: Sequence[Sequence[int]], seed: int):
        self.pools = of
        self.waiting: list[list[int]] = [[] for _ in of]
        self.draw = torch.Generator().manual_seed(seed + 999)

    def next_epoch(self) -> list[int]:
        for pool, waiting in zip(self.pools, self.waiting):
            if not waiting:
                order = torch.randperm(len(pool), generator=self.draw).tolist() if len(pool) > 1 else [0]
                waiting += [pool[i] for i in order]
        return [waiting.pop(0) for waiting in self.waiting]


def split(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices sorted by length and cut into ``parts`` runs whose sizes differ by at most one (some may be empty)."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    cuts = [round(len(order) * p / parts) for p in range(parts + 1)]
    return [order[a:b] for a, b in pairwise(cuts)]


def longest(unit: Sequence[tuple[str, Encoded]]) -> int:
    """Tokens of the longest record of a unit."""
    return max(len(e.ids) for _, e in unit)


Marked = tuple[str, Encoded, Sequence[bool]]
"""A record with its set's name and the positions that count."""


class MicroBatches(Dataset[dict[str, Any]]):
    """This process's micro-batches: item i of epoch e is part ``i % accumulation`` of step ``i // accumulation``.

    An item holds plain tensors, on the CPU: ``input_ids`` (B, L); ``rows`` (T,), the positions whose final states
    predict the marked targets; under ``terms`` for each term its rows' ``weights``, ``labels`` and cached parts
    (``slots`` for whole answers, ``rows`` for states of another layer); and the number of its ``tokens``, padding left
    out. ``epoch`` is set by the trainer.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        batch_size: int,
        accumulation: int = 1,
        epochs: int,
        seed: int,
        processes: int = 1,
        process: int = 0,
        dtype: torch.dtype = torch.float32,
    ):
        self.objective = objective
        self.accumulation, self.processes, self.process = accumulation, processes, process
        self.dtype = dtype
        sizes = {name: len(s) for name, s in objective.sets.items()}
        self.steps = plan_steps(sizes, batch_size, epochs, seed, pools(next(iter(objective.sets.values()))))
        self.steps_per_epoch = len(self.steps) // epochs
        self.epoch = 0

    def begin_epoch(self, number: int) -> None:
        """Items are those of this epoch from now on."""
        self.epoch = number

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulation

    def __getitem__(self, item: int) -> dict[str, Any]:
        step = self.steps[self.epoch * self.steps_per_epoch + item // self.accumulation]
        found = units(self.objective.sets, step)
        parts = split([longest(unit) for unit in found], self.accumulation * self.processes)
        mine = parts[(item % self.accumulation) * self.processes + self.process]
        # Every process must take part in every micro-batch; one without records of its own takes some with weight 0.
        chosen = [found[i] for i in mine] or [min(found, key=longest)]
        drawn, here = ([record for unit in some for record in unit] for some in (found, chosen))
        ids = pad([e for _, e in here])
        scale = self.processes if mine else 0  # processes' gradients are averaged, not summed
        rows, terms = [], {}
        for term in self.objective.terms:
            masks, weights = term.masks, self._weights(term, drawn)
            every = [list(masks[name](e)) if name in masks else [False] * len(e.ids) for name, e in here]
            marks = [(name, e, mask) for (name, e), mask in zip(here, every) if name in masks]
            positions = predictors(every, ids.shape[1])
            inputs = {
                "labels": torch.tensor(
                    [i for _, e, mask in marks for i, marked in zip(term.labels(e), mask) if marked], dtype=torch.int64
                )
            }
            if isinstance(term, AnswerTerm):
                inputs |= self._answers(term, marks, weights, scale)
            else:
                each = [scale * weights[e.key] for _, e, mask in marks for marked in mask if marked]
                inputs["weights"] = torch.tensor(each, dtype=self.dtype)
            if isinstance(term, StateTerm):
                inputs["rows"] = positions
            else:
                rows.append(positions)
            if len(positions):
                here_marked = [found for found in marks if any(found[2])]
                inputs |= {part: self._rows(part, here_marked) for part in term.cached}
            terms[term.name] = inputs
        return {
            "input_ids": ids,
            "rows": torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64),
            "terms": terms,
            "tokens": sum(len(e.ids) for _, e in here) if mine else 0,
        }

    def _weights(self, term: Term, drawn: Sequence[tuple[str, Encoded]]) -> dict[str, float]:
        """Weight of one row of each of the step's records (by key), so that the step's rows add up to an average.

        Of a term on whole answers: the weight of a record.
        """
        counts = {e.key: sum(term.mask(e)) for name, e in drawn if name == term.records}
        if term.unit == "token":
            total = sum(counts.values())
            return dict.fromkeys(counts, term.weight / total) if total else {}
        marked_records = sum(n > 0 for n in counts.values())
        rows = dict.fromkeys(counts, 1) if isinstance(term, AnswerTerm) else counts
        return {key: term.weight / (marked_records * rows[key]) for key, n in counts.items() if n}

    def _answers(
        self, term: AnswerTerm, marks: Sequence[Marked], weights: Mapping[str, float], scale: float
    ) -> dict[str, Tensor]:
        """One weight per answer (or pair of them), and the answer that each row belongs to."""
        number = {key: n for n, key in enumerate(e.key for name, e, _ in marks if name == term.records)}
        slots = [
            len(term.masks) * number[e.key] + (name != term.records)
            for name, e, mask in marks
            for marked in mask
            if marked
        ]
        return {
            # Nothing is marked in a record without a weight.
            "weights": torch.tensor([scale * weights.get(key, 0.0) for key in number], dtype=self.dtype),
            "slots": torch.tensor(slots, dtype=torch.int64),
        }

    def _rows(self, part: str, marks: Sequence[Marked]) -> Tensor:
        """A cached part's rows of the positions that count."""
        cache = self.objective.cache
        assert cache is not None
        tensors = []
        for name, e, mask in marks:
            chosen = [m for m, kept_row in zip(mask, marked(e)) if kept_row]
            tensors.append(cache.read(f"{part}/{name}", e.key)[torch.tensor(chosen)])
        return torch.cat(tensors)
