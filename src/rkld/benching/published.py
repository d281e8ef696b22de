"""Published data sets whose columns are not those of a record: their rows, checked, and what they are known by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkld.errors import UserError
from rkld.files import can_be_path, contents
from rkld.records.sources import SUFFIXES, rows_of


def fields_of(source: str, what: str, names: Sequence[str]) -> list[dict[str, str]]:
    """The named columns of every row.

    Args:
        source: a file, or ``FOLDER:PART`` of a clone of a hub data set.
        what: the set, for messages.

    Raises:
        UserError: no such file; a row that lacks one of the columns, or has no text in it. No contents are shown.
    """
    return [{name: text_in(row, name, where) for name in names} for where, row in rows_of(source, what)]


def texts_of(source: str, what: str, *, blank: bool = False) -> list[str]:
    """As :func:`fields_of`, of rows that are a text alone, or have it in the column ``text``.

    Args:
        blank: whether a text may hold nothing, as some of published corpora do; not all of them.
    """
    texts = [
        text_in({"text": row} if isinstance(row, str) else row, "text", where, blank=blank)
        for where, row in rows_of(source, what)
    ]
    if not any(map(str.strip, texts)):
        raise UserError(f"{source} holds no text, or blank ones alone. Fetch the data set again.")
    return texts


def text_in(row: Any, name: str, where: str, *, blank: bool = False) -> str:
    """A row's text in a column; UserError where the row has none there, or what UTF-8 cannot hold.

    Args:
        blank: whether it may hold nothing.
    """
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not (blank or value.strip()):
        found = "no such column" if value is None else f"{type(value).__name__}, or nothing" if value else "nothing"
        raise UserError(f"{where}: '{name}' must hold a text, and holds {found}. Fetch the data set again.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: '{name}' holds half of a character. Fetch the data set again.") from None
    return value


def need_folder(data: str, parts: Collection[str], what: str) -> None:
    """Refuse a folder that is not there, or lacks one of the data set's parts ("raw/forget", without its ending)."""
    folder = Path(data)
    if not data or not can_be_path(data) or not folder.is_dir():
        raise UserError(f"--data {data or 'is missing'}: give a local folder of {what}.")
    if missing := [part for part in parts if not part_files(data, part)]:
        raise UserError(
            f"--data {data} lacks {', '.join(missing)} of {what} (files that end in {', '.join(SUFFIXES)}). "
            "Fetch the whole data set, or check the folder."
        )


def part_files(data: str, part: str) -> list[Path]:
    """The files of a part: ``raw/forget.json``, or what the hub makes of it, ``raw/forget-00000-of-00001.parquet``."""
    found = sorted(Path(data).glob(f"{part}.*")) + sorted(Path(data).glob(f"{part}-?????-of-?????*.*"))
    return [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]


def data_identity(data: str, parts: Collection[str]) -> str:
    """A hash of the parts' contents: data that moved are the same, data that changed are not."""
    return contents(*(path for part in parts for path in part_files(data, part)))
