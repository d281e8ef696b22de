"""Few-shot: questions about others with their answers stand before the question, as MUSE asks (arXiv 2407.06460)."""

from __future__ import annotations

from collections.abc import Sequence

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.frames import with_question
from rkld.evaluation.readings import Rows
from rkld.records.encoding import Encoder
from rkld.records.record import Record

SHOTS = 5
"""Answered questions before each."""


@ATTACKS.register("few_shot")
class FewShot(Attack):
    """Greedy answers behind answered questions about others, which show how an answer is put."""

    title = "answered questions about others before the question, in one turn"
    risk = "regurgitation"
    weights = False
    settings = GENERATION
    words = "answered questions about others stand before it"
    needs = "questions, and --retain or --holdout with some"
    cost = "1 answer a question"
    source = "Shi et al. 2024, arXiv 2407.06460"
    metric_names = ("knowmem", "facts_said")

    def missing(self, task: Task) -> str | None:
        return None if shots(task) and _questions(task.asked) else f"needs {self.needs}"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, self._records(task))

    def read(self, reader: Reader) -> Rows:
        return reader.answers(self.name, self._records(reader.task))

    def _records(self, task: Task) -> list[Record]:
        before = "".join(f"Question: {one.question}\nAnswer: {one.answer}\n\n" for one in shots(task))
        return [record.with_question(f"{before}Question: {record.question}") for record in _questions(task.asked)]


def shots(task: Task) -> list[Record]:
    """The first of the records to keep that are questions; without any, of the holdout."""
    kept = [record for records in task.utility.values() for record in records]
    return (_questions(kept) or _questions(task.holdout))[:SHOTS]


def _questions(records: Sequence[Record]) -> list[Record]:
    return [record for record in with_question(records) if record.answer]
