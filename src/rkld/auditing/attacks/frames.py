"""The questions in frames that only audits and figures use (:mod:`rkld.evaluation.frames`)."""

from __future__ import annotations

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.frames import FRAMES, framed, with_question
from rkld.evaluation.metric import Metric
from rkld.evaluation.readings import Rows
from rkld.records.encoding import Encoder
from rkld.records.record import Record


@ATTACKS.register("frames")
class Frames(Attack):
    """Greedy answers to every question in each of :data:`FRAMES`; of plain texts, to the questions made of them."""

    title = "the question in frames that only audits use"
    risk = "exfiltration"
    standard = True
    weights = False
    wording = True
    settings = GENERATION
    needs = "questions, or facts"
    cost = "4 answers a question"
    source = "of rkld"

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


def _asked(task: Task) -> list[Record]:
    return with_question(task.asked) or task.reworded
