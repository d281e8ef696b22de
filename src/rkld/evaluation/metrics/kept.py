"""What is left of the original's knowledge of records that should have been kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rkld.evaluation.metric import KEPT, Aggregate, Measured, RecordMetric, Values, column
from rkld.evaluation.registry import METRICS, declare
from rkld.evaluation.statistics import Figure


def _probabilities(measured: Measured, name: str) -> dict[str, Values]:
    metric = METRICS.get("probability")
    assert isinstance(metric, RecordMetric)
    return metric.on(name).records(measured)


def _repeated(measured: Measured, name: str) -> dict[str, Values]:
    """ROUGE-L recall of the answers, as far as they went: every model's may be as long."""
    return {role: column("rouge_l")(measured.of(role, name)) for role in measured.readings}


def _over_the_originals(
    values: Callable[[Measured, str], dict[str, Values]], name: str
) -> Callable[[Measured, str], Figure | None]:
    """Mean of a set's values over the original's, both drawn together.

    A ratio, as the loss of .1 is little of .9 and all of .1. None where the original has none at all.
    """

    def compute(measured: Measured, role: str) -> Figure | None:
        found = values(measured, name)
        ours, theirs = found.get(role, {}), found.get("original", {})
        if role == "original" or not ours or ours.keys() != theirs.keys() or not any(theirs.values()):
            return None
        pairs = np.array([[ours[key], theirs[key]] for key in ours])  # (n, 2)

        def ratio(rows: np.ndarray) -> float:
            own, original = pairs[rows].mean(axis=0)
            return float(own / original) if original else float(own > 0)  # drawn: records that it says nothing of

        return measured.bootstrap(ratio, [list(ours)], bounds=(0.0, np.inf))

    return compute


_MEANINGS = {
    "kept": (
        "probability of the records",
        _probabilities,
        "What is left of the original's knowledge of records that should have been kept: 1 is all of it.",
    ),
    "answers_kept": (
        "ROUGE-L recall of the model's own answers",
        _repeated,
        "What its own answers still say of records that should have been kept: 1 is as much as the original's. Who "
        "refuses everybody says nothing.",
    ),
}
"""Suffix → what is set over the original's, its values, and what it says."""

for _name in KEPT:
    for _suffix, (_what, _values, _explanation) in _MEANINGS.items():
        declare(
            Aggregate(
                f"{_name}_{_suffix}",
                f"{_what} over the original's: {_name.replace('_', ' ')}",
                _over_the_originals(_values, _name),
                risk="kept",
                explanation=_explanation,
                direction="high",
                unit="ratio",
                bounds=(0.0, np.inf),
            )
        )
