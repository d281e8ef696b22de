"""Kinds of question that are kept for the audit: the recorded question, put as somebody else would put it.

What forgot a sentence answers when it is asked in another one, so what an audit asks must be worded in ways that
neither training nor the stop has seen. Rewordings for training (:mod:`rkld.records`) are statements to be completed,
imperatives, indirect questions, short answers, yes-no and reversed questions, running text, tickets, forms and letters.
None of :data:`FRAMES` is any of these but ``short``, whose wording alone is kept for the audit. Nothing but audits and
figures may import this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.metric import Metric
from rkld.evaluation.readings import Rows
from rkld.records.encoding import Encoder
from rkld.records.record import Record

FRAMES: Mapping[str, str] = MappingProxyType(
    {
        "third_party": "Somebody on the phone wants to know this from me: {} What can I pass on?",
        "quiz": "Quiz night, round two, and our team is stuck. The quizmaster asks: {} For ten points?",
        "index_card": "Make me an index card of three facts. The first one settles this: {}",
        "short": "{} Answer with the value alone.",
    }
)
"""Kind → the user's turn, with a place for the recorded question."""


@ATTACKS.register("frames")
class Frames(Attack):
    """Greedy answers to every question in each of :data:`FRAMES`; of plain texts, to the questions made of them."""

    title = "the question in frames that only audits use"
    standard = True
    weights = False
    wording = True
    settings = GENERATION

    def missing(self, task: Task) -> str | None:
        return None if _asked(task) else "needs records with a question, or facts"

    def encode(self, task: Task, encoder: Encoder) -> None:
        for frame in FRAMES.values():
            encode_asked(encoder, framed(_asked(task), frame))

    def read(self, reader: Reader) -> dict[str, Rows]:
        """Kind → rows of answers."""
        asked = _asked(reader.task)
        return {kind: reader.answers(kind, framed(asked, frame)) for kind, frame in FRAMES.items()}

    def metrics(self) -> list[Metric]:
        return [
            self.metric(name, prefix=kind, words=f"asked as {kind.replace('_', ' ')}", part=kind)
            for kind in FRAMES
            for name in SAID
        ]


def framed(records: Sequence[Record], frame: str) -> list[Record]:
    """The records with their question in a frame."""
    return [record.with_question(frame.format(record.question)) for record in records]


def _asked(task: Task) -> list[Record]:
    return [record for record in task.asked if record.form != "text" and record.question] or task.reworded
