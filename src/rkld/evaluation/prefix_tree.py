"""Sequences that begin alike, packed into prefix trees: what they share is read once, whatever the depth of sharing.

A tree is one row of a batch, its nodes (tokens) written depth first. A node sees its ancestors alone and stands at
the position of its depth, so its hidden state is what it would be in its own sequence (tree attention: SpecInfer,
Miao et al., arXiv 2305.09781). A system prompt, a question and the first words of an answer are shared alike.

Shapes: B trees, L nodes of the largest, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rkld.models.checks import TOLERANCE
from rkld.models.hidden_states import pad

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel


ATTENTION = 1 / 2048
"""Cost of attention at a position per position it could see, relative to all else a model does there.

About 1 / (6 d) in theory, twice that as measured on a small model: a large one should share more, not less.
"""

_WINDOWS = ("sliding_window", "sliding_window_size", "window_size", "attention_window_size", "attention_chunk_size")
"""Settings of models that see no further back than so many positions."""


@dataclass
class Tree:
    """Sequences merged where they begin alike."""

    ids: list[int] = field(default_factory=list)
    """Token of each node, depth first."""
    depths: list[int] = field(default_factory=list)
    """Position of each node in its sequences."""
    ends: list[int] = field(default_factory=list)
    """Nodes ``i`` to ``ends[i] - 1`` are the node itself and its descendants."""
    paths: dict[int, list[int]] = field(default_factory=dict)
    """The nodes of every sequence, by its number."""

    @property
    def branches(self) -> bool:
        """Whether it is more than a single sequence and beginnings of it."""
        return bool(self.ids) and self.depths[-1] + 1 < len(self.ids)


def pack(sequences: Sequence[Sequence[int]], widest: int) -> list[Tree]:
    """Trees that hold every sequence (tuples of ids) but empty ones, cheapest in all, at most ``widest`` nodes each.

    In lexicographic order sequences that begin alike are neighbours, so a tree is a run of them. Where the runs are
    cut is chosen for the least estimated cost: sharing saves positions, but a wide row pays for attention. What
    shares too little stays alone, and so does a sequence longer than ``widest``.
    """
    order = sorted((i for i, ids in enumerate(sequences) if ids), key=lambda i: tuple(sequences[i]))
    found = [sequences[i] for i in order]
    shared = [0, *(common_length(a, b) for a, b in pairwise(found))]  # with the sequence before
    widest = min(widest, _never_wider(max(map(len, found), default=0)))
    least, first = [0.0], [0]  # cost of all trees of the first n sequences, and where the last of these begins
    for n in range(1, len(found) + 1):
        width = len(found[n - 1])
        best = least[n - 1] + _cost(width), n - 1
        for start in range(n - 2, -1, -1):
            width += len(found[start]) - shared[start + 1]
            if width > widest:
                break
            best = min(best, (least[start] + _cost(width), start))
        least.append(best[0])
        first.append(best[1])
    trees, end = [], len(found)
    while end:
        trees.append(merge({i: sequences[i] for i in order[first[end] : end]}))
        end = first[end]
    return trees


def merge(sequences: dict[int, Sequence[int]]) -> Tree:
    """One tree of sequences given by number, in lexicographic order."""
    tree, path = Tree(), list[int]()
    before: Sequence[int] = ()
    for number, ids in sequences.items():
        shared = common_length(before, ids)
        for node in path[shared:]:
            tree.ends[node] = len(tree.ids)
        path = path[:shared] + list(range(len(tree.ids), len(tree.ids) + len(ids) - shared))
        tree.ids += ids[shared:]
        tree.depths += range(shared, len(ids))
        tree.ends += [0] * (len(ids) - shared)
        tree.paths[number] = path
        before = ids
    for node in path:
        tree.ends[node] = len(tree.ids)
    return tree


def read(lm: LanguageModel, trees: Sequence[Tree]) -> Tensor:
    """Final hidden states of the nodes, (B, L, d), padded on the right. Mere sequences are read as always."""
    ids = pad(trees)
    inputs = {"input_ids": ids}
    if any(tree.branches for tree in trees):
        length = ids.shape[1]
        depths = [tree.depths + [0] * (length - len(tree.ids)) for tree in trees]
        ends = [tree.ends + [length] * (length - len(tree.ids)) for tree in trees]
        inputs["position_ids"] = torch.tensor(depths)
        inputs["attention_mask"] = _visible(torch.tensor(ends), lm.head.weight.dtype)
    on_device = {name: tensor.to(lm.device) for name, tensor in inputs.items()}
    hidden: Tensor = lm.backbone(**on_device, use_cache=False).last_hidden_state
    return hidden


def _visible(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask (B, 1, L, L): 0 where a node sees itself or an ancestor. ``ends`` is (B, L)."""
    node = torch.arange(ends.shape[1])
    seen = (node[None, None, :] <= node[None, :, None]) & (node[None, :, None] < ends[:, None, :])  # (B, L, L)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def widest(lm: LanguageModel, batch_tokens: int) -> int:
    """Most nodes of a tree: within a model's attention window, if it has one, nothing depends on the window."""
    windows = (getattr(lm.backbone.config, name, None) for name in _WINDOWS)
    return min([batch_tokens, *(w for w in windows if isinstance(w, int) and w > 0)])


_READS_TREES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def reads_trees(lm: LanguageModel, tree: Tree) -> bool:
    """Whether the model gives the last sequence of a branching tree the hidden states it has alone.

    Tried once per model, so that no list of architectures is needed: recurrent models carry over what stands before,
    some ignore positions or masks, others take none.
    """
    if getattr(lm.backbone.config, "_attn_implementation", None) not in (
        "eager",
        "sdpa",
    ):  # the others take no mask of this shape
        return False
    if lm.backbone not in _READS_TREES:
        _READS_TREES[lm.backbone] = _agrees(lm, tree)
    return _READS_TREES[lm.backbone]


def _agrees(lm: LanguageModel, tree: Tree) -> bool:
    path = max(tree.paths.values(), key=lambda path: path[-1])
    alone = read(lm, [merge({0: [tree.ids[node] for node in path]})])[0]  # (len(path), d)
    try:
        shared = read(lm, [tree])[0, path]
    except Exception:  # a model's own, whatever it is
        return False
    return bool((shared - alone).abs().max() <= TOLERANCE[alone.dtype] * alone.abs().max())


def _cost(width: int) -> float:
    return width * (1 + ATTENTION * width)


def _never_wider(longest: int) -> int:
    """Nodes above which a tree of sequences of at most ``longest`` tokens costs more than its two halves.

    Between two sequences near its middle it falls into w₁ ≥ (w − n) / 2 and at most w − w₁ + n nodes, with n the
    longest; solved for the w at which the two cost as much.
    """
    return math.ceil(longest + math.sqrt(6 * longest**2 + 2 * longest / ATTENTION))


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(a), len(b))
    return next((n for n in range(length) if a[n] != b[n]), length)
