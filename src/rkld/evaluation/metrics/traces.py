"""Traces: whether answers alone tell the model from one that never saw the records, to a simple reader."""

from __future__ import annotations

from rkld.evaluation.membership import text_auc
from rkld.evaluation.metric import Aggregate, Measured
from rkld.evaluation.registry import declare
from rkld.evaluation.statistics import Figure


def _trace(measured: Measured, role: str) -> Figure | None:
    """AUC of a bag of words, trained and tested on other questions (or persons), between a model's answers and the
    control's to the same questions."""
    ours, theirs = measured.of(role, "answers"), measured.of("control", "answers")
    keys = [key for key in ours if key in theirs]
    if role == "control" or not keys:
        return None
    said = ([rows[key]["answer"] for key in keys] for rows in (ours, theirs))
    persons = measured.persons(keys)
    return text_auc(*said, forget_persons=persons, holdout_persons=persons, seed=measured.seed)


declare(
    Aggregate(
        "trace_auc",
        "how well its answers are told from the control's by their words",
        _trace,
        risk="membership inference",
        unit="AUC",
        source="that unlearning leaves traces: arXiv 2506.14003",
        explanation="Whether a reader of its answers sees which model it is: .5 not at all. Two retrained models "
        "differ, too; a finer reader may see more.",
    )
)
