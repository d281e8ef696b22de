"""Whether a model's own answers are fluent, as the original sees them (:mod:`rkld.evaluation.fluency`)."""

from __future__ import annotations

import math

from rkld.evaluation.metric import RecordMetric, column
from rkld.evaluation.registry import declare

declare(
    RecordMetric(
        "own_answer_loss",
        "loss of its answers under the original (ln of perplexity)",
        "own_answers",
        column("loss"),
        direction="",
        unit="nats per token",
        bounds=(0.0, math.inf),
        risk="fluency",
        explanation="How odd the original finds its answers, in nats per token: far above the original's own, its "
        "language has suffered.",
    )
)
declare(
    RecordMetric(
        "known_words",
        "words of its answers that the original's answers or a list of common words know",
        "own_answers",
        column("known_words"),
        direction="high",
        risk="fluency",
        explanation="The share of the words in its answers that are words at all.",
    )
)
declare(
    RecordMetric(
        "gibberish",
        "answers that are gibberish, by loss under the original, repetition or unknown words",
        "own_answers",
        column("gibberish"),
        flags=True,
        risk="fluency",
        explanation="The share of its answers that no person would write: too odd to the original, repeating, or of "
        "unknown words.",
    )
)
