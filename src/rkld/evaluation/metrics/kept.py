"""What is left of the original's knowledge of records that should have been kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rkld.evaluation.metric import KEPT, Aggregate, Measured, RecordMetric
from rkld.evaluation.registry import METRICS, declare
from rkld.evaluation.statistics import Figure


def _kept(name: str) -> Callable[[Measured, str], Figure | None]:
    """Mean probability of a set over the original's, both drawn together.

    A ratio, as the loss of .1 is little of .9 and all of .1. None where the original gives them none at all.
    """

    def compute(measured: Measured, role: str) -> Figure | None:
        metric = METRICS.get("probability")
        assert isinstance(metric, RecordMetric)
        values = metric.on(name).records(measured)
        ours, theirs = values.get(role, {}), values.get("original", {})
        if role == "original" or not ours or ours.keys() != theirs.keys() or not all(theirs.values()):
            return None
        pairs = np.array([[ours[key], theirs[key]] for key in ours])  # (n, 2)

        def ratio(rows: np.ndarray) -> float:
            own, original = pairs[rows].mean(axis=0)
            return float(own / original)

        return measured.bootstrap(ratio, [list(ours)], bounds=(0.0, np.inf))

    return compute


for _name in KEPT:
    declare(
        Aggregate(
            f"{_name}_kept",
            f"probability of the records over the original's: {_name.replace('_', ' ')}",
            _kept(_name),
            risk="kept",
            explanation="What is left of the original's knowledge of records that should have been kept: 1 is all of "
            "it.",
            direction="high",
            unit="ratio",
            bounds=(0.0, np.inf),
        )
    )
