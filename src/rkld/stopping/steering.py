"""Which forget records steer the stop and are left out of the audit, and the hashes that identify them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rkld.errors import UserError
from rkld.records.identity import content
from rkld.records.probes import make_probes, split_probes
from rkld.records.record import Record
from rkld.runfolder.manifest import salted
from rkld.text.matching import Matcher

FEWEST = 4
"""Forget records from which on some are set apart for the audit; of fewer, all steer."""


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

    Facts are dealt out (:func:`rkld.records.probes.split_probes`); records whose answers say no audited fact steer,
    and the audit leaves out all whose answers say a steering one. At least half of the records are left for it, for an
    audit of fewer establishes nothing. Where that gives less than a quarter of the records to either side, the records
    themselves are dealt out. Of fewer than :data:`FEWEST` all steer and none are left.
    """
    if len(forget) < FEWEST:
        return Steering(tuple(forget), tuple(forget))
    return _by_facts(forget, identifiers, seed) or _by_records(forget, seed)


def _by_facts(forget: Sequence[Record], identifiers: Sequence[str], seed: int) -> Steering | None:
    """None where there are no facts, all are one, or a side gets too few records."""
    try:
        halves = split_probes(make_probes(forget, (), identifiers, seed), seed)
    except UserError:  # no facts, or all in one
        return None
    steered, audited = (list(dict.fromkeys(probe.fact for probe in half)) for half in halves)
    said = _facts_added(forget, [*steered, *audited])
    contents = [content(record) for record in forget]
    while steered:
        steering = [i for i, facts in enumerate(said) if facts.isdisjoint(audited)]
        left_out = [i for i, facts in enumerate(said) if i in steering or not facts.isdisjoint(steered)]
        if (excess := len(left_out) - len(forget) // 2) > 0:
            # Records that say no fact can be audited as well: first of all, these give way.
            given_up = {contents[i] for i in [i for i in steering if said[i].isdisjoint(steered)][-excess:]}
            steering, left_out = ([i for i in some if contents[i] not in given_up] for some in (steering, left_out))
        if len(left_out) <= len(forget) // 2:
            break
        audited.append(steered.pop())
    if not steered or min(len(steering), len(forget) - len(left_out)) < max(1, len(forget) // 4):
        return None
    return Steering(tuple(forget[i] for i in steering), tuple(forget[i] for i in left_out))


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


def _facts_added(records: Sequence[Record], facts: Iterable[str]) -> list[set[str]]:
    """Of each record the facts that its answer says and its question does not."""
    names = list(dict.fromkeys(facts))
    matcher = Matcher(names)
    return [{names[i] for i in matcher.said(r.answer) - matcher.said(r.question)} for r in records]
