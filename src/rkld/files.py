"""Writing that leaves either the old file or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rkld.errors import UserError

DATA = Path(__file__).with_name("data")
"""What is shipped with the package."""

TEMPLATES = DATA / "templates"
"""Chat templates by name, as other projects' models were trained with."""


def write_text(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def unfinished(path: Path) -> list[Path]:
    """What :func:`write_text` left beside ``path`` where the process was killed."""
    return [found for found in path.parent.glob(f".{path.name}.*") if found.suffix[1:].isdigit()]


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """One value a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[Any]:
    """What :func:`write_jsonl` wrote; nothing where there is no file.

    Raises:
        UserError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        # Not splitlines(): a text may hold other line separators than the one between rows.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged: restore it, or delete what it belongs to and begin again.") from None


def contents(*paths: Path) -> str:
    """A hash of what files say, wherever they lie."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
    return digest.hexdigest()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` that takes its name, and its place, if the block succeeds."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            flush_to_disk(path)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
        flush_to_disk(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """Have a file or folder written to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
