"""How many of a model's answers say that it does not know: of the person, of those who stay, of strangers."""

from __future__ import annotations

from rkld.evaluation.metric import RecordMetric
from rkld.evaluation.registry import declare
from rkld.records.refusals import refuses

declare(
    RecordMetric(
        "refusals",
        "answers that say that the model does not know, by their wording",
        "answers",
        lambda rows: {key: float(refuses(row["answer"])) for key, row in rows.items() if "answer" in row},
        direction="",
        flags=True,
        kept_direction="low",
        explanation="The share of its answers that say that it does not know. Neither good nor bad by itself: "
        "strangers are beside it.",
    )
)
