"""The gradient that forgets and the one that holds the rest, formed apart and put together: SAGO's gate, and SAM.

Twice as many passes as for their sum, three times with SAM, and two more copies of the trained weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rkld.errors import UserError
from rkld.losses.objective import StateTerm, Term

Backward = Callable[[], Tensor]
"""Adds the gradient of a part of the objective to ``.grad`` of the trained weights, and returns its value."""

TWO_GRADIENTS = "--gate and --sam form two gradients"


def forgets(term: Term) -> bool:
    """Whether a term makes the model forget, rather than keep what it knows."""
    return term.records.partition("_")[0] == "forget" and term.name != "keep"


def check_gate(gate: str, terms: Sequence[Term]) -> None:
    """Refuse a gate without two gradients to choose between.

    Raises:
        UserError: so.
    """
    if gate != "none" and (all(map(forgets, terms)) or not any(map(forgets, terms))):
        raise UserError(
            f"--gate {gate} chooses between what forgets and what holds the rest, and here nothing does one of them: "
            "give --retain or --replay, or leave out --gate."
        )


def part_of(batch: Mapping[str, Any], terms: Sequence[Term], chosen: Sequence[Term]) -> dict[str, Any]:
    """A micro-batch (:class:`rkld.losses.micro_batches.MicroBatches`) with the rows of the ``chosen`` terms alone."""
    on_logits = [term for term in terms if not isinstance(term, StateTerm)]
    rows = batch["rows"].split([len(batch["terms"][term.name]["labels"]) for term in on_logits])
    kept = [some for term, some in zip(on_logits, rows, strict=True) if term in chosen]
    found = {term.name: batch["terms"][term.name] for term in chosen}
    return {**batch, "rows": torch.cat(kept) if kept else batch["rows"][:0], "terms": found}


class SplitGradients:
    """Both gradients of an optimizer step, over its micro-batches.

    Args:
        gate: "sago" (arXiv 2604.14808, the authors' code): a weight takes the forgetting gradient where that and the
            other have no opposite signs, else the other, never their sum. "none": their sum.
        radius: ρ of SAM (Fan et al. 2025, arXiv 2502.05374): the forgetting gradient g of a micro-batch is taken at
            ``θ + ρ g / ‖g‖``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], gate: str, radius: float) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.gate, self.radius = gate, radius
        self._sums: list[list[Tensor | None]] = []

    def add(self, first: Backward, forget: Backward, hold: Backward | None, *, last: bool) -> Tensor:
        """Form both gradients of a micro-batch; with the ``last`` of a step, put them together in ``.grad``.

        Args:
            first: the same as ``forget``, for SAM's way up: called where there is a radius.
            hold: None where nothing is held.

        Returns:
            the value of both parts.
        """
        self._sums = self._sums or [[None] * len(self.parameters) for _ in range(2)]
        with self._taken_up(first):
            value = forget()
            self._collect(0)
        if hold is not None:
            value = value + hold()
            self._collect(1)
        if last:
            for parameter, forgetting, holding in zip(self.parameters, *self._sums, strict=True):
                parameter.grad = self._together(forgetting, holding)
            self._sums = []
        return value

    @contextmanager
    def _taken_up(self, first: Backward) -> Iterator[None]:
        """The weights ρ up the forgetting gradient, and back again to the bit."""
        if not self.radius:
            yield
            return
        first()
        gradients = [p.grad for p in self.parameters]
        norms = [g.norm() for g in gradients if g is not None]
        norm = torch.stack(norms).norm() if norms else torch.zeros(())
        before = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None and norm > 0:
                    parameter.add_(gradient * (self.radius / norm))
                parameter.grad = None
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, was in zip(self.parameters, before, strict=True):
                    parameter.copy_(was)

    def _collect(self, part: int) -> None:
        """Add what lies in ``.grad`` to a part's sum, and take it away."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                there = self._sums[part][i]
                self._sums[part][i] = parameter.grad if there is None else there.add_(parameter.grad)
                parameter.grad = None

    def _together(self, forgetting: Tensor | None, holding: Tensor | None) -> Tensor | None:
        if forgetting is None or holding is None:
            return holding if forgetting is None else forgetting
        if self.gate == "sago":
            return torch.where(forgetting * holding < 0, holding, forgetting)
        return forgetting.add_(holding)
