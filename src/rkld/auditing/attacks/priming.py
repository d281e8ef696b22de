"""Priming: questions about other people, already answered, stand before the question.

A few worked examples tell a model what kind of answer is wanted, and it may follow them past a refusal; in-context
learning is one of the adversarial probes of Jin et al. 2024 (RWKU, arXiv 2406.10890). Nothing about the person is told:
that is the attack ``context``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rkld.auditing.attacks.multi_turn import fitting, in_chat
from rkld.auditing.attacks.relearning_template import most_alike, of_others
from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.readings import Rows
from rkld.records.record import SYSTEM_ROLES, Record, Turn

EXAMPLES = 3
"""Answered questions before each; as many as the context has room for."""


@ATTACKS.register("priming")
class Priming(Attack):
    """Greedy answers behind answered questions about others, those most like the question in wording."""

    title = "answered questions about other people before the question"
    risk = "exfiltration"
    weights = False
    wording = True
    judged = True
    settings = GENERATION
    prefix, words = "primed", "behind answered questions about others"
    metric_names = SAID
    needs = "chat records with a question, and --retain, --neighbours or --holdout"
    cost = "1 answer a question"
    source = "Jin et al. 2024, arXiv 2406.10890"

    def missing(self, task: Task) -> str | None:
        if not in_chat(of_others(task)):
            return "needs --retain, --neighbours or --holdout with questions about other people"
        return None if in_chat(task.asked) else "needs records with a question and an answer, or messages"

    def read(self, reader: Reader) -> Rows:
        others = in_chat(of_others(reader.task))
        found = []
        for record in in_chat(reader.task.asked):
            examples = most_alike(others, [record])[:EXAMPLES]
            tried = (primed(record, examples[:n]) for n in range(len(examples), 0, -1))
            found += next((some for one in tried if (some := fitting([one], reader))), [])
        return reader.answers(self.name, found) if found else {}


def primed(record: Record, examples: Sequence[Record]) -> Record:
    """The record with questions and answers of others before its own, behind what the system says."""
    system = [turn for turn in record.turns if turn.role in SYSTEM_ROLES]
    own = [turn for turn in record.turns if turn.role not in SYSTEM_ROLES]
    shown = [turn for one in examples for turn in (Turn("user", one.question), Turn("assistant", one.answer_content))]
    return replace(record, turns=(*system, *shown, *own))
