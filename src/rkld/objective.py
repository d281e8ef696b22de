"""What is minimised: terms over sets of records, and which records each optimizer step sees.

A step's records are drawn first, from the seed alone; only then are they split into micro-batches for accumulation
and processes. Every row carries its weight in the *whole* step, so the sum over micro-batches and processes is the
same number however it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .answer_loss import AnswerLoss, answer_segment, to_labels as to_labels
from .encoding import Encoded
from .hidden import pad, predictors
from .linear_divergence import RowLoss, Segment, linear_divergence
from .teacher import HiddenCache, marked

Mask = Callable[[Encoded], Sequence[bool]]

StateLoss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""(hidden states (n, d), the same rows of the term's inputs) → values (n,), differentiable in the states."""

REFUSALS = "_refusals"
"""A set of this ending holds the questions of another, in its order and under its keys, with refusals for answers."""


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
        cached: which cached parts of the records the loss needs ("original", "strengthened", "reference", …), as
            :func:`rkld.strengthening.fill_cache` names them. They join the inputs of the loss, beside ``labels``.
    """

    name: str
    records: str
    mask: Mask
    loss: RowLoss
    weight: float = 1.0
    unit: Literal["token", "record"] = "token"
    cached: tuple[str, ...] = ()

    @property
    def masks(self) -> dict[str, Mask]:
        """Every set the term reads, and which positions of it."""
        return {self.records: self.mask}


@dataclass(frozen=True)
class AnswerTerm(Term):
    """A loss on whole answers (:data:`rkld.answer_loss.AnswerLoss`), averaged over the records of a step.

    Attributes:
        pair: a set that goes with ``records`` (:data:`REFUSALS`): the loss takes both answers to a question together.
    """

    loss: AnswerLoss
    unit: Literal["record"] = "record"
    pair: str | None = None

    @property
    def masks(self) -> dict[str, Mask]:
        return super().masks | ({} if self.pair is None else {self.pair: answer})


@dataclass(frozen=True)
class StateTerm(Term):
    """A loss on hidden states (:data:`StateLoss`) at the positions that predict the marked tokens.

    Attributes:
        layer: the block, from 0, whose output is read.
    """

    loss: StateLoss
    layer: int = 0


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

    @classmethod
    def of(
        cls, sets: Mapping[str, Sequence[Encoded]], terms: Sequence[Term], cache: HiddenCache | None = None
    ) -> Objective:
        """Of all ``sets`` those that a term reads."""
        return cls({n: found for n, found in sets.items() if any(n in term.masks for term in terms)}, terms, cache)


def companions(names: Collection[str]) -> dict[str, str]:
    """Sets that are not drawn, but come with another: its i-th record is where the other's i-th is."""
    return {name: of for name in names if name.endswith(REFUSALS) and (of := name.removesuffix(REFUSALS)) in names}


def units(
    sets: Mapping[str, Sequence[Encoded]], step: Mapping[str, Sequence[int]]
) -> list[list[tuple[str, Encoded]]]:
    """The records of a step, with the name of their set, each together with those that come with it.

    A unit stays in one micro-batch.

    Args:
        step: indices by set, as of :func:`plan_steps`.
    """
    beside = companions(sets)
    return [
        [(name, sets[name][i]), *((c, sets[c][i]) for c, of in beside.items() if of == name)]
        for name, indices in step.items()
        for i in indices
    ]


def plan_steps(sizes: Mapping[str, int], batch_size: int, epochs: int, seed: int) -> list[dict[str, list[int]]]:
    """The records of every optimizer step, from the seed alone.

    The first set is shuffled anew each epoch and cut into batches (the last may be smaller). Each other set runs
    through its own shuffles beside it, ``batch_size`` records a step, none twice in a step.

    Companions (:func:`companions`) are not drawn.

    Returns:
        one mapping set → indices per step, ``epochs · ceil(first / batch_size)`` of them.
    """
    beside = companions(sizes)
    (first, n), *others = ((name, size) for name, size in sizes.items() if name not in beside)
    sizes = {first: n, **dict(others)}
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


def longest(unit: Sequence[tuple[str, Encoded]]) -> int:
    """Tokens of the longest record of a unit."""
    return max(len(e.ids) for _, e in unit)


Marked = tuple[str, Encoded, Sequence[bool]]
"""A record with its set's name and the positions that count."""


class MicroBatches(Dataset):
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
        self.steps = plan_steps({name: len(s) for name, s in objective.sets.items()}, batch_size, epochs, seed)
        self.steps_per_epoch = len(self.steps) // epochs
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulation

    def __getitem__(self, item: int) -> dict:
        step = self.steps[self.epoch * self.steps_per_epoch + item // self.accumulation]
        found = units(self.objective.sets, step)
        parts = split([longest(unit) for unit in found], self.accumulation * self.processes)
        mine = parts[(item % self.accumulation) * self.processes + self.process]
        # Every process must take part in every micro-batch; one without records of its own lends weightless ones.
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
                    [i for _, e, mask in marks for i, marked in zip(e.ids, mask) if marked], dtype=torch.int64
                )
            }
            if isinstance(term, AnswerTerm):
                inputs |= self._answers(term, marks, weights, scale)
            else:
                found = [scale * weights[e.key] for _, e, mask in marks for marked in mask if marked]
                inputs["weights"] = torch.tensor(found, dtype=self.dtype)
            if isinstance(term, StateTerm):
                inputs["rows"] = positions
            else:
                rows.append(positions)
            if len(positions):
                inputs |= self._cached(term, [found for found in marks if any(found[2])])
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
            return {key: term.weight / total for key in counts} if total else {}
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

    def _cached(self, term: Term, marks: Sequence[Marked]) -> dict[str, Tensor]:
        found = {}
        for part in term.cached:
            tensors = []
            for name, e, mask in marks:
                whole = self.objective.cache.read(f"{part}/{name}", e.key)
                chosen = [m for m, kept_row in zip(mask, marked(e)) if kept_row]
                tensors.append(whole[torch.tensor(chosen)])
            found[part] = torch.cat(tensors)
        return found


def evaluate(
    terms: Sequence[Term],
    batch: Mapping,
    states: Mapping[int | None, Tensor],
    head: nn.Linear,
    chunk_rows: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a micro-batch adds to the objective.

    Args:
        batch: an item of :class:`MicroBatches`, on the device of the states.
        states: hidden states of all positions, (B · L, d), by layer (:func:`rkld.hidden.states`).

    Returns:
        the sum (scalar, differentiable), and each term's part of it, detached.
    """
    total, parts = torch.zeros((), device=head.weight.device), {}
    on_logits = [term for term in terms if not isinstance(term, StateTerm)]
    if on_logits:
        hidden = states[None].index_select(0, batch["rows"])
        counts = [len(batch["terms"][term.name]["labels"]) for term in on_logits]
        segments = []
        for term, rows in zip(on_logits, hidden.split(counts)):
            inputs = batch["terms"][term.name]
            if isinstance(term, AnswerTerm):
                segment, parts[term.name] = answer_segment(
                    rows, head.weight, head.bias, term.loss, len(term.masks), inputs, chunk_rows
                )
            else:
                segment = Segment(inputs["weights"], term.loss, {n: t for n, t in inputs.items() if n != "weights"})
            segments.append(segment)
        total, values = linear_divergence(hidden, head.weight, head.bias, segments, chunk_rows)
        for term, segment, found in zip(on_logits, segments, values.split(counts)):
            parts.setdefault(term.name, torch.dot(segment.weights, found))
    for term in terms:
        if isinstance(term, StateTerm):
            inputs = batch["terms"][term.name]
            rows = states[term.layer].index_select(0, inputs["rows"])
            found = term.loss(rows, inputs) if len(rows) else rows.sum(-1)
            value = torch.dot(inputs["weights"], found.to(inputs["weights"].dtype))
            total, parts[term.name] = total + value, value.detach()
    # Whole answers lend the total their gradient, but not their value.
    return total + (sum(parts.values()) - total.detach()), parts
