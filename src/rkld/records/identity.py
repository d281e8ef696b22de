"""Whom records are about, and whether two records are the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from rkld.errors import UserError
from rkld.records.record import SYSTEM_ROLES, Record
from rkld.text.normalising import normal


def identifiers(records: Iterable[Record], subjects: Iterable[str]) -> tuple[str, ...]:
    """Every name, alias and identifier known from the flags and the records, each once, the longest first."""
    known = [*subjects]
    for record in records:
        known += [record.subject] if record.subject else []
        known += record.aliases
    unique = {normal(name): name for name in reversed(known)}  # reversed: the first spelling stays
    return tuple(sorted(unique.values(), key=lambda name: (-len(name), name)))


def check_disjoint(
    forget: Iterable[Record], retain: Iterable[Record], names: tuple[str, str] = ("forget", "retain")
) -> None:
    """Refuse records that are to be both forgotten and retained, whatever their format, case and spacing.

    ``names`` are those of the two sets, for the message.
    """
    forgotten: dict[tuple[str, ...], Record] = {}
    for record in forget:
        forgotten.setdefault(_identity(record), record)
    shared = [(forgotten[_identity(record)], record) for record in retain if _identity(record) in forgotten]
    if shared:
        first, second = shared[0]
        raise UserError(
            f"{len(shared)} record(s) stand in both the {names[0]} and the {names[1]} data, the first is "
            f"{first.where} and {second.where}: remove them from one of the two"
        )


def content(record: Record) -> tuple[str, ...]:
    """What a record says, turn by turn without system prompts, to know the same record again in another file.

    Only white space and the Unicode form (NFC) are made alike: records that differ in anything else are two.
    """
    return tuple(" ".join(unicodedata.normalize("NFC", text).split()) for text in _said(record))


def _identity(record: Record) -> tuple[str, ...]:
    return tuple(map(normal, _said(record)))


def _said(record: Record) -> Iterator[str]:
    """The contents of its turns, without system prompts."""
    return (turn.text for turn in record.turns if turn.role not in SYSTEM_ROLES)
