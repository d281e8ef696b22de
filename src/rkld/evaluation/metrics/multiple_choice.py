"""Multiple choice: whether the right answer is the likeliest of those offered."""

from __future__ import annotations

from rkld.evaluation.metric import RecordMetric, Rows, Values
from rkld.evaluation.registry import declare


def _chosen(rows: Rows) -> Values:
    """1 where the right answer has the lowest mean loss, ties by the share of those that tie."""
    found = {}
    for key, row in rows.items():
        if row.get("perturbed_loss"):
            wrong = row["perturbed_loss"]
            ties = sum(loss == row["loss"] for loss in wrong)
            found[key] = 0.0 if min(wrong) < row["loss"] else 1 / (1 + ties)
    return found


declare(
    RecordMetric(
        "multiple_choice",
        "questions of which the right answer is the likeliest of those offered",
        "contrast",
        _chosen,
        direction="",
        unit="accuracy",
        source="scored as lm-eval's acc_norm, by token, arXiv 2405.14782",
        explanation="Whether it would pick the right answer from a list: of k wrong ones a guess is right in 1 of "
        "k + 1, so read it beside the control's.",
    )
)
