"""What is minimised: terms over sets of records, and which records each optimizer step sees.

A step's records are drawn first, from the seed alone; only then are they split into micro-batches for accumulation
and processes. Every row carries its weight in the *whole* step, so the sum over micro-batches and processes is the
same number however it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from rkld.losses.answers import AnswerLoss, answer_segment
from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.targets import Loss
from rkld.models.logit_transform import NONE, LogitTransform
from rkld.records.encoding import Encoded

Mask = Callable[[Encoded], Sequence[bool]]

StateLoss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""(hidden states (n, d), the same rows of the term's inputs) → values (n,), differentiable in the states."""

REFUSALS, ALTERNATES, OWN = "_refusals", "_alternates", "_own"
"""A set of this ending holds the questions of another, in its order and under its keys, with other answers: refusals,
untrue ones, or those that the student itself gives."""


def answer(encoded: Encoded) -> Sequence[bool]:
    """Every token that the model itself would say."""
    return encoded.answer


def scored(encoded: Encoded) -> Sequence[bool]:
    """The tokens to unlearn."""
    return encoded.scored


def own_tokens(encoded: Encoded) -> Sequence[int]:
    """The record's own."""
    return encoded.ids


def kept(encoded: Encoded) -> Sequence[bool]:
    """The tokens of an answer that are not unlearned."""
    return [a and not s for a, s in zip(encoded.answer, encoded.scored)]


@dataclass(frozen=True)
class Constraint:
    """A bound on a term's value, held by its weight: after each optimizer step the weight grows by ``rate`` times what
    the value is above the bound, and falls, not below 0, by what it is below it (dual ascent).

    Attributes:
        bound: on the term's mean, in its unit (nats).
        rate: of the weight's steps, per nat.
        wait: epochs before the first.
    """

    bound: float
    rate: float
    wait: int = 0

    def next_weight(self, weight: float, value: float) -> float:
        """The weight after a step in which the term's mean was ``value``."""
        return max(0.0, weight + self.rate * (value - self.bound))


@dataclass(frozen=True)
class Term:
    """One part of the objective: a loss on the marked tokens of one set of records.

    Attributes:
        name: how it is logged ("forget", "keep", "replay", "retain").
        records: the name of the set it reads.
        mask: which target positions count.
        loss: value and gradient of a chunk of rows (:mod:`rkld.losses.targets`).
        weight: factor in the objective (λ, ρ), no unit.
        unit: what the loss is averaged over within an optimizer step.
        cached: which cached parts of the records the loss needs ("original", "strengthened", "reference", …), as
            :func:`rkld.training.strengthening.fill_cache` names them. They join the loss's inputs, beside ``labels``.
        labels: a record's ``labels``, (T,) token ids of which the marked ones count: its own, or what is to be said in
            their place.
        constraint: a bound on the term, whose weight is then learned; only of terms on tokens.
    """

    name: str
    records: str
    mask: Mask
    loss: Loss
    weight: float = 1.0
    unit: Literal["token", "record"] = "token"
    cached: tuple[str, ...] = ()
    labels: Callable[[Encoded], Sequence[int]] = own_tokens
    constraint: Constraint | None = None

    @property
    def masks(self) -> dict[str, Mask]:
        """Every set the term reads, and which positions of it."""
        return {self.records: self.mask}


@dataclass(frozen=True)
class AnswerTerm(Term):
    """A loss on whole answers (:data:`rkld.losses.answers.AnswerLoss`), averaged over the records of a step.

    Attributes:
        pair: a set that goes with ``records`` (:data:`REFUSALS`, :data:`ALTERNATES`): the loss takes both answers to a
            question together.
        weigh: a number of each token, at least 0, of the student's logits there: (n, V) → (n,). A token's
            log-likelihood then counts in its answer's by its share of them, held fixed, times the answer's tokens.
    """

    loss: AnswerLoss  # type: ignore[assignment]
    unit: Literal["record"] = "record"
    pair: str | None = None
    weigh: Callable[[Tensor], Tensor] | None = None

    @property
    def masks(self) -> dict[str, Mask]:
        return super().masks | ({} if self.pair is None else {self.pair: answer})


@dataclass(frozen=True)
class StateTerm(Term):
    """A loss on hidden states (:data:`StateLoss`) at the positions that predict the marked tokens.

    Attributes:
        layer: the block, from 0, whose output is read.
    """

    loss: StateLoss  # type: ignore[assignment]
    layer: int = 0


class CachedStates(Protocol):
    """Where cached parts of records are read from (:class:`rkld.teacher.cache.HiddenCache`)."""

    def read(self, part: str, key: str) -> Tensor:
        """One record's tensor of a part, "PART/SET", on the CPU."""


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
    cache: CachedStates | None = None

    @classmethod
    def of(
        cls, sets: Mapping[str, Sequence[Encoded]], terms: Sequence[Term], cache: CachedStates | None = None
    ) -> Objective:
        """Of all ``sets`` those that a term reads."""
        return cls({n: found for n, found in sets.items() if any(n in term.masks for term in terms)}, terms, cache)


def evaluate(
    terms: Sequence[Term],
    batch: Mapping[str, Any],
    states: Mapping[int | None, Tensor],
    head: nn.Linear,
    chunk_rows: int | None = None,
    transform: LogitTransform = NONE,
    scales: Mapping[str, float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a micro-batch adds to the objective.

    Args:
        batch: an item of :class:`MicroBatches`. Where a model is spread over devices, it, the states and the head may
            each lie on another.
        states: hidden states of all positions, (B · L, d), by layer (:func:`rkld.models.hidden_states.states`).
        scales: factors of terms on tokens by name, beside their weights; by default 1.

    Returns:
        the sum (scalar, differentiable), and each term's part of it without its scale, detached.
    """
    total, parts = torch.zeros((), device=head.weight.device), {}
    scales = scales or {}
    on_logits = [term for term in terms if not isinstance(term, StateTerm)]
    if on_logits:
        hidden = states[None].index_select(0, batch["rows"].to(states[None].device)).to(head.weight.device)
        counts = [len(batch["terms"][term.name]["labels"]) for term in on_logits]
        segments = []
        for term, rows in zip(on_logits, hidden.split(counts)):
            inputs = {name: tensor.to(head.weight.device) for name, tensor in batch["terms"][term.name].items()}
            if isinstance(term, AnswerTerm):
                segment, parts[term.name] = answer_segment(
                    rows, head.weight, head.bias, term.loss, len(term.masks), inputs, chunk_rows, transform, term.weigh
                )
            else:
                weights = inputs["weights"] * scales.get(term.name, 1.0)
                segment = Segment(weights, term.loss, {n: t for n, t in inputs.items() if n != "weights"})
            segments.append(segment)
        total, values = linear_divergence(hidden, head.weight, head.bias, segments, chunk_rows, transform)
        for term, found in zip(on_logits, values.split(counts)):
            if term.name not in parts:
                parts[term.name] = torch.dot(batch["terms"][term.name]["weights"].to(found.device), found)
    for term in terms:
        if isinstance(term, StateTerm):
            layer = states[term.layer]
            inputs = {name: tensor.to(layer.device) for name, tensor in batch["terms"][term.name].items()}
            rows = layer.index_select(0, inputs["rows"])
            found = term.loss(rows, inputs) if len(rows) else rows.sum(-1)
            value = torch.dot(inputs["weights"], found.to(inputs["weights"].dtype)).to(total.device)
            total, parts[term.name] = total + value, value.detach()
    # Whole answers lend the total their gradient, but not their value.
    value = sum((scales.get(name, 1.0) * part for name, part in parts.items()), torch.zeros_like(total))
    return total + (value - total).detach(), parts
