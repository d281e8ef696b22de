"""What the original predicts for *other* people in the place of a fact: the floor under the teacher.

Each forget record is read again with other names in place of the person's; the hidden states at its marked spans
give the distributions of a model that does not know the person (:func:`rkld.losses.divergences.with_floor`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder, marked, records_of
from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.teacher.cache import marked_hidden

NAMES = 4
"""Other people per record. Their mean distribution is the floor; one name alone carries its own associations."""


def swapped_records(
    encoded: Sequence[Encoded], encoder: Encoder, identifiers: Sequence[str], seed: int
) -> list[Encoded]:
    """Each encoded record about up to ``NAMES`` other people, encoded, keys "source.number".

    Only copies whose scored tokens are the source's own, one to one, are of use; others are left out.
    """
    names, draw, found = other_names(), random.Random(seed), []
    records = records_of(encoded)
    for record, source in zip(records, encoded, strict=True):
        own = own_identifiers(record, records, identifiers)
        target = [i for i, s in zip(source.ids, source.scored) if s]
        for number, name in enumerate(draw.sample(names, NAMES)):
            swapped = swap_name(record, own, name)
            if swapped is None:
                continue
            copy = encoder.encode(swapped, "spans")
            if [i for i, s in zip(copy.ids, copy.scored) if s] == target:
                found.append(replace(copy, key=f"{record.key}.{number}"))
    return found


def floors(
    lm: LanguageModel, encoded: Sequence[Encoded], swapped: Sequence[Encoded]
) -> tuple[Iterator[tuple[str, Tensor]], Iterator[tuple[str, Tensor]]]:
    """Hidden states of the swapped copies at the sources' marked rows, and the rows that have any.

    Shapes: n marked rows of a record, k = ``NAMES``, d hidden size.

    Returns:
        iterators of (key, (n, k, d)) and of (key, (n,) bool). Rows that are not scored, and records without a
        usable copy, hold zeros and False. Fewer than k copies are repeated.
    """
    copies: dict[str, list[Tensor]] = {}
    scored = {e.key: [s for s, m in zip(e.scored, marked(e)) if m] for e in swapped}
    for key, rows in marked_hidden(lm, swapped):
        copies.setdefault(key.rsplit(".", 1)[0], []).append(rows[torch.tensor(scored[key])])

    def states() -> Iterator[tuple[str, Tensor]]:
        width, dtype = lm.head.weight.shape[1], lm.head.weight.dtype
        for e in encoded:
            rows = torch.tensor([s for s, m in zip(e.scored, marked(e)) if m])
            whole = torch.zeros(len(rows), NAMES, width, dtype=dtype)
            if found := copies.get(e.key):
                whole[rows] = torch.stack([found[i % len(found)] for i in range(NAMES)], dim=1).to(dtype)
            yield e.key, whole

    def flags() -> Iterator[tuple[str, Tensor]]:
        for e in encoded:
            yield e.key, torch.tensor([s and e.key in copies for s, m in zip(e.scored, marked(e)) if m])

    return states(), flags()
