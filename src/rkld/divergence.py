"""Pure losses on one row of logits per scored token, each with its gradient in closed form.

Shapes: n rows (scored tokens), V vocabulary size. Every function takes the student's raw logits (n, V) and returns
``(values, gradient)``: values (n,), and the gradient of each row's value with respect to that row's logits (n, V).
Nothing is averaged here: rows are weighted by whoever knows the whole optimizer step (:mod:`rkld.trainer`).

Forming the gradient beside the value is what lets :mod:`rkld.linear_divergence` drop the logits of a chunk before
it looks at the next one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reverse_kl(logits: Tensor, teacher_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π_θ ‖ π_t): the expectation is under the *student* (RKLD, arXiv 2406.01983, eq. 6).

    Args:
        logits: student logits, (n, V).
        teacher_log_probs: log π_t, normalised, (n, V).

    Returns:
        values (n,) in nats, and ``π_θ ⊙ (log π_θ − log π_t − KL)`` (n, V).
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    gap = log_probs - teacher_log_probs
    probs = log_probs.exp_()
    # A teacher may give a token no mass at all; where the student gives none either, 0 · (−inf + inf) counts 0.
    gap.masked_fill_(probs == 0, 0)
    values = torch.linalg.vecdot(probs, gap)
    return values, gap.sub_(values[:, None]).mul_(probs)


def forward_kl(logits: Tensor, teacher_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π_t ‖ π_θ): the expectation is under the teacher (the paper's ablation; +KL, keep and replay terms).

    Args and shapes as in :func:`reverse_kl`.

    Returns:
        values (n,) in nats, and ``π_θ − π_t`` (n, V).
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    teacher_probs = teacher_log_probs.exp()
    gap = (teacher_log_probs - log_probs).masked_fill_(teacher_probs == 0, 0)
    values = torch.linalg.vecdot(teacher_probs, gap)
    return values, log_probs.exp_().sub_(teacher_probs)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """−log π_θ(label), for fine-tuning and the paper's +RT term.

    Args:
        logits: student logits, (n, V).
        labels: token ids, (n,) int64.

    Returns:
        values (n,) in nats, and ``π_θ − onehot(label)`` (n, V).
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    values = -log_probs.gather(-1, labels[:, None]).squeeze(-1)
    gradient = log_probs.exp_()
    gradient.scatter_add_(-1, labels[:, None], gradient.new_full((len(labels), 1), -1.0))
    return values, gradient


def composite_logits(original: Tensor, strengthened: Tensor, alpha: float) -> Tensor:
    """The teacher ``l_t = l_o − α · ReLU(l_aug − l_o)`` on raw logits (RKLD, arXiv 2406.01983, eq. 4–5).

    Raw logits on purpose: in log-probabilities almost nothing but the gold token could rise.

    Args:
        original, strengthened: (n, V); ``strengthened`` is used as scratch space and overwritten.
        alpha: strength of the suppression, no unit.
    """
    risen = strengthened.sub_(original).relu_()
    return torch.sub(original, risen, alpha=alpha)


def with_floor(teacher_log_probs: Tensor, uninformed_log_probs: Tensor) -> Tensor:
    """The teacher, never below what a model that does not know the person would say: normalised max of the two.

    Pushing down every token that rose leaves nothing sensible where all sensible tokens rose together: the digits
    inside a year all do, and the student then continues "18" with letters. The uninformed distribution, the
    original's own for other people's names in the same place, keeps the well-formed alternatives and so lets a fact
    be forgotten as a whole. It also bounds forgetting from below: nobody can see a hole where a guess should be.

    Args:
        teacher_log_probs, uninformed_log_probs: normalised, (n, V).

    Returns:
        normalised log-probabilities, (n, V).
    """
    return torch.log_softmax(torch.maximum(teacher_log_probs, uninformed_log_probs), dim=-1)
