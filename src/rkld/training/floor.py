"""What the original predicts for *other* people in the place of what is scored: the floor under the teacher.

Each forget record is read again with other names in place of the person's. The mean of these readings' distributions
is that of a model that does not know the person (:func:`rkld.losses.divergences.with_floor`): however strong α is, the
student stops at what is said of strangers, in each wording. But an original that has learned the person by heart says
her facts of others, too (on the tiny world the recorded answers keep .62 to .69 of their probability under other names;
a retrained model gives them .23 to .26). So the recorded token itself is held up by the name alone that it is said of
least: what everybody's answer says stays, what is said of some is a leak.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rkld.losses.products import accurate_logits, compute_dtype
from rkld.models.invented_names import names_like
from rkld.models.language_model import LanguageModel
from rkld.models.sharded import whole
from rkld.records.encoding import Encoded, Encoder, Score, marked, records_of
from rkld.records.names import own_identifiers, swap_name
from rkld.teacher.cache import marked_hidden

NAMES = 8
"""Other people per record. One name alone carries its own associations."""

TOKENS = 512
"""The likeliest tokens of the mean distribution are kept, this many at most: what is left weighs less than any student
would notice, and all of it would take V in place of 512 numbers a position."""

RECORDS = 32
"""Read at a time, so that the states of all copies are never held together."""


def swapped_records(
    encoded: Sequence[Encoded],
    encoder: Encoder,
    lm: LanguageModel,
    identifiers: Sequence[str],
    score: Score,
    seed: int,
) -> list[Encoded]:
    """Each encoded record about up to :data:`NAMES` other people, encoded, keys "source.number".

    Only copies whose scored tokens are the source's own, one to one, are of use; others are left out.

    Args:
        lm: the original: names are of the form that it knows (:func:`rkld.models.invented_names.names_like`).
        score: as the records were encoded.
    """
    draw, found = random.Random(seed), []
    names: dict[tuple[str, ...], list[str]] = {}
    records = records_of(encoded)
    for record, source in zip(records, encoded, strict=True):
        own = own_identifiers(record, records, identifiers)
        if own not in names:
            names[own] = names_like(lm, own, 4 * NAMES, draw)
        target = [i for i, s in zip(source.ids, source.scored) if s]
        for number, name in enumerate(draw.sample(names[own], min(NAMES, len(names[own])))):
            swapped = swap_name(record, own, name)
            if swapped is None:
                continue
            copy = encoder.encode(swapped, score)
            if [i for i, s in zip(copy.ids, copy.scored) if s] == target:
                found.append(replace(copy, key=f"{record.key}.{number}"))
    return found


def floors(
    lm: LanguageModel, encoded: Sequence[Encoded], swapped: Sequence[Encoded]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The mean of the copies' distributions at the sources' marked rows; of the recorded token, the least of them.

    Shapes: n marked rows of a record, K = :data:`TOKENS` or V.

    Yields:
        (key, token ids (n, K) int32, their log-probabilities (n, K) float32 or the model's dtype, if finer). Rows that
        are not scored, and records without a usable copy, hold −∞: no floor.
    """
    copies: dict[str, list[Encoded]] = {}
    for copy in swapped:
        copies.setdefault(copy.key.rsplit(".", 1)[0], []).append(copy)
    for start in range(0, len(encoded), RECORDS):
        block = encoded[start : start + RECORDS]
        several = [copy for e in block for copy in copies.get(e.key, ())]
        states = dict(marked_hidden(lm, several))
        for e in block:
            yield (e.key, *_floor(lm, e, [states[c.key][_scored_rows(c)] for c in copies.get(e.key, ())]))


def _scored_rows(e: Encoded) -> Tensor:
    """(marked tokens,) bool: which of them are scored."""
    return torch.tensor([s for s, m in zip(e.scored, marked(e)) if m])


@torch.no_grad()
def _floor(lm: LanguageModel, e: Encoded, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    weight, bias = whole(lm.head.weight), None if lm.head.bias is None else whole(lm.head.bias)
    dtype = compute_dtype(weight)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    accurate = torch.promote_types(dtype, torch.float32)
    rows, kept = _scored_rows(e), min(TOKENS, len(weight))
    ids = torch.zeros(len(rows), kept, dtype=torch.int32)
    log_probs = torch.full((len(rows), kept), -torch.inf, dtype=accurate)
    if states:
        total = torch.zeros(int(rows.sum()), len(weight), dtype=accurate, device=weight.device)
        logits = torch.empty_like(total)
        recorded = torch.tensor([[i] for i, s in zip(e.ids, e.scored) if s], device=weight.device)
        least = torch.ones_like(recorded, dtype=accurate)
        for hidden in states:  # len(states) × (scored rows, d)
            moved = hidden.to(weight.device, dtype)
            accurate_logits(moved, weight, bias, logits)
            probs = torch.softmax(lm.logit_transform.apply_(logits), dim=-1)
            total += probs
            least = torch.minimum(least, probs.gather(1, recorded))
        top = total.div_(len(states)).scatter_(1, recorded, least).topk(kept, dim=-1)
        ids[rows], log_probs[rows] = top.indices.to("cpu", torch.int32), top.values.log().cpu()
    return ids, log_probs


def write_floors(
    write: Callable[[str, Iterator[tuple[str, Tensor]]], None], floors: Iterator[tuple[str, Tensor, Tensor]]
) -> None:
    """Both parts into the cache, by ``write`` (:meth:`rkld.teacher.cache.HiddenCache.write`)."""
    found = list(floors)
    write("uninformed_ids/forget", ((key, ids) for key, ids, _ in found))
    write("uninformed/forget", ((key, log_probs) for key, _, log_probs in found))
