"""What the model is still good for: TOFU's model utility, and that together with fluency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rkld.evaluation.fluency import utility_score
from rkld.evaluation.metric import Aggregate, Measured, Rows
from rkld.evaluation.registry import declare
from rkld.evaluation.statistics import Figure
from rkld.evaluation.tofu import model_utility

SETS = ("retain", "real_authors", "world_facts")
COLUMNS = {
    "gold_loss": "loss",
    "paraphrase_loss": "paraphrase_loss",
    "perturbed_loss": "perturbed_loss",
    "rouge": "tofu_rouge_l",
}
"""Argument of :func:`rkld.evaluation.tofu.model_utility` → column of a row."""

Arrays = Mapping[str, Mapping[str, np.ndarray]]
"""Set → argument → (n, …)."""


def _rows(measured: Measured, role: str, name: str) -> Rows:
    """Those of a set that have all columns: earlier answers of a conversation are compared with no wrong ones."""
    rows: Rows = measured.of(role, name)
    return {key: row for key, row in rows.items() if all(column in row for column in COLUMNS.values())}


def _arrays(measured: Measured, role: str) -> Arrays | None:
    """None where a part is missing."""
    sets = {name: _rows(measured, role, name) for name in SETS}
    if not all(sets.values()):
        return None
    return {
        name: {argument: np.array([row[column] for row in rows.values()]) for argument, column in COLUMNS.items()}
        for name, rows in sets.items()
    }


def _value(arrays: Arrays, drawn: Sequence[Any] = ()) -> float:
    """Of the rows ``drawn`` from each set; by default of all."""
    rows = zip(arrays.items(), drawn or [slice(None)] * len(arrays), strict=True)
    return model_utility(**{name: {n: a[d] for n, a in columns.items()} for (name, columns), d in rows}).value


def _keys(measured: Measured, role: str) -> list[list[str]]:
    return [list(_rows(measured, role, name)) for name in SETS]


def _utility(measured: Measured, role: str) -> Figure | None:
    arrays = _arrays(measured, role)
    if arrays is None:
        return None
    return measured.bootstrap(lambda *drawn: _value(arrays, drawn), _keys(measured, role))


def _with_fluency(measured: Measured, role: str) -> Figure | None:
    """Relative to the original's, which is taken as it came out."""
    ours, original = _arrays(measured, role), _arrays(measured, "original")
    fluent = {
        name: np.array([1 - row["repetition"] for row in measured.of(name, "answers").values()])
        for name in (role, "original")
    }
    if ours is None or original is None or not all(each.size for each in fluent.values()):
        return None
    first = _value(original), float(fluent["original"].mean())
    if not all(first):
        return None  # nothing can be compared with an original of no use at all

    def statistic(*drawn: np.ndarray) -> float:
        *questions, answers = drawn
        return utility_score(
            model_utility=_value(ours, questions),
            fluency=float(fluent[role][answers].mean()),
            initial_model_utility=first[0],
            initial_fluency=first[1],
        )

    samples = [*_keys(measured, role), list(measured.of(role, "answers"))]
    return measured.bootstrap(statistic, samples, bounds=(0.0, math.inf))


declare(
    Aggregate(
        "model_utility",
        "harmonic mean of nine utility values",
        _utility,
        direction="high",
        unit="score",
        source="TOFU, arXiv 2401.06121",
        risk="kept",
        explanation="What it is still good for: likelihood, answers and truth ratio on three sets of other "
        "knowledge, in one number.",
    )
)
declare(
    Aggregate(
        "util",
        "harmonic mean of model utility and 1 − repetition, relative to the original's",
        _with_fluency,
        direction="high",
        unit="score",
        bounds=(0.0, math.inf),
        source="after OpenUnlearning, arXiv 2506.12618, without its gibberish classifier",
        risk="kept",
        explanation="What it is still good for, with the fluency of its answers: 1 is as the original.",
    )
)
