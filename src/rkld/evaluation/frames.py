"""Kinds of question that are kept for audits and figures: the recorded question, put as somebody else would put it.

What forgot a sentence answers when it is asked in another one, so what is measured must be worded in ways that neither
training nor the stop has seen. Rewordings for training (:mod:`rkld.records`) are statements to be completed,
imperatives, indirect questions, short answers, yes-no and reversed questions, running text, tickets, forms and letters.
None of :data:`FRAMES` is any of these but ``short``, whose wording alone is kept. Whatever trains or stops must not
import this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rkld.errors import UserError
from rkld.evaluation.answering import MARGIN, greedy_answers
from rkld.evaluation.readings import answer_rows
from rkld.records.probes import facts_of
from rkld.records.record import by_answer

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel
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

GLANCE = ("third_party", "index_card")
"""The kinds that :func:`facts_said_otherwise` asks in: what a run shows of itself, not an audit."""

FEW = 12
"""Questions that it asks in each of them at most."""


def framed(records: Sequence[Record], frame: str) -> list[Record]:
    """The records with their question in a frame."""
    return [record.with_question(frame.format(record.question)) for record in records]


def with_question(records: Sequence[Record]) -> list[Record]:
    """Those that can be framed."""
    return [record for record in records if record.form != "text" and record.question]


def facts_said_otherwise(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Record], *, max_new_tokens: int | None = None
) -> dict[str, list[bool | None]]:
    """Kind → for each fact whether greedy answers say it to a few of the records' questions, asked in it.

    {} where no record has a question and a fact, or none fits into the context with a frame around it. None of a fact
    that an answer did not say before it was cut.
    """
    facts = {record.key: facts_of(record) for record in by_answer(records)}
    asked = [record for record in with_question(by_answer(records)) if facts[record.key]]
    asked = asked[:: max(1, math.ceil(len(asked) / FEW))]
    if not asked:
        return {}
    found = {}
    for kind in GLANCE:
        made = [record for record in framed(asked, FRAMES[kind]) if _fits(encoder, record)]
        if not made:
            continue
        said = greedy_answers(lm, encoder, made, max_new_tokens=max_new_tokens, at_least=MARGIN)
        rows = answer_rows(made, said, facts, encoder)
        found[kind] = [flag for row in rows.values() for flag in row["facts"]]
    return found


def _fits(encoder: Encoder, record: Record) -> bool:
    try:
        encoder.encode(record)
    except UserError:
        return False
    return True
