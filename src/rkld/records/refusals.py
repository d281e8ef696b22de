"""Refusals: answers that give nothing away, which some methods teach in the place of the forgotten ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from rkld.errors import UserError
from rkld.files import DATA
from rkld.records.record import Record
from rkld.records.sources import read_lines


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
