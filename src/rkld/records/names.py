"""Other people's names in the place of the person's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rkld.files import DATA
from rkld.records.identity import identifiers as known_identifiers
from rkld.records.record import Record
from rkld.text.wording import holds, is_name, name_mentions, with_names


def other_names() -> list[str]:
    """Full names of nobody in particular, to stand in for the subject's."""
    names: list[str] = json.loads((DATA / "swap_names.json").read_text(encoding="utf-8"))["names"]
    return names


def own_identifiers(record: Record, records: Sequence[Record], identifiers: Sequence[str]) -> tuple[str, ...]:
    """The identifiers of the person a record is about, where several people are to be forgotten.

    The record's own, if it has any, and of all ``identifiers`` those that no other record claims.
    """
    own = known_identifiers([record], ())
    if not own:
        return tuple(identifiers)
    others = set(known_identifiers(records, ())) - set(own)
    return known_identifiers([record], [name for name in identifiers if name not in others])


def swap_name(record: Record, identifiers: Sequence[str], name: str) -> Record | None:
    """The record with the person's name replaced by another in every turn.

    First names are replaced by the first word of ``name``, last and middle names by its last one.

    Returns:
        None where nothing was replaced, or something that identifies the person would remain.
    """
    pieces = {"full": name, "first": name.split()[0], "last": name.split()[-1]}
    numbers = tuple(identifier for identifier in identifiers if not is_name(identifier))
    if any(holds(turn.text, numbers) for turn in record.turns):
        return None
    swapped = record.map_text(lambda text: with_names(text, identifiers, pieces.__getitem__))
    if swapped.turns == record.turns or any(name_mentions(turn.text, identifiers) for turn in swapped.turns):
        return None
    return swapped
