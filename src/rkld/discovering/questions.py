"""What a model is asked about a person: topics, each in several wordings, shipped by kind of person or the user's own.

Each half of a topic's wordings proposes values of its own, and all of them test what was proposed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rkld.errors import UserError, nearest
from rkld.files import DATA
from rkld.records.rewording_rules import indirect_clause
from rkld.records.sources import local_path, numbered_lines, rows_of, text_of, whole_characters
from rkld.text.wording import with_names

Values = Literal["names", "dates", "numbers", "addresses", "words"]
"""What the answer to a topic is: proper nouns, what has digits, e-mail addresses, or any words."""

NAME = "{name}"
"""Where the person's name stands in a wording."""

STAND_IN = "Jane Doe"
"""A name that stands for any, where a wording is only analysed."""


def placed(text: str, identifiers: Sequence[str]) -> str:
    """The text with places in the place of the person's name and of its parts: {name}, {first}, {last}."""
    return with_names(text, identifiers, {"full": NAME, "first": "{first}", "last": "{last}"}.__getitem__)


def filled(text: str, name: str) -> str:
    """The text with a name in its places."""
    words = name.split()
    return text.replace(NAME, name).replace("{first}", words[0]).replace("{last}", words[-1])


def names_whom(text: str) -> bool:
    """Whether a text has a place for the name or a part of it."""
    return any(place in text for place in (NAME, "{first}", "{last}"))


@dataclass(frozen=True)
class Topic:
    """One thing that may be known of a person, in several wordings."""

    name: str
    values: Values
    questions: tuple[str, ...]
    """At least two."""
    begins: tuple[str, ...] = ()
    """How an answer may begin, behind which the value stands; the first ones are plain texts, too."""
    given: str = ""
    """A value that the model does not propose, as it stands in the user's documents."""

    def half(self, number: int) -> tuple[str, ...]:
        """One half of the questions, 0 or 1."""
        return self.questions[number::2]


@cache
def _shipped() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "discovery_questions.json").read_text(encoding="utf-8"))
    return found


def kinds() -> tuple[str, ...]:
    """The kinds of person for which questions are shipped."""
    return tuple(_shipped()["kinds"])


def shipped_topics(kind: str) -> list[Topic]:
    """The topics of a kind of person.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in kinds():
        raise UserError(
            f"there are no questions for --kind '{kind}'.{nearest(kind, kinds())} Known: {', '.join(kinds())}."
        )
    found = _shipped()["topics"]
    return [
        Topic(name, found[name]["values"], tuple(found[name]["questions"]), tuple(found[name]["begins"]))
        for name in _shipped()["kinds"][kind]
    ]


# The user's own


def read_topics(source: str, identifiers: Sequence[str]) -> list[Topic]:
    """The user's own questions.

    Args:
        source: a text file with one question a line; or rows (JSON lines, JSON, CSV) with ``question``, or
            ``questions`` of one topic and, optionally, ``topic``, ``begins`` and ``values`` (:data:`Values`). The
            person stands in them as {name}, or by one of the identifiers.

    Raises:
        UserError: a file that cannot be read; a row without a question, or a question without the person.
    """
    if Path(source).suffix.lower() == ".txt":
        path = local_path(source, "questions")
        rows: Sequence[tuple[str, Any]] = [
            (f"{path} line {n}", {"question": line}) for n, line in numbered_lines(text_of(path))
        ]
    else:
        rows = rows_of(source, "questions")
    found = [_topic(number, where, row, identifiers) for number, (where, row) in enumerate(rows, 1)]
    if not found:
        raise UserError(f"--questions {source} holds no question: write one a line, with {NAME} for the person.")
    return found


def _topic(number: int, where: str, row: Any, identifiers: Sequence[str]) -> Topic:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a row of questions is an object with 'question', or with 'questions' and 'begins'.")
    questions = [_with_place(text, where, identifiers) for text in _texts(row, ("questions", "question"), where)]
    begins = [_with_place(text, where, identifiers) for text in _texts(row, ("begins", "begin"), where)]
    if not questions:
        raise UserError(f"{where}: there is no question. Give it 'question', or 'questions' of one topic.")
    values = row.get("values") or "words"
    if values not in get_args(Values):
        raise UserError(
            f"{where}: 'values' must be one of {', '.join(get_args(Values))}.{nearest(str(values), get_args(Values))}"
        )
    name = row.get("topic")
    return Topic(
        name if isinstance(name, str) and name.strip() else f"question {number}",
        cast("Values", values),
        in_two_wordings(questions),
        tuple(begins),
    )


def _texts(row: Mapping[str, Any], names: Sequence[str], where: str) -> list[str]:
    given: Any = next((row[name] for name in names if row.get(name)), [])
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise UserError(f"{where}: '{names[0]}' must be texts, none of them empty.")
    return [whole_characters(text, f"'{names[0]}'", where).strip() for text in given]


def _with_place(text: str, where: str, identifiers: Sequence[str]) -> str:
    """The text with {name} in the place of the person."""
    found = text if NAME in text else placed(text, identifiers)
    if not names_whom(found):
        raise UserError(f"{where}: a question does not name the person: write {NAME} where the name stands.")
    return found


def in_two_wordings(questions: Sequence[str]) -> tuple[str, ...]:
    """The questions, at least two: to a single one comes another wording of it, made by rule."""
    if len(questions) > 1:
        return tuple(questions)
    question = questions[0]
    clause = indirect_clause(question.replace(NAME, STAND_IN), (STAND_IN,)).replace(STAND_IN, NAME)
    return (question, f"Please tell me {clause}." if clause else f"Please answer this question: {question}")
