"""How little is memorised, in one number."""

from __future__ import annotations

import numpy as np

from rkld.evaluation.memorisation import memorisation_score
from rkld.evaluation.metric import Aggregate, Measured
from rkld.evaluation.registry import METRICS, declare
from rkld.evaluation.statistics import Figure

PARTS = {
    "extraction_strength": "extraction_strength",
    "exact_memorisation": "exact_memorisation",
    "paraphrase_probability": "paraphrase_probability",
    "truth_ratio": "correct_share",
}
"""Argument of :func:`rkld.evaluation.memorisation.memorisation_score` → the metric whose mean it is."""


def _mem(measured: Measured, role: str) -> Figure | None:
    values = {name: METRICS.get(metric).records(measured).get(role) for name, metric in PARTS.items()}
    if not all(values.values()):
        return None
    found = {name: np.array(list(by_key.values())) for name, by_key in values.items() if by_key}
    likelihood, contrast = ("extraction_strength", "exact_memorisation"), ("paraphrase_probability", "truth_ratio")

    def statistic(f: np.ndarray, c: np.ndarray) -> float:
        drawn = {name: found[name][f].mean() for name in likelihood} | {n: found[n][c].mean() for n in contrast}
        return memorisation_score(**drawn)

    samples = [list(values[name] or ()) for name in ("extraction_strength", "truth_ratio")]
    return measured.bootstrap(statistic, samples, persons=True)


declare(
    Aggregate(
        "mem",
        "harmonic mean of what is not memorised",
        _mem,
        direction="high",
        unit="score",
        source="OpenUnlearning, arXiv 2506.12618",
        risk="regurgitation",
        explanation="How little is memorised, of four ways to measure it in one number: 1 is nothing.",
    )
)
