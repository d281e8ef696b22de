"""Pure losses on one row of logits per scored token, each with its gradient in closed form.

Shapes: n rows (scored tokens), V vocabulary size. Every function takes the student's raw logits (n, V) and returns
``(values, gradient)``: values (n,), and the gradient of each row's value with respect to that row's logits (n, V).
Nothing is averaged here: rows are weighted where the whole optimizer step is known (:mod:`rkld.losses.micro_batches`).

Forming the gradient beside the value is what lets :mod:`rkld.losses.chunked` drop the logits of a chunk before
it looks at the next one. Buffers (n, V) are what costs there, so **the logits are overwritten**: the gradient may lie
in their memory. A ``spare`` buffer of their shape and dtype saves one allocation more. The teacher's are left as is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def reverse_kl(logits: Tensor, teacher_log_probs: Tensor, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """KL(π_θ ‖ π_t): the expectation is under the *student* (RKLD, arXiv 2406.01983, eq. 6).

    Args:
        logits: student logits, (n, V), overwritten.
        teacher_log_probs: log π_t, normalised, (n, V).
        spare: (n, V), overwritten.

    Returns:
        values (n,) in nats, and ``π_θ ⊙ (log π_θ − log π_t − KL)`` (n, V).
    """
    log_probs = _finite(torch.log_softmax(logits, dim=-1, out=spare))
    gap = torch.sub(log_probs, _finite(teacher_log_probs, out=logits), out=logits)
    return _expected(log_probs.exp_(), gap)


def forward_kl(logits: Tensor, teacher_log_probs: Tensor, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """KL(π_t ‖ π_θ): the expectation is under the teacher (the paper's ablation; +KL, keep and replay terms).

    Args and shapes as in :func:`reverse_kl`.

    Returns:
        values (n,) in nats, and ``π_θ − π_t`` (n, V).
    """
    log_probs = _finite(torch.log_softmax(logits, dim=-1, out=spare))
    teacher_probs = teacher_log_probs.exp()
    gap = _finite(teacher_log_probs, out=logits).sub_(log_probs)
    values = gap.mul_(teacher_probs).sum(-1)
    return values, torch.sub(log_probs.exp_(), teacher_probs, out=logits)


def jensen_shannon(logits: Tensor, teacher_log_probs: Tensor, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """½ KL(π_t ‖ m) + ½ KL(π_θ ‖ m) with ``m = (π_t + π_θ) / 2``: symmetric, and at most log 2.

    The generalised Jensen–Shannon divergence of GKD (Agarwal et al. 2024, arXiv 2306.13649, eq. 1) at β = ½. The
    derivative with respect to m vanishes, so only the student's half has a gradient.

    Args and shapes as in :func:`reverse_kl`.

    Returns:
        values (n,) in nats, and ``½ π_θ ⊙ (log π_θ − log m − KL(π_θ ‖ m))`` (n, V).
    """
    log_probs = _finite(torch.log_softmax(logits, dim=-1, out=spare))
    log_mean = torch.logaddexp(log_probs, teacher_log_probs).sub_(math.log(2))
    gap = torch.sub(log_probs, log_mean, out=logits)
    student_kl, gradient = _expected(log_probs.exp_(), gap)
    teacher_gap = _finite(teacher_log_probs, out=log_probs).sub_(log_mean)
    teacher_kl = teacher_gap.mul_(torch.exp(teacher_log_probs, out=log_mean)).sum(-1)
    return (teacher_kl + student_kl) / 2, gradient.div_(2)


def cross_entropy(logits: Tensor, labels: Tensor, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """−log π_θ(label), for fine-tuning and the paper's +RT term.

    Args:
        logits: student logits, (n, V), overwritten.
        labels: token ids, (n,) int64.
        spare: (n, V), overwritten.

    Returns:
        values (n,) in nats, and ``π_θ − onehot(label)`` (n, V).
    """
    log_probs = torch.log_softmax(logits, dim=-1, out=spare)
    values = -log_probs.gather(-1, labels[:, None]).squeeze(-1)
    gradient = torch.exp(log_probs, out=logits)
    gradient.scatter_add_(-1, labels[:, None], gradient.new_full((len(labels), 1), -1.0))
    return values, gradient


def to_uniform(logits: Tensor, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """KL(U ‖ π_θ) with U uniform over the vocabulary: 0 where the model knows nothing.

    Args and shapes as in :func:`cross_entropy`.

    Returns:
        values (n,) in nats, ``−log V − mean_v log π_θ(v)``, and ``π_θ − 1/V`` (n, V).
    """
    log_probs = torch.log_softmax(logits, dim=-1, out=spare)
    values = -math.log(logits.shape[-1]) - log_probs.mean(-1)
    return values, torch.exp(log_probs, out=logits).sub_(1 / logits.shape[-1])


def weighted_ascent(
    logits: Tensor, labels: Tensor, weigh: Callable[[Tensor], Tensor], spare: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``w(p) · log π_θ(label)`` with p the label's own probability: gradient ascent with weights of each token's.

    The weight is a constant where the gradient is formed.

    Args:
        weigh: p (n,) → w (n,).
        Others as of :func:`cross_entropy`.

    Returns:
        values (n,) in nats, and ``w · (onehot(label) − π_θ)`` (n, V).
    """
    losses, gradient = cross_entropy(logits, labels, spare)
    weights = weigh(torch.exp(-losses))
    return losses.mul_(weights).neg_(), gradient.mul_(weights[:, None]).neg_()


def entropy(logits: Tensor) -> Tensor:
    """Of the distributions of logits (n, V), in nats (n,)."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return -(log_probs.exp() * _finite(log_probs)).sum(-1)


def jensen_shannon_to(logits: Tensor, labels: Tensor, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Jensen–Shannon divergence of π_θ and the distribution that is certain of the label, in closed form.

    With p the label's probability it is ``½ (p log p − (1 + p) log(1 + p)) + log 2``: every other token's share of it
    is its probability times log 2.

    Args and shapes as in :func:`cross_entropy`.

    Returns:
        values (n,) in nats, at most log 2, and ``½ p log(p / (1 + p)) · (onehot(label) − π_θ)`` (n, V).
    """
    losses, gradient = cross_entropy(logits, labels, spare)
    p = torch.exp(-losses)
    more = torch.log1p(p)
    values = (-p * losses - (1 + p) * more) / 2 + math.log(2)
    return values, gradient.mul_((p * (losses + more) / 2)[:, None])


def _finite(log_probs: Tensor, out: Tensor | None = None) -> Tensor:
    """A log-probability of −inf as the lowest number there is, in place or into ``out``: 0 · log 0 then counts 0."""
    return torch.clamp(log_probs, min=torch.finfo(log_probs.dtype).min, out=log_probs if out is None else out)


def _expected(probs: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ π ⊙ gap`` (n,), and ``π ⊙ (gap − Σ π ⊙ gap)``, its gradient for a KL, in the memory of ``gap``."""
    weighted = gap.mul_(probs)
    values = weighted.sum(-1)
    return values, weighted.addcmul_(probs, values[:, None], value=-1)


def composite_logits(original: Tensor, strengthened: Tensor, alpha: float) -> Tensor:
    """The teacher ``l_t = l_o − α · ReLU(l_aug − l_o)`` on raw logits (RKLD, arXiv 2406.01983, eq. 4–5).

    Raw logits on purpose: in log-probabilities almost nothing but the gold token could rise.

    Args:
        original, strengthened: (n, V); the result takes the memory of ``strengthened``. Rounding in either is
            multiplied by α: they are to be of float32 at least (:func:`rkld.losses.chunked.accurate_logits`).
        alpha: strength of the suppression, no unit.
    """
    return suppressed_logits(original, strengthened.sub_(original), alpha)


def suppressed_logits(original: Tensor, rise: Tensor, alpha: float) -> Tensor:
    """``l_o − α · ReLU(rise)``, (n, V), in the memory of ``rise`` = ``l_aug − l_o``: :func:`composite_logits`."""
    return torch.sub(original, rise.relu_(), alpha=alpha, out=rise)


def with_floor(log_probs: Tensor, normaliser: Tensor | float, ids: Tensor, least: Tensor) -> None:
    """The teacher, in place, never below what a model that does not know the person would say; to be normalised again.

    Pushing down every token that rose leaves nothing sensible where all sensible tokens rose together: the digits
    inside a year all do, and the student then continues "18" with letters. The uninformed distribution, the
    original's own for other people's names in the same place, keeps the well-formed alternatives and so lets a fact
    be forgotten as a whole. It also bounds forgetting from below: nobody can see a hole where a guess should be.

    Args:
        log_probs: the teacher's, plus ``normaliser`` (n, 1) or 0; (n, V).
        ids, least: tokens and their log-probabilities under the uninformed model, (n, K); a row of −∞ has no floor.
    """
    ids = ids.long()
    now = log_probs.gather(1, ids)
    log_probs.scatter_(1, ids, torch.maximum(now, (least + normaliser).to(now.dtype)))
