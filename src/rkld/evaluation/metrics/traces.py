"""Traces: whether answers alone tell the model from one that never saw the records, to a simple reader."""

from __future__ import annotations

from rkld.evaluation.membership import FOLDS, text_auc
from rkld.evaluation.metric import Aggregate, Measured
from rkld.evaluation.registry import declare
from rkld.evaluation.statistics import Figure


def _trace(measured: Measured, role: str) -> Figure | None:
    """AUC of a bag of words between a model's answers and the control's to the same questions, trained and tested on
    different ones; None for fewer than it takes to train it."""
    ours, theirs = measured.of(role, "answers"), measured.of("control", "answers")
    keys = [key for key in ours if key in theirs]
    if role == "control" or len(keys) < FOLDS:
        return None
    # Both models answer about the same persons, so these give neither away.
    return text_auc([ours[key]["answer"] for key in keys], [theirs[key]["answer"] for key in keys], seed=measured.seed)


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
