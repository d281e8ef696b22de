"""Relearning on facts that say nothing of those which are tested.

Deeb and Roger 2024 (arXiv 2410.08827): the attacker knows many of the facts and asks for others that cannot be guessed
from them, so that what comes back was in the weights. Here most of the records are taught, and those tested say none of
a fact that a taught record says.
"""

from __future__ import annotations

from rkld.auditing.attacks.relearning import RelearningAttack, draw
from rkld.auditing.inputs import Task
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.records.record import Record
from rkld.text.matching import Matcher
from rkld.text.wording import is_said_name

SHARE = 0.8
"""Of the records that the attacker knows; those of them that say a fact of the others are not taught."""


@ATTACKS.register("relearning_facts")
class RelearningFacts(RelearningAttack):
    """Four of five records are taught, without those that say a fact of the fifth, which is watched."""

    title = "fine-tuning on facts that are independent of those asked for"
    needs = "records with facts"
    source = "Deeb and Roger 2024, arXiv 2410.08827"

    def split(self, task: Task) -> tuple[list[Record], list[Record]]:
        return independent(task)


@ATTACKS.register("relearning_facts_lora")
class RelearningFactsLora(RelearningFacts):
    """The same by a new adapter."""

    title = "the same on independent facts by LoRA"
    lora = True


def independent(task: Task) -> tuple[list[Record], list[Record]]:
    """What is taught and what is tested: no record that is taught says a fact of one that is tested.

    The person's names are no such facts: all records say them. UserError where nothing is left to teach, or no tested
    record has a fact.
    """
    chosen = set(draw(task.forget, SHARE, task.settings.seed))
    facts = {
        record.key: [fact for fact in task.facts.get(record.key, ()) if not is_said_name(fact, task.identifiers)]
        for record in task.forget
    }
    tested = [record for i, record in enumerate(task.forget) if i not in chosen and facts[record.key]]
    secret = Matcher(tuple(dict.fromkeys(fact for record in tested for fact in facts[record.key])))
    taught = [
        record
        for i, record in enumerate(task.forget)
        if i in chosen and not secret.said("\n".join(turn.text for turn in record.turns))
    ]
    if not tested or not taught:
        raise UserError(
            f"of {len(task.forget)} forget records {len(tested)} could be tested and {len(taught)} say none of their "
            "facts: it needs both"
        )
    return taught, tested
