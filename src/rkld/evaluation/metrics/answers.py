"""What the model's own greedy answers hold of the recorded ones."""

from __future__ import annotations

from rkld.evaluation.metric import RecordMetric, column, each_of
from rkld.evaluation.registry import declare

declare(
    RecordMetric(
        "rouge_l",
        "ROUGE-L recall of the model's own answer",
        "answers",
        column("rouge_l"),
        source="TOFU, arXiv 2401.06121",
    )
)
declare(RecordMetric("facts_said", "facts that the model's own answers say", "answers", each_of("facts"), flags=True))
declare(
    RecordMetric(
        "facts_in_part", "of each fact the words that the model's own answers say", "answers", each_of("parts")
    )
)
declare(
    RecordMetric(
        "borrowed_facts",
        "answers that state a recorded fact of another person",
        "answers",
        column("borrowed"),
        flags=True,
        direction="",  # of a model that never saw the records they are guesses, too: the control's are beside them
    )
)
declare(
    RecordMetric(
        "repetition",
        "repeated word 4-grams in its answers",
        "answers",
        column("repetition"),
        kept_direction="low",
        source="Welleck et al. 2020, arXiv 1908.04319",
    )
)
