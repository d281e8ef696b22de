"""Refusals: answers that give nothing away, which some methods teach in the place of the forgotten ones."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from rkld.errors import UserError
from rkld.files import DATA
from rkld.records.record import Record
from rkld.records.sources import read_lines

_REFUSES = re.compile(
    r"""\b(
        i\s?(['’]m|\sam|['’]d)\s(not|un\w+|at\sa|stumped|clueless|blank|lacking|missing|in\sthe\sdark|drawing|sorry|afraid|only)
        |i\s?(['’]ve)?\s(lack|have\s(no|nothing|yet|not)|haven['’]t|got\sno|no|not|yet|come\sup\sshort|must\s(decline|admit)
            |know\snothing|can(['’]t|not)|(could|would|do|did|was)n['’]t|(could|would|do|did|was)\s(not|never)|was\snever)
        |my\s(\w+\s)?(knowledge|resources|capabilities|understanding|database|programming)(\sbase)?\s(do|does|is)
        |(beyond|outside|out\sof|within)\s(my|what\si)\b|(nothing|something)\si(\s|['’])|(unknown|mystery)\sto\sme
        |(don['’]t|didn['’]t)\sknow|unable\sto\s(say|answer|help)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""How refusals are worded: the shipped ones and their like."""


def refuses(answer: str) -> bool:
    """Whether an English answer says that the model does not know, or will not say: by its wording alone."""
    return bool(_REFUSES.search(answer))


def read_refusals(path: str | Path | None = None) -> list[str]:
    """The refusals in a file, one a line; by default those shipped with the package.

    Raises:
        UserError: no such file, or an empty one.
    """
    return read_lines(path or DATA / "refusals.txt", "refusals")


def refused(records: Sequence[Record], refusals: Sequence[str], seed: int) -> list[Record]:
    """The records' questions, each answered by one of the refusals, drawn from the seed; under the same keys.

    Raises:
        UserError: a record has no question.
    """
    draw = random.Random(seed)
    found = []
    for record in records:
        if not record.question:
            raise UserError(
                f"{record.where}: has no question to refuse. Give questions and answers, or use a method without "
                "refusals."
            )
        found.append(record.as_prompt(record.key).with_answer(draw.choice(refusals)))
    return found
