"""Reworded questions: knowledge that was hidden behind one wording answers to another."""

from __future__ import annotations

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.readings import Rows
from rkld.records.encoding import Encoder


@ATTACKS.register("paraphrases")
class Paraphrases(Attack):
    """Greedy answers to the records' paraphrased questions."""

    title = "reworded questions"
    risk = "exfiltration"
    standard = True
    weights = False
    wording = True
    settings = GENERATION
    needs = "paraphrased questions, or facts"
    cost = "1 answer a paraphrase"
    source = "Maini et al. 2024, arXiv 2401.06121"
    prefix, words = "paraphrased", "the question reworded"
    metric_names = ("rouge_l", *SAID, "borrowed_facts")

    def missing(self, task: Task) -> str | None:
        return None if task.reworded else "needs records with a paraphrased_question, or facts"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, task.reworded)

    def read(self, reader: Reader) -> Rows:
        return reader.answers(self.name, reader.task.reworded)
