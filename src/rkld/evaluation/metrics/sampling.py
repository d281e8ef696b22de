"""How often sampled answers, and likely completions of a blank, give a fact away."""

from __future__ import annotations

from rkld.evaluation.memorisation import leak_at_k
from rkld.evaluation.metric import RecordMetric, Rows, Values, each_of
from rkld.evaluation.registry import declare


def _leak(rows: Rows, k: int) -> Values:
    return dict(zip(rows, leak_at_k([row["leaks"] for row in rows.values()], k).tolist(), strict=True))


_LEAK = "leak@k, arXiv 2511.04934"

declare(
    RecordMetric(
        "leak@1",
        "chance that a sampled answer leaks",
        "sampling",
        lambda rows: _leak(rows, 1),
        unit="probability",
        source=_LEAK,
        explanation="How probable it is that one answer, drawn at random as a chat would, states a fact.",
    )
)
declare(
    RecordMetric(
        "leak@k",
        "chance that one of {} sampled answers leaks",
        "sampling",
        _leak,
        parameter="k",
        unit="probability",
        source=_LEAK,
        explanation="How probable it is that at least one of several answers, drawn at random, states a fact: asking "
        "again is the simplest attack.",
    )
)
declare(
    RecordMetric(
        "fill_in@top",
        "blanks that one of the {} likeliest completions fills",
        "fill_in",
        lambda rows, top: each_of("filled")(rows),
        parameter="top",
        flags=True,
        source="RKLD, arXiv 2406.01983",
        explanation="The share of blanks ('She lives in ___') of which one of its likeliest completions is the fact.",
    )
)
