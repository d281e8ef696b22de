"""How likely a model holds its records' answers, token by token, by teacher forcing.

Shapes: ``B`` records in a batch, ``L`` positions of the longest of them, ``d`` hidden size, ``T`` marked
tokens, ``V`` vocabulary size. Logits are made for ``ROWS`` marked tokens at a time, never ``(B, L, V)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F

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
    batch_tokens: int = 4096,
) -> list[np.ndarray]:
    """Negative log-likelihood, in nats, of every marked token given all tokens before it.

    Returns one float64 array per record, in the order given, of shape (marked tokens of that record,); it is
    empty where nothing is marked. Up to rounding, values depend neither on ``batch_tokens`` (positions per
    forward pass, padding included; a longer record goes alone) nor on the other records. The softmax is taken
    in float32, for float64 models in float64.
    """
    losses: list[np.ndarray] = [np.empty(0)] * len(encoded)
    with measuring(lm.model):
        for batch in _batches([len(record.ids) for record in encoded], batch_tokens):
            ids, attention, marked = _padded([encoded[i] for i in batch], mask, lm.device)
            if not marked.any():
                continue
            output = lm.backbone(input_ids=ids, attention_mask=attention, use_cache=False)
            hidden = output.last_hidden_state  # (B, L, d)
            # The token at position t is predicted from the hidden state at t - 1.
            rows, targets = hidden[:, :-1][marked[:, 1:]], ids[:, 1:][marked[:, 1:]]  # (T, d), (T,)
            chunks = zip(rows.split(ROWS), targets.split(ROWS), strict=True)
            flat = torch.cat([_losses(lm.head(r), t) for r, t in chunks]).double().cpu().numpy()
            ends = np.cumsum(marked.sum(dim=1).cpu().numpy())
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


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first, so that memory is short at once or never."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(
    records: Sequence[Encoded], mask: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and marked targets, each (B, L), padded on the right.

    What is padding follows from the lengths: comparing with a pad id would drop real tokens where pad is eos.
    """
    shape = (len(records), max(len(record.ids) for record in records))
    ids = torch.zeros(shape, dtype=torch.long)
    attention = torch.zeros(shape, dtype=torch.long)
    marked = torch.zeros(shape, dtype=torch.bool)
    for row, record in enumerate(records):
        length = len(record.ids)
        ids[row, :length] = torch.tensor(record.ids)
        attention[row, :length] = 1
        marked[row, :length] = torch.tensor(getattr(record, mask), dtype=torch.bool)
    return ids.to(device), attention.to(device), marked.to(device)
