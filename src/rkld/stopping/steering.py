"""Which forget records steer the stop and are left out of the audit, and the hashes that identify them."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rkld.records.identity import content
from rkld.records.probes import fact_groups, facts_of
from rkld.records.record import Record
from rkld.runfolder.manifest import salted
from rkld.text.matching import Matcher

FEWEST = 4
"""Forget records from which on some are set apart for the audit; of fewer, all steer."""

DEALS = 2048
"""Ways to deal out the facts that are tried; more are hardly better (TOFU's pairs, LUME)."""


@dataclass(frozen=True)
class Steering:
    """The forget records that steer, and all that the audit leaves out for it (at most half, of :data:`FEWEST` on)."""

    records: tuple[Record, ...]
    left_out: tuple[Record, ...]

    def hashes(self, salt: str) -> list[str]:
        """The sorted hashes by which the audit identifies the records in ``left_out``; equal records once."""
        return steering_hashes(self.left_out, salt)


def steering_hashes(records: Iterable[Record], salt: str) -> list[str]:
    """Sorted, equal records once."""
    return sorted({steering_hash(record, salt) for record in records})


def steering_hash(record: Record, salt: str) -> str:
    """A record's content under a run's salt: the same wherever it stands, and telling nothing without the salt."""
    return salted(salt, ["steering", *content(record)])


def split_steering(forget: Sequence[Record], identifiers: Sequence[str], seed: int) -> Steering:
    """Set apart the records that steer, from the seed alone.

    Facts are dealt out to both sides (:func:`_by_facts`). At least half of the records are left for the audit, for one
    of fewer establishes nothing. Where facts give less than a quarter of the records to either side, the records
    themselves are dealt out. Of fewer than :data:`FEWEST` all steer and none are left.
    """
    if len(forget) < FEWEST:
        return Steering(tuple(forget), tuple(forget))
    return _by_facts(forget, identifiers, seed) or _by_records(forget, seed)


def _by_facts(forget: Sequence[Record], identifiers: Sequence[str], seed: int) -> Steering | None:
    """Records whose answers say no audited fact steer; the audit leaves out all whose answers say a steering one.

    A fact that many answers say takes all of these to one side, and is forgotten last: by one deal those that steer
    are often not like those that are audited, and the stop comes too early or too late. So of :data:`DEALS` the one
    counts whose sides are most like all records. (TOFU, two authors, one deal: 13 records steered whose facts .8
    answers say, 20 were audited with 5.4, and were at .54 when the 13 were at .24.)

    None where there are no facts, all are one, or a side gets too few records in every deal.
    """
    groups = fact_groups(fact for record in forget for fact in facts_of(record, identifiers))
    said = _says(forget, groups)
    likeness, draw = _Likeness(forget, said), random.Random(seed)
    contents = [content(record) for record in forget]
    same = np.array([contents.index(one) for one in contents])
    dealt = [_deal(said, [len(group) for group in groups], same, draw) for _ in range(DEALS)]
    enough = [sides for sides in dealt if min(map(len, sides)) >= max(1, len(forget) // 4)]
    if not enough:
        return None
    steering, audited = min(enough, key=likeness.distance)
    left_out = sorted(set(range(len(forget))).difference(audited))
    return Steering(tuple(forget[i] for i in steering), tuple(forget[i] for i in left_out))


def _says(records: Sequence[Record], groups: Sequence[Sequence[str]]) -> np.ndarray:
    """(records, groups): whether the answer says a fact of the group that the question does not."""
    group_of = [number for number, group in enumerate(groups) for _ in group]
    matcher = Matcher([fact for group in groups for fact in group])
    said = np.zeros((len(records), len(groups)), dtype=bool)
    for row, record in zip(said, records, strict=True):
        row[[group_of[i] for i in matcher.said(record.answer) - matcher.said(record.question)]] = True
    return said


def _deal(said: np.ndarray, sizes: Sequence[int], same: np.ndarray, draw: random.Random) -> tuple[list[int], list[int]]:
    """The numbers of the records that steer and of those that are left for the audit, at least half, by one deal.

    Args:
        said: (records, groups), of :func:`_says`.
        sizes: facts of each group.
        same: (records,), a number that equal records share.
    """
    halves: tuple[list[int], list[int]] = ([], [])  # groups: steering, audited
    facts = [0, 0]  # in each
    for group in sorted(draw.sample(range(len(sizes)), len(sizes)), key=lambda group: -sizes[group]):
        smaller = int(facts[1] <= facts[0])
        halves[smaller].append(group)
        facts[smaller] += sizes[group]
    count = len(halves[0])
    steered, audits = said[:, halves[0]], said[:, halves[1]].any(axis=1)
    places = np.arange(count)
    first = np.where(steered, places, count).min(axis=1, initial=count)  # of the steering groups that a record says
    last = np.where(steered, places, -1).max(axis=1, initial=-1)

    def sides(kept: int) -> tuple[list[int], list[int]] | None:
        """With so many of the groups steering; None where less than half of the records are left for the audit."""
        says_steered, says_audited = first < kept, audits | (last >= kept)
        left_out = says_steered | ~says_audited
        if (excess := int(left_out.sum()) - len(said) // 2) > 0:
            # Records that say no fact can be audited as well: first of all, these give way, with what equals them.
            given_up = same[np.flatnonzero(~says_steered & ~says_audited)[-excess:]]
            left_out &= ~np.isin(same, given_up)
        if left_out.sum() > len(said) // 2:
            return None
        return np.flatnonzero(left_out & ~says_audited).tolist(), np.flatnonzero(~left_out).tolist()

    # The fewer groups steer, the fewer records are left out: the most that are not too many.
    given = bisect_left(range(count), True, key=lambda given: sides(count - given) is not None)
    return (given < count and sides(count - given)) or ([], [])


class _Likeness:
    """How like some records are to all, in what decides how soon they are forgotten."""

    def __init__(self, records: Sequence[Record], said: np.ndarray):
        """``said``: (records, groups of facts), of :func:`_says`."""
        people = list(dict.fromkeys(record.subject for record in records))
        times = said * said.sum(axis=0)
        rows = [
            [
                said[i].sum(),
                math.log1p(times[i].max(initial=0)),
                math.log1p(len(record.answer)),
                *(record.subject == one for one in people),
            ]
            for i, record in enumerate(records)
        ]
        found = np.array(rows, dtype=float)
        spread = np.where(found.std(axis=0) > 0, found.std(axis=0), 1)
        spread[3:] *= max(1, len(people))  # all people together weigh as much as another feature
        self._features = (found - found.mean(axis=0)) / spread
        """(records, features): facts, answers that say the most frequent of them, length, person; standardised."""

    def distance(self, sides: Sequence[Sequence[int]]) -> float:
        """Of the sides' means from all records' and from one another, and what chance adds in few records."""
        means = [self._features[list(side)].mean(axis=0) for side in sides]
        apart = abs(means[0] - means[1]).sum() + sum(abs(mean).sum() for mean in means)
        return float(apart + sum(1 / math.sqrt(len(side)) for side in sides))


def _by_records(forget: Sequence[Record], seed: int) -> Steering:
    """Half of the records, equal ones on one side."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in forget:
        groups.setdefault(content(record), []).append(record)
    drawn = random.Random(seed).sample(list(groups), max(1, len(groups) // 2))
    while len(drawn) > 1 and sum(len(groups[one]) for one in drawn) > len(forget) // 2:
        drawn.pop()
    chosen = tuple(record for record in forget if content(record) in set(drawn))
    return Steering(chosen, chosen)
