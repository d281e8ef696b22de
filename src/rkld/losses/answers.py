"""Losses on whole answers: functions of an answer's log-likelihood, as NPO, SimNPO and DPO are.

Shapes: m answers, T their marked rows, d hidden size, V vocabulary size, k answers that one value takes together.

Such a loss has one slope for all tokens of an answer, ``f'(S)`` with S the answer's log-likelihood. So the answers'
likelihoods are read first, without gradients; the loss and its slopes are scalars; and what is left is cross-entropy
in which every row weighs ``-f'(S)``, chunk by chunk like any other (:mod:`rkld.losses.chunked`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.targets import RowLoss, to_labels
from rkld.models.logit_transform import NONE, LogitTransform


class Answers(NamedTuple):
    """What a loss on whole answers sees of m of them, over their marked tokens."""

    log_likelihood: Tensor
    """(m,): summed, in nats, under the student."""
    reference: Tensor
    """(m,): the same under the original; zeros where the term does not ask for "reference"."""
    tokens: Tensor
    """(m,): how many tokens, at least 1, as a float."""


AnswerLoss = Callable[..., Tensor]
"""(Answers, and those paired with them if the term has a pair) → values (m,), differentiable in log_likelihood."""


def answer_segment(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    loss: AnswerLoss,
    k: int,
    inputs: Mapping[str, Tensor],
    chunk_rows: int | None = None,
    transform: LogitTransform = NONE,
    weigh: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Segment, Tensor]:
    """The rows of answers under a loss on whole answers, as cross-entropy with weights.

    Args:
        hidden: (T, d), final hidden states of the marked rows.
        weight, bias, transform: the head, and what the model does to its output.
        k: 1, or 2 where answers are paired.
        inputs: ``weights`` (m,), factor of each value in the total; ``slots`` (T,), the answer that a row belongs to,
            ``k · number + side``; ``labels`` (T,); ``reference`` (T,) where the loss uses it.
        weigh: as of :class:`rkld.losses.objective.AnswerTerm`; default: each token counts once.

    Returns:
        a segment with the gradient of the weighted sum of the values, and that sum itself.
    """
    weights, slots, rows = inputs["weights"], inputs["slots"], {"labels": inputs["labels"]}
    ones = weights.new_ones(len(slots))

    @torch.no_grad()
    def read(values: RowLoss) -> Tensor:
        """Something of each row's logits, (T,)."""
        bare = None if bias is None else bias.detach()
        part = Segment(ones, values, rows)
        return linear_divergence(hidden.detach(), weight.detach(), bare, [part], chunk_rows, transform)[1]

    losses = read(_likelihood_alone)

    def summed(values: Tensor) -> Tensor:
        """(T,) → (m, k)"""
        total = weights.new_zeros(k * len(weights)).index_add_(0, slots, values.to(weights.dtype))
        return total.view(len(weights), k)

    shares = (
        ones if weigh is None else _shares(read(lambda logits, inputs, spare: (weigh(logits), logits)), slots, summed)
    )
    with torch.enable_grad():
        likelihood = summed(-losses * shares).requires_grad_()
        reference = summed(inputs["reference"]) if "reference" in inputs else torch.zeros_like(likelihood)
        tokens = summed(ones).clamp(min=1)
        sides = [Answers(likelihood[:, i], reference[:, i], tokens[:, i]) for i in range(k)]
        value = torch.dot(weights, loss(*sides))
        (slope,) = torch.autograd.grad(value, likelihood)
    return Segment(-slope.flatten()[slots] * shares, to_labels, rows), value.detach()


def _shares(numbers: Tensor, slots: Tensor, summed: Callable[[Tensor], Tensor]) -> Tensor:
    """Each row's number (T,) over the mean of its answer's; 1 where these are all 0."""
    total, tokens = (summed(values).flatten()[slots] for values in (numbers, torch.ones_like(numbers)))
    return torch.where(total > 0, numbers.to(total.dtype) * tokens / total, torch.ones_like(total))


def _likelihood_alone(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
    """Values of :func:`to_labels`, without its gradient: the logits are returned in its place, unused."""
    gold = logits.gather(-1, inputs["labels"][:, None]).squeeze(-1)
    return torch.logsumexp(logits, dim=-1) - gold, logits
