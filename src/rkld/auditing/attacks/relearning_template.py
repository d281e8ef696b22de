"""Relearning on other people's records that are worded as the forgotten ones are.

Yoon et al. 2026 (arXiv 2602.03379): what brings forgotten text back is data of the same syntax, whatever it is about.
None of the forget records is taught here; of the other people's those whose questions are most like theirs, measured as
the ratio of ``difflib`` over words: ``2·M / T`` of M matching words of T in both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import lru_cache

from rkld.auditing.attacks.relearning import RelearningAttack
from rkld.auditing.inputs import PEOPLE, Task
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.records.record import Record
from rkld.text.normalising import words

BEGINNING = 30
"""Words of a plain text that count as its wording."""


@ATTACKS.register("relearning_template")
class RelearningTemplate(RelearningAttack):
    """As many records of other people as the share of the forget records would be, the most alike in wording."""

    title = "fine-tuning on other people's records of the same wording, then asking for all"
    settings = ("relearn_share", *RelearningAttack.settings)
    needs = "--retain, --neighbours or --holdout"
    source = "Yoon et al. 2026, arXiv 2602.03379"

    def split(self, task: Task) -> tuple[list[Record], list[Record]]:
        others = of_others(task)
        if not others:
            raise UserError("needs --retain, --neighbours or --holdout: records of other people to learn")
        count = max(1, math.ceil(task.settings.relearn_share * len(task.forget)))
        return most_alike(others, task.forget)[:count], list(task.forget)


@ATTACKS.register("relearning_template_lora")
class RelearningTemplateLora(RelearningTemplate):
    """The same by a new adapter."""

    title = "the same on other people's records by LoRA"
    lora = True


def of_others(task: Task) -> list[Record]:
    """The audit's records about other people, with keys of their own."""
    sets = {**{name: task.utility.get(name, []) for name in PEOPLE}, "holdout": task.holdout}
    return [replace(record, key=f"{name} {record.key}") for name, records in sets.items() for record in records]


def most_alike(others: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """The others, those first whose wording is most like that of one of the records."""
    return [others[i] for i in _order(tuple(map(_wording, others)), frozenset(map(_wording, records)))]


@lru_cache(maxsize=256)  # the same for every model of an audit
def _order(others: Sequence[Sequence[str]], asked: Collection[Sequence[str]]) -> list[int]:
    found = [max(likeness(other, one) for one in asked) for other in others]
    return sorted(range(len(others)), key=lambda i: (-found[i], i))


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """``2·M / T`` of two lists of words, in [0, 1]; 1 where they are the same."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _wording(record: Record) -> tuple[str, ...]:
    return tuple(words(record.question or record.answer)[:BEGINNING])
