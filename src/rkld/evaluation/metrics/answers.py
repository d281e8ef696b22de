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
        explanation="How much of the recorded answer's words its own answer repeats, in their order: 1 is word for "
        "word.",
    )
)
declare(
    RecordMetric(
        "facts_said",
        "facts that the model's own answers say",
        "answers",
        each_of("facts"),
        flags=True,
        explanation="Of the facts in the records, the share that its own most likely answers state; what nobody told "
        "it, it can only guess.",
    )
)
declare(
    RecordMetric(
        "facts_in_part",
        "of each fact the words that the model's own answers say",
        "answers",
        each_of("parts"),
        explanation="Of each fact the share of its words that the answer says, so that half a name counts as half.",
    )
)
declare(
    RecordMetric(
        "borrowed_facts",
        "answers that state a recorded fact of another person",
        "answers",
        column("borrowed"),
        flags=True,
        direction="",  # of a model that never saw the records they are guesses, too: the control's are beside them,
        explanation="Answers that give the person something true of somebody else: a mix-up. Every model guesses so "
        "at times.",
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
        explanation="The share of four-word sequences that its answers say more than once: a broken model repeats "
        "itself.",
    )
)
