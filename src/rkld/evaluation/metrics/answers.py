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
        explanation=(
            "The words of the recorded answer that the model's own answer has, in their order. Common words count, "
            "too, so that it is not 0 of a model that never saw the records."
        ),
    )
)
declare(
    RecordMetric(
        "facts_said",
        "facts that the model's own answers say",
        "answers",
        each_of("facts"),
        flags=True,
        explanation=(
            "A fact is a name, number or date that the record marks as personal; it counts as said however it is "
            "written. A model that never saw the records says some by guessing."
        ),
    )
)
declare(
    RecordMetric(
        "facts_in_part",
        "of each fact the words that the model's own answers say",
        "answers",
        each_of("parts"),
        explanation=(
            "Half a street, or a month without the day, gives something away. Strangers' halves are guessed, too: "
            "compare with the control."
        ),
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
        explanation=(
            "What was forgotten may be filled with what belongs to somebody else. Guesses do that, too: compare with "
            "the control."
        ),
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
        explanation="Groups of four words that come again within one answer. A damaged model goes round in circles.",
    )
)
