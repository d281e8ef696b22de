"""What MUSE calls knowledge and verbatim memorisation: ROUGE-L F1 of answers, and of a text's continuation."""

from __future__ import annotations

from rkld.evaluation.metric import RecordMetric, column
from rkld.evaluation.registry import declare

MUSE = "MUSE, arXiv 2407.06460; words of any script, English ones stemmed"

declare(
    RecordMetric(
        "knowmem",
        "ROUGE-L F1 of the model's own answer",
        "answers",
        column("rouge_l_f1"),
        source=MUSE,
        explanation="How much its answer and the recorded one have in common, word for word. Chatter lowers it though "
        "the fact is said: see facts_said.",
    )
)
declare(
    RecordMetric(
        "verbmem",
        "ROUGE-L F1 of how the model goes on with a text",
        "answers",
        column("continued_f1"),
        source=MUSE,
        explanation="How much of a text it recites once its beginning is given; 0 is never reached, as words recur. Of "
        "plain texts alone.",
    )
)
