"""From encoded records to final hidden states at the marked positions: the one place that pads and shifts.

Shapes: B records, L padded length, T marked positions of all records one after another, d hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

BATCH_TOKENS, PADDING = (16384, 4096) if torch.cuda.is_available() else (4096, 128)
"""Positions per forward pass where nothing is trained, padding included; and as many of padding as cost more than
another pass: about 35 for SmolLM2-135M on one core, more with more cores. A GPU takes as long for a few as for
thousands."""


class HasIds(Protocol):
    """An encoded record, or another sequence of tokens."""

    @property
    def ids(self) -> Sequence[int]: ...


def pad(encoded: Sequence[HasIds]) -> Tensor:
    """Right-padded ids, (B, L) int64.

    There is no attention mask: the models are causal (loading one that is not is refused), so nothing sees what stands
    behind it, and transformers would halt a GPU to ask whether a mask hides anything. Any id can pad; 0 always has an
    embedding row.
    """
    length = max(len(e.ids) for e in encoded)
    ids = torch.zeros((len(encoded), length), dtype=torch.int64)
    for i, e in enumerate(encoded):
        ids[i, : len(e.ids)] = torch.tensor(e.ids)
    return ids


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length, at most ``batch_tokens`` positions each, padding included.

    The longest come first, so that memory is short at once or never; a longer record goes alone. Where a batch would
    hold more than ``PADDING`` of padding, another one is begun.
    """
    batch: list[int] = []
    padding = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch:
            padding += lengths[batch[0]] - lengths[i]
            if (len(batch) + 1) * lengths[batch[0]] > batch_tokens or padding > PADDING:
                yield batch
                batch, padding = [], 0
        batch.append(i)
    if batch:
        yield batch


def predictors(masks: Sequence[Sequence[bool]], length: int) -> Tensor:
    """Where the marked targets are predicted: index into the flattened (B · L) positions, (T,) int64.

    The target at position t is predicted by the hidden state at t − 1, so position 0 can never be marked.
    """
    rows = [i * length + t - 1 for i, mask in enumerate(masks) for t, marked in enumerate(mask) if marked]
    return torch.tensor(rows, dtype=torch.int64)


def states(backbone: nn.Module, ids: Tensor, layers: Collection[int] = ()) -> dict[int | None, Tensor]:
    """Hidden states of all positions, (B · L, d): the final ones under None, and the outputs of the blocks ``layers``.

    Blocks count from 0. The last one's output is not among them: models normalise it at once.
    """
    output = backbone(input_ids=ids, use_cache=False, output_hidden_states=bool(layers))
    found = {layer: output.hidden_states[layer + 1] for layer in layers} | {None: output.last_hidden_state}
    return {layer: hidden.flatten(0, 1) for layer, hidden in found.items()}


def hidden_at(backbone: nn.Module, ids: Tensor, rows: Tensor, layer: int | None = None) -> Tensor:
    """Hidden states at the given flattened positions, (T, d): the final ones, or the output of block ``layer``."""
    found = states(backbone, ids, () if layer is None else (layer,))[layer]
    return found.index_select(0, rows.to(found.device))  # of a model that is spread over devices, the last block's
