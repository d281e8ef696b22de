"""The user's own documents turned into questions: what they say of the person is asked for as ``rkld reword`` would."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rkld.discovering.questions import NAME, Topic, in_two_wordings, names_whom, placed
from rkld.errors import UserError
from rkld.records.reading import read_records
from rkld.records.record import Record, Rewording, Turn
from rkld.records.rewording import usable_record
from rkld.records.rewording_rules import rewordings_by_rules
from rkld.records.sources import FORMATS, csv_table, existing_file, local_path, rows_of, text_of, whole_characters
from rkld.text.wording import is_name, name_mentions

TEXTS = (".txt", ".md")
"""Documents that are read paragraph by paragraph."""

WORDINGS = 4
"""In which a fact of a document is asked for at most."""

_KINDS = ("imperative", "indirect", "short", "completion")
"""Kinds of rewording whose answer says the fact, and whose question does not."""

_LONGEST_VALUE = 200
"""Characters of a field that is asked for; a longer one is read as text."""


def topics_of_documents(source: str, identifiers: Sequence[str]) -> list[Topic]:
    """A topic for each fact that the documents say of the person.

    Args:
        source: a text (.txt, .md), whose paragraphs are read; records in any form that ``rkld unlearn`` reads; or rows
            of fields (CSV, JSON), of which each that names the person is asked for field by field.
        identifiers: of the person.

    Raises:
        UserError: a file that cannot be read, or that says nothing of the person.
    """
    found: dict[str, Topic] = {}
    for topic in _topics(source, identifiers):
        found.setdefault(f"{topic.given}\n{topic.questions}", topic)
    if not found:
        raise UserError(
            f"--source {source} says nothing of the person that could be asked for: it must name the person as "
            "--subject and --alias do, with names, dates or numbers beside."
        )
    return list(found.values())


def _topics(source: str, identifiers: Sequence[str]) -> list[Topic]:
    if Path(source).suffix.lower() in TEXTS:
        text = text_of(existing_file(local_path(source, "source"), "source"))
        records = [_text(f"{number}", part) for number, part in enumerate(_paragraphs(text), 1)]
        return [topic for record in records for topic in _of_record(record, identifiers)]
    rows = _table(source) or rows_of(source, "source")
    if all(isinstance(row, Mapping) and _is_record(row) for _, row in rows):
        return [topic for record in read_records(source, "source") for topic in _of_record(record, identifiers)]
    return [topic for where, row in rows for topic in _of_fields(where, row, identifiers)]


def _table(source: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file of the user's own columns; none where it is a file of records, or no CSV."""
    if Path(source).suffix.lower() != ".csv":
        return []
    path = existing_file(local_path(source, "source"), "source")
    rows = csv_table(path, text_of(path))
    _, header = next(rows)
    if any(set(names) <= set(header) for names in FORMATS):
        return []
    return [(where, dict(zip(header, cells))) for where, cells in rows if any(cell.strip() for cell in cells)]


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _text(key: str, text: str) -> Record:
    return Record(key, "text", (Turn("text", text),), where=f"paragraph {key}")


def _is_record(row: Mapping[str, Any]) -> bool:
    return any(all(row.get(name) is not None for name in names) for names in FORMATS)


def _of_record(record: Record, identifiers: Sequence[str]) -> list[Topic]:
    """A topic for each fact of a record that names the person."""
    if not any(name_mentions(turn.text, identifiers) for turn in record.turns):
        return []
    asked = [Rewording(record.question, record.answer)] if record.form != "text" and record.question else []
    ways: dict[str, dict[str, list[str]]] = {}  # fact → questions and begins
    for one in (*asked, *rewordings_by_rules(record, _name_first(identifiers), _KINDS)):
        made = usable_record(record, one, identifiers)
        if isinstance(made, str):
            continue
        for fact in made.spans:
            if fact in made.question or fact not in made.answer:
                continue
            entry = ways.setdefault(fact, {"questions": [], "begins": []})
            question, begin = placed(made.question, identifiers), made.answer[: made.answer.index(fact)].rstrip()
            entry["questions"] += [question] if names_whom(question) else []
            entry["begins"] += [placed(begin, identifiers)] if begin else []
    return [
        Topic(
            f"document, {record.where or record.key}",
            "words",
            in_two_wordings(list(dict.fromkeys(found["questions"]))[:WORDINGS]),
            tuple(dict.fromkeys(found["begins"])),
            fact,
        )
        for fact, found in ways.items()
        if found["questions"]
    ]


def _name_first(identifiers: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(identifiers, key=lambda one: not is_name(one)))


def _of_fields(where: str, row: Any, identifiers: Sequence[str]) -> list[Topic]:
    """A topic for each field of a row that names the person in one of its fields."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: not an object with named fields: give a text, records, or rows of fields.")
    fields = {
        whole_characters(str(name), "a field's name", where): whole_characters(str(value), "a field", where).strip()
        for name, value in row.items()
        if isinstance(value, str | int | float)
    }
    if not any(name_mentions(value, identifiers) for value in fields.values()):
        return []
    found = []
    for name, value in fields.items():
        if not value or name_mentions(value, identifiers):
            continue
        if len(value) > _LONGEST_VALUE:
            found += _of_record(_text(f"{where} {name}", value), identifiers)
            continue
        label = re.sub(r"[\s_]+", " ", name).strip()
        questions = (f"What is the {label} of {NAME}?", f"Please tell me the {label} of {NAME}.")
        found.append(Topic(label, "words", questions, (f"The {label} of {NAME} is",), value))
    return found
