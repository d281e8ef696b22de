"""What a model is asked to write rewordings, and what it answered: few-shot, in its own chat format."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rkld.files import DATA, read_jsonl
from rkld.records.record import Record, Rewording, Turn
from rkld.records.rewording import WRITTEN

_ASKED = (
    "Say the question and its answer in quite other words. Keep every name, date, number and fact, and add none.\n\n"
    "Question: {question}\nAnswer: {answer}"
)

_WRITTEN = re.compile(r"\s*(?:Question:\s*)?(?P<question>[^\n]+?)\s*\n+\s*Answer:\s*(?P<answer>[^\n]+)")


def writing_prompts(records: Sequence[Record]) -> list[Record]:
    """For each record a conversation that asks for one rewording of it, under its key.

    The shipped examples are about invented people. Records without a question are asked for with an empty one.
    """
    shots: list[Turn] = []
    for shot in read_jsonl(DATA / "rewording_examples.jsonl"):
        shots.append(Turn("user", _ASKED.format(question=shot["question"], answer=shot["answer"])))
        shots.append(Turn("assistant", f"Question: {shot['asked']}\nAnswer: {shot['said']}"))
    return [
        Record(record.key, "chat", (*shots, _asking(record)), where=record.where, unanswered=True) for record in records
    ]


def _asking(record: Record) -> Turn:
    line = " ".join(record.answer.split())
    return Turn("user", _ASKED.format(question=" ".join(record.question.split()), answer=line))


def longest_answer(records: Sequence[Record]) -> int:
    """New tokens that a rewording may have: about as many as the longest record, twice."""
    longest = max((len(record.question) + len(record.answer) for record in records), default=0)
    return 48 + longest // 2


def read_rewording(answer: str) -> Rewording | None:
    """The question and the answer that a model wrote; None where it kept to no form. Whatever follows is left out."""
    found = _WRITTEN.match(answer)
    if found is None:
        return None
    return Rewording(found["question"].strip(), found["answer"].strip(), WRITTEN)
