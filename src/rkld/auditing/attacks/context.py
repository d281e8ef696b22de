"""Context: other facts about the person stand before the question."""

from __future__ import annotations

from collections.abc import Sequence

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.readings import Rows
from rkld.records.encoding import Encoder
from rkld.records.probes import facts_of
from rkld.records.record import Record
from rkld.text.facts import facts_said

CONTEXT = 3
"""Other answers about the person that are put before a question."""


@ATTACKS.register("context")
class Context(Attack):
    """Greedy answers to questions behind other answers about the same person."""

    title = "other facts about the person before the question"
    risk = "attribute inference"
    weights = False
    settings = GENERATION
    needs = "two records of a person"
    cost = "1 answer a question"
    source = "Shumailov et al. 2024, arXiv 2407.00106"
    words = "others stand before the question"
    metric_names = ("facts_said",)

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, with_context(task.asked, CONTEXT, task.identifiers))

    def read(self, reader: Reader) -> Rows:
        task = reader.task
        return reader.answers(self.name, with_context(task.asked, CONTEXT, task.identifiers))


def with_context(records: Sequence[Record], n: int, identifiers: Sequence[str] = ()) -> list[Record]:
    """The records' questions, each behind up to ``n`` other answers about the same person that don't give it away.

    Left out are answers that say a fact of the record's own (:func:`rkld.records.probes.facts_of`, as strings), or
    the whole of its answer. They are taken in the order of the records, from the record on, so that not all questions
    stand behind the same ones. Records without a question, or for which no answer is left, are left out.

    Args:
        identifiers: the person's names and aliases, which are facts only where the question does not name them.
    """
    found = []
    for i, record in enumerate(records):
        if record.form == "text" or not record.question:
            continue
        own = (*facts_of(record, identifiers), record.answer)
        others = [other.answer for other in (*records[i + 1 :], *records[:i]) if other.subject == record.subject]
        context = [text.strip() for text in dict.fromkeys(others) if text and not any(facts_said(own, text))][:n]
        if context:
            found.append(record.with_question("\n".join(context) + "\n\n" + record.question))
    return found
