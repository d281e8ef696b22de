"""What is minimised: terms over sets of records, and which records each optimizer step sees.

A step's records are drawn first, from the seed alone; only then are they split into micro-batches for accumulation
and processes. Every row carries its weight in the *whole* step, so the sum over micro-batches and processes is the
same number however it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .encoding import Encoded
from .hidden import pad, predictors
from .linear_divergence import RowLoss, Segment
from .teacher import HiddenCache, marked

Mask = Callable[[Encoded], Sequence[bool]]


def answer(encoded: Encoded) -> Sequence[bool]:
    """Every token that the model itself would say."""
    return encoded.answer


def scored(encoded: Encoded) -> Sequence[bool]:
    """The tokens to unlearn."""
    return encoded.scored


def kept(encoded: Encoded) -> Sequence[bool]:
    """The tokens of an answer that are not unlearned."""
    return [a and not s for a, s in zip(encoded.answer, encoded.scored)]


@dataclass(frozen=True)
class Term:
    """One part of the objective: a loss on the marked tokens of one set of records.

    Attributes:
        name: how it is logged ("forget", "keep", "replay", "retain").
        records: the name of the set it reads.
        mask: which target positions count.
        loss: value and gradient of a chunk of rows (:data:`rkld.linear_divergence.RowLoss`).
        weight: factor in the objective (λ, ρ), no unit.
        unit: what the loss is averaged over within an optimizer step.
        cached: which cached hidden states the loss needs ("original", "strengthened", "uninformed").
    """

    name: str
    records: str
    mask: Mask
    loss: RowLoss
    weight: float = 1.0
    unit: Literal["token", "record"] = "token"
    cached: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objective:
    """Terms over sets of records. Sets other than the first are drawn beside it, as many records per step.

    Attributes:
        sets: records by name; the first set decides the number of steps of an epoch.
        terms: in the order their rows are laid out.
        cache: where the terms' hidden states lie (None if no term needs any).
    """

    sets: Mapping[str, Sequence[Encoded]]
    terms: Sequence[Term]
    cache: HiddenCache | None = None


def plan_steps(sizes: Mapping[str, int], batch_size: int, epochs: int, seed: int) -> list[dict[str, list[int]]]:
    """The records of every optimizer step, from the seed alone.

    The first set is shuffled anew each epoch and cut into batches (the last may be smaller). Each other set runs
    through its own shuffles beside it, ``batch_size`` records a step, none twice in a step.

    Returns:
        one mapping set → indices per step, ``epochs · ceil(first / batch_size)`` of them.
    """
    (first, n), *others = sizes.items()
    draw = {name: torch.Generator().manual_seed(seed + 1000 * i) for i, name in enumerate(sizes)}
    waiting: dict[str, list[int]] = {name: [] for name, _ in others}
    steps = []
    for _ in range(epochs):
        order = torch.randperm(n, generator=draw[first]).tolist()
        for start in range(0, n, batch_size):
            step = {first: order[start : start + batch_size]}
            for name, size in others:
                queue, taken = waiting[name], []
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


def split(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices sorted by length and cut into ``parts`` runs whose sizes differ by at most one (some may be empty)."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    cuts = [round(len(order) * p / parts) for p in range(parts + 1)]
    return [order[a:b] for a, b in zip(cuts, cuts[1:])]


class MicroBatches(Dataset):
    """This process's micro-batches: item i of epoch e is part ``i % accumulation`` of step ``i // accumulation``.

    An item holds plain tensors, on the CPU: ``input_ids`` and ``attention_mask`` (B, L), ``rows`` (T,) positions
    that predict the marked targets, under ``terms`` for each term its rows' ``weights``, ``labels`` and cached hidden
    states, and the number of its ``tokens``, padding left out. ``epoch`` is set by the trainer.
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
        self.steps = plan_steps({name: len(s) for name, s in objective.sets.items()}, batch_size, epochs, seed)
        self.steps_per_epoch = len(self.steps) // epochs
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulation

    def __getitem__(self, item: int) -> dict:
        step = self.steps[self.epoch * self.steps_per_epoch + item // self.accumulation]
        drawn = [(name, self.objective.sets[name][i]) for name, indices in step.items() for i in indices]
        parts = split([len(e.ids) for _, e in drawn], self.accumulation * self.processes)
        mine = parts[(item % self.accumulation) * self.processes + self.process]
        # Every process must take part in every micro-batch; one without records of its own lends weightless ones.
        here = [drawn[i] for i in mine] or [min(drawn, key=lambda d: len(d[1].ids))]
        ids, attention = pad([e for _, e in here])
        rows, terms = [], {}
        for term in self.objective.terms:
            masks = [list(term.mask(e)) if name == term.records else [False] * len(e.ids) for name, e in here]
            rows.append(predictors(masks, ids.shape[1]))
            weights = self._weights(term, drawn)
            scale = self.processes if mine else 0  # processes' gradients are averaged, not summed
            inputs = {
                "weights": torch.tensor(
                    [scale * weights[e.key] for (_, e), mask in zip(here, masks) for marked in mask if marked],
                    dtype=self.dtype,
                ),
                "labels": torch.tensor(
                    [i for (_, e), mask in zip(here, masks) for i, marked in zip(e.ids, mask) if marked],
                    dtype=torch.int64,
                ),
            }
            if len(rows[-1]):
                inputs |= self._cached(term, [(e, mask) for (_, e), mask in zip(here, masks) if any(mask)])
            terms[term.name] = inputs
        return {
            "input_ids": ids, "attention_mask": attention, "rows": torch.cat(rows), "terms": terms,
            "tokens": sum(len(e.ids) for _, e in here) if mine else 0,
        }  # fmt: skip

    def _weights(self, term: Term, drawn: Sequence[tuple[str, Encoded]]) -> dict[str, float]:
        """Weight of one row of each of the step's records (by key), so that the step's rows add up to an average."""
        counts = {e.key: sum(term.mask(e)) for name, e in drawn if name == term.records}
        if term.unit == "token":
            total = sum(counts.values())
            return {key: term.weight / total for key in counts} if total else {}
        marked_records = sum(n > 0 for n in counts.values())
        return {key: term.weight / (marked_records * n) for key, n in counts.items() if n}

    def _cached(self, term: Term, records: Sequence[tuple[Encoded, Sequence[bool]]]) -> dict[str, Tensor]:
        cache, found = self.objective.cache, {}
        for name in term.cached:
            tensors = []
            for e, mask in records:
                whole = cache.read(f"{name}/{term.records}", e.key)
                chosen = [m for m, kept_row in zip(mask, marked(e)) if kept_row]
                tensors.append(whole[torch.tensor(chosen)])
            found[name] = torch.cat(tensors)
        return found


def segments(terms: Sequence[Term], batch: Mapping[str, Mapping[str, Tensor]]) -> list[Segment]:
    """The terms' rows of a micro-batch as :func:`rkld.linear_divergence.linear_divergence` takes them."""
    return [
        Segment(
            weights=batch[term.name]["weights"],
            loss=term.loss,
            inputs={name: tensor for name, tensor in batch[term.name].items() if name != "weights"},
        )
        for term in terms
    ]
