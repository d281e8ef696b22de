"""The right answer, reworded, against wrong ones; and the same of a retrained model (TOFU, OpenUnlearning)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rkld.evaluation.memorisation import correct_share
from rkld.evaluation.metric import (
    KEPT,
    Aggregate,
    Measured,
    RecordMetric,
    Row,
    Rows,
    probability_of,
    transformed,
)
from rkld.evaluation.registry import declare
from rkld.evaluation.statistics import Figure
from rkld.evaluation.tofu import ForgetQuality, forget_quality, truth_ratio

TOFU = "TOFU, arXiv 2401.06121"
OPEN_UNLEARNING = "OpenUnlearning, arXiv 2506.12618"
COLUMNS = ("paraphrase_loss", "perturbed_loss")


def _ratios(rows: list[Row]) -> np.ndarray:
    """(n,) of :func:`rkld.evaluation.tofu.truth_ratio`."""
    return truth_ratio([row["paraphrase_loss"] for row in rows], [row["perturbed_loss"] for row in rows])


truth_ratios = transformed(_ratios, COLUMNS)
"""The plain ratios r of the rows that have a right and wrong answers, by key."""

_preferred = transformed(_ratios, COLUMNS, lambda r: np.maximum(0, 1 - r))

declare(
    RecordMetric(
        "paraphrase_probability",
        "probability of the paraphrased answer",
        "contrast",
        probability_of("paraphrase_loss"),
        unit="probability",
        source=OPEN_UNLEARNING,
        explanation="How likely it finds the answer said in other words, which no training showed it.",
    )
)
declare(
    RecordMetric(
        "truth_ratio",
        "min(r, 1/r) of wrong over right answers (max(0, 1 − r) on records that should have been kept)",
        "contrast",
        transformed(_ratios, COLUMNS, lambda r: np.minimum(r, 1 / np.maximum(r, 1e-300))),
        on_sets=dict.fromkeys(KEPT, _preferred),
        direction="",
        unit="ratio",
        source=TOFU,
        explanation="Whether it holds wrong answers for as likely as the right one: to be read beside a model that "
        "never saw the records.",
    )
)
declare(
    RecordMetric(
        "correct_share",
        "the right answer's share of p(right) + p(wrong)",
        "contrast",
        transformed(_ratios, COLUMNS, correct_share),
        source=OPEN_UNLEARNING,
        explanation="How much likelier the right answer is than wrong ones of its kind: .5 is as a coin says.",
    )
)


def _retrained(measured: Measured) -> np.ndarray:
    """(m,) truth ratios of the retrained model: of its log where given, else the control's; (0,) for neither."""
    if measured.retrained_ratios is not None:
        return measured.retrained_ratios
    rows: Rows = measured.of("control", "contrast")
    return np.array(list(truth_ratios(rows).values()))


def _test(measured: Measured, role: str) -> tuple[dict[str, float], np.ndarray, ForgetQuality] | None:
    ours, theirs = truth_ratios(measured.of(role, "contrast")), _retrained(measured)
    itself = role == "control" and measured.retrained_ratios is None
    if not ours or not theirs.size or itself:
        return None
    return ours, theirs, forget_quality(list(ours.values()), theirs)


def _distance(measured: Measured, role: str) -> Figure | None:
    found = _test(measured, role)
    if found is None:
        return None
    by_key, theirs, _ = found
    ours, keys = np.array(list(by_key.values())), list(by_key)
    if len(ours) != len(theirs):
        others = [str(i) for i in range(len(theirs))]
        return measured.bootstrap(lambda d, t: forget_quality(ours[d], theirs[t]).statistic, [keys, others])
    # The same questions are asked of both models, so both are drawn together.
    return measured.bootstrap(lambda d: forget_quality(ours[d], theirs[d]).statistic, [keys], persons=True)


def _quality(measured: Measured, role: str) -> dict[str, Any] | None:
    found = _test(measured, role)
    if found is None:
        return None
    test = found[2]
    return {
        "value": test.pvalue,
        "low": None,
        "high": None,
        "n": test.n,
        "retrained_n": test.retrained_n,
        "method": "p-value, no interval; the same questions are asked of both models, so it is inflated",
    }


declare(
    Aggregate(
        "ks_distance",
        "Kolmogorov–Smirnov distance of truth ratios to the retrained model's",
        _distance,
        unit="distance",
        source=TOFU,
        explanation="How far its truth ratios are from those of a model that was retrained without the records: 0 is "
        "the same.",
    )
)
declare(
    Aggregate(
        "forget_quality",
        "p-value of the same test: never a proof of equality",
        _quality,
        direction="high",
        unit="p-value",
        source=TOFU,
        explanation="How well chance alone explains the difference to a retrained model; a high value is no proof "
        "that there is none.",
    )
)
