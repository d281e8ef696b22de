"""How likely a model holds its records' answers, token by token, by teacher forcing.

Shapes: ``d`` hidden size, ``T`` marked tokens of a batch, ``V`` vocabulary size. Logits are made for ``ROWS`` marked
tokens at a time, never for whole sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..hidden import BATCH_TOKENS, batches, hidden_at, pad, predictors

if TYPE_CHECKING:
    from ..encoding import Encoded
    from ..models import LanguageModel

ROWS = 256  # tokens per call of the head: 48 MiB of float32 logits at V = 49152


@contextlib.contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """Without gradients, dropout and autocast, in the dtype of the weights; modes are restored afterwards.

    ``no_grad``, not ``inference_mode``: buffers that a forward pass creates must stay usable in training.
    """
    in_training = [module for module in model.modules() if module.training]
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module in in_training:
            module.training = True


def answer_losses(
    lm: LanguageModel,
    encoded: Sequence[Encoded],
    *,
    mask: Literal["answer", "scored"] = "answer",
    batch_tokens: int = BATCH_TOKENS,
) -> list[np.ndarray]:
    """Negative log-likelihood, in nats, of every marked token given all tokens before it.

    Returns one float64 array per record, in the order given, of shape (marked tokens of that record,); it is
    empty where nothing is marked. Up to rounding, values depend neither on ``batch_tokens`` (positions per
    forward pass, padding included; a longer record goes alone) nor on the other records. The softmax is taken
    in float32, for float64 models in float64.
    """
    losses: list[np.ndarray] = [np.empty(0)] * len(encoded)
    with measuring(lm.model):
        for batch in batches([len(record.ids) for record in encoded], batch_tokens):
            records = [encoded[i] for i in batch]
            ids, attention = pad(records)
            masks = [getattr(record, mask) for record in records]
            at = predictors(masks, ids.shape[1])
            if not len(at):
                continue
            targets = ids.flatten()[at + 1].to(lm.device)  # (T,)
            rows = hidden_at(lm.backbone, ids.to(lm.device), attention.to(lm.device), at.to(lm.device))  # (T, d)
            chunks = zip(rows.split(ROWS), targets.split(ROWS), strict=True)
            flat = torch.cat([_losses(lm.head(r), t) for r, t in chunks]).double().cpu().numpy()
            ends = np.cumsum([sum(marked) for marked in masks])
            for i, part in zip(batch, np.split(flat, ends[:-1]), strict=True):
                losses[i] = part
    return losses


def probability(
    lm: LanguageModel, encoded: Sequence[Encoded], *, mask: Literal["answer", "scored"] = "answer"
) -> np.ndarray:
    """``exp(−L)`` per record, shape (records,), float64: its marked tokens' geometric mean probability.

    ``L`` is the mean loss per marked token, the end of turn included (TOFU, arXiv 2401.06121). ValueError
    where a record has no marked token.
    """
    losses = answer_losses(lm, encoded, mask=mask)
    for record, loss in zip(encoded, losses, strict=True):
        if not loss.size:
            raise ValueError(f"record {record.key} has no {mask} token, so it has no probability")
    return np.exp([-loss.mean() for loss in losses])


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()  # (ROWS, V)
    return F.cross_entropy(logits, targets, reduction="none")
