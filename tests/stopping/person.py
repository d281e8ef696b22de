"""A person of the embedded world, what others of it know, and evidence by hand."""

from __future__ import annotations

import math

from rkld.benching.worlds.people import people
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.stopping.evidence import Evidence

WORLD = people(n=4, seed=0)
ROWS = [{k: r[k] for k in ("question", "answer", "subject", "aliases")} for r in WORLD.forget([0])]
FORGET, HOLDOUT = read_records(ROWS, "forget"), read_records(WORLD.holdout, "holdout")
KNOWN = identifiers(FORGET, ())


def at(step: int, *probabilities: float) -> Evidence:
    """A check that found these probabilities."""
    return Evidence(step, tuple(-math.log(p) for p in probabilities))
