"""Membership inference where false alarms must be rare: how many records are found at 1 % and at .1 % of them.

An AUC is a mean over all thresholds; who accuses needs one at which strangers are hardly ever taken for members
(Carlini et al. 2022, arXiv 2112.03570). It says nothing of over-forgetting, which the distances of the AUC do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rkld.evaluation.membership import true_positive_rate
from rkld.evaluation.metric import Aggregate, Measured
from rkld.evaluation.metrics.membership import SOURCES, pair_of, persons_of
from rkld.evaluation.registry import declare
from rkld.evaluation.statistics import Figure, bootstrap

RATES = (0.01, 0.001)
"""Of false positives."""


def _found_at(attack: str, rate: float) -> Callable[[Measured, str], Figure | None]:
    def compute(measured: Measured, role: str) -> Figure | None:
        pair = pair_of(measured, role, attack)
        if pair is None:
            return None
        forget, holdout = pair

        def statistic(f: np.ndarray, h: np.ndarray) -> float:
            return true_positive_rate(forget[f], holdout[h], rate)

        sizes = (len(forget), len(holdout))
        return bootstrap(statistic, sizes, persons_of(measured), bounds=(0.0, 1.0), seed=measured.seed)

    return compute


for _attack, _source in SOURCES.items():
    for _rate in RATES:
        declare(
            Aggregate(
                f"{_attack}_tpr@{_rate:g}",
                f"records found at {_rate:.1%} false positives (by {_attack.replace('_', ' ')})",
                _found_at(_attack, _rate),
                risk="membership inference",
                explanation="How many records an attacker finds who takes hardly a stranger for one; with fewer than "
                f"{1 / _rate:.0f} others, none of them. Noisy.",
                unit="share",
                source=f"{_source}; arXiv 2112.03570",
            )
        )
