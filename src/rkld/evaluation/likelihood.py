"""How likely a model holds its records' answers, token by token, by teacher forcing.

Records that begin alike (one question, several answers; one system prompt) are read in prefix trees, so what they
share is computed once; a token that several records predict at the same place is scored once.

Shapes: ``d`` hidden size, ``T`` predictions of a batch, ``V`` vocabulary size. Logits are made for ``ROWS``
predictions at a time, never for whole sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from rkld import processes
from rkld.evaluation.prefix_tree import Tree, merge, pack, read, reads_trees, widest
from rkld.models.hidden_states import BATCH_TOKENS, batches
from rkld.models.modes import evaluating
from rkld.models.sharded import gathered, is_sharded

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded


ROWS = 256  # tokens per call of the head: 48 MiB of float32 logits at V = 49152


@contextlib.contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """Without gradients, dropout and autocast, in the dtype of the weights; modes are restored afterwards.

    ``no_grad``, not ``inference_mode``: buffers that a forward pass creates must stay usable in training.
    """
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class Scores(NamedTuple):
    """A model's scores of the T marked tokens of one record, given all tokens before each."""

    losses: np.ndarray
    """(T,) float64: negative log-likelihood, in nats."""
    margins: np.ndarray
    """(T,) float64: its logit less the largest of all others; greedy decoding takes a token where it is positive."""


def answer_scores(
    lm: LanguageModel,
    encoded: Sequence[Encoded],
    *,
    mask: Literal["answer", "scored"] = "answer",
    batch_tokens: int = BATCH_TOKENS,
) -> list[Scores]:
    """Loss and margin of every marked token, by one teacher-forced reading of every record.

    Returns one :class:`Scores` per record, in the order given, empty where nothing is marked. Up to rounding, values
    depend neither on ``batch_tokens`` (positions per forward pass, padding included; a longer record goes alone) nor
    on the other records. The softmax is taken in float32, for float64 models in float64. Of several processes each
    reads a part of the records.
    """

    def scores(some: Sequence[Encoded], _: object) -> list[Scores]:
        return gathered(lm.model, lambda: _answer_scores(lm, some, mask, batch_tokens))

    return processes.shared(encoded, scores, split=not is_sharded(lm.model))


def _answer_scores(
    lm: LanguageModel, encoded: Sequence[Encoded], mask: Literal["answer", "scored"], batch_tokens: int
) -> list[Scores]:
    marked = [[t for t, m in enumerate(getattr(record, mask)) if m] for record in encoded]
    # The last marked token is predicted by those before it: it and what follows need not be read.
    sequences = [record.ids[: places[-1]] if places else () for record, places in zip(encoded, marked, strict=True)]
    targets = [{t - 1: record.ids[t] for t in places} for record, places in zip(encoded, marked, strict=True)]
    scores = [Scores(np.empty(0), np.empty(0))] * len(encoded)
    with measuring(lm.model):
        trees = pack(sequences, widest(lm, batch_tokens))
        branching = [tree for tree in trees if tree.branches]
        if branching and not reads_trees(lm, min(branching, key=lambda tree: len(tree.ids))):
            trees, branching = [merge({i: ids}) for i, ids in enumerate(sequences) if ids], []
        for kind in (branching, [tree for tree in trees if not tree.branches]):
            for batch in batches([len(tree.ids) for tree in kind], batch_tokens):
                for i, found in _tree_scores(lm, [kind[n] for n in batch], targets).items():
                    scores[i] = found
    return scores


def answer_losses(
    lm: LanguageModel,
    encoded: Sequence[Encoded],
    *,
    mask: Literal["answer", "scored"] = "answer",
    batch_tokens: int = BATCH_TOKENS,
) -> list[np.ndarray]:
    """The losses of :func:`answer_scores` alone, one float64 array (marked tokens,) per record."""
    return [scores.losses for scores in answer_scores(lm, encoded, mask=mask, batch_tokens=batch_tokens)]


def probability(
    lm: LanguageModel,
    encoded: Sequence[Encoded],
    *,
    mask: Literal["answer", "scored"] = "answer",
    scores: Sequence[Scores] | None = None,
) -> np.ndarray:
    """``exp(−L)`` per record, shape (records,), float64: its marked tokens' geometric mean probability.

    ``L`` is the mean loss per marked token, the end of turn included (TOFU, arXiv 2401.06121). ``scores`` are those
    of the records where :func:`answer_scores` has made them already. ValueError where a record has no marked token.
    """
    scores = answer_scores(lm, encoded, mask=mask) if scores is None else scores
    for record, found in zip(encoded, scores, strict=True):
        if not found.losses.size:
            raise ValueError(f"record {record.key} has no {mask} token, so it has no probability")
    return np.exp([-found.losses.mean() for found in scores])


def _tree_scores(lm: LanguageModel, trees: Sequence[Tree], targets: Sequence[dict[int, int]]) -> dict[int, Scores]:
    """Scores of the trees' records, by number; ``targets`` holds for each record what follows which position."""
    hidden = read(lm, trees)  # (B, L, d)
    length = hidden.shape[1]
    predictions: dict[tuple[int, int], int] = {}  # (flattened position, token) → its number, each made once
    wanted = {
        i: [
            predictions.setdefault((row * length + path[t], token), len(predictions)) for t, token in targets[i].items()
        ]
        for row, tree in enumerate(trees)
        for i, path in tree.paths.items()
    }
    at, tokens = torch.tensor(list(predictions), device=lm.device).T  # (T,) each
    rows = hidden.flatten(0, 1).index_select(0, at)  # (T, d)
    chunks = zip(torch.split(rows, ROWS), torch.split(tokens, ROWS), strict=True)
    flat = torch.cat([_losses_and_margins(lm.logits(r), t) for r, t in chunks], dim=1).double().cpu().numpy()  # (2, T)
    return {i: Scores(*flat[:, numbers]) for i, numbers in wanted.items()}


def _losses_and_margins(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(2, T) of logits (T, V), which are used up."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(logits, targets, reduction="none")
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter_(1, targets[:, None], -torch.inf).amax(1)
    return torch.stack([losses, own - others])
