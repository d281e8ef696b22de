"""Writing that leaves either the old file or the new one, never half of it, and lets nobody else read it.

Whatever a run, an audit or a benchmark writes may hold personal data: files have mode 0600, folders 0700.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rkld import processes
from rkld.errors import UserError, nearest

LFS = b"version https://git-lfs.github.com/"
"""What a file begins with that stands for another one, which Git LFS has not fetched."""

DATA = Path(__file__).with_name("data")
"""What is shipped with the package."""

TEMPLATES = DATA / "templates"
"""Chat templates by name, as other projects' models were trained with."""


LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of the name of a file, and of a whole path, on Linux; other systems have room for about as many characters."""


def can_be_path(text: str) -> bool:
    """Whether a text could be a path at all. Asking the system for any other one is an error, not a "no"."""
    if "\0" in text:
        return False
    try:
        path = os.fsencode(Path(text).expanduser())
    except (RuntimeError, ValueError):  # no such user; half of a surrogate pair
        return False
    return len(path) <= LONGEST_PATH and all(len(name) <= LONGEST_NAME for name in path.split(os.fsencode(os.sep)))


def nearest_path(path: Path) -> str:
    """A hint as of :func:`rkld.errors.nearest` at what lies where ``path`` is not; "" where nothing is like it."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = nearest(path.name, names)
    return near if path.parent == Path() else near.replace("'", f"'{path.parent}{os.sep}", 1)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file beside ``path`` that takes its name, and its place, if the block succeeds."""
    path = Path(path)
    beside = _beside(path)
    beside.unlink(missing_ok=True)
    os.close(_open_private(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        yield beside
        beside.chmod(0o600)  # a library may have put a file of its own there
        flush_to_disk(beside)
        beside.replace(path)
        flush_to_disk(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def check_new_file(path: Path) -> None:
    """Refuse what ``--out`` names where no new file can be written, before time is spent on what goes there.

    Raises:
        UserError: there is something already, or no folder, or nothing can be written to it.
    """
    if os.path.lexists(path):
        raise UserError(f"--out {path} exists already: give another name, or remove it.")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}. Make it first.")
    beside = _beside(path)
    try:
        beside.unlink(missing_ok=True)
        os.close(_open_private(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        beside.unlink()
    except OSError as error:
        raise UserError(f"--out {path}: nothing can be written there ({error.strerror}). Give another name.") from None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` that takes its name, and its place, if the block succeeds.

    What stood there is deleted, but not before the new one stands there. A link makes way itself, not what it leads to.
    """
    folder = Path(folder)
    make_folder(folder.parent)
    beside, old = _beside(folder), _beside(folder, ".old")
    for path in (beside, old):
        _delete(path)
    beside.mkdir(mode=0o700)
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            flush_to_disk(path)
        if os.path.lexists(folder):
            folder.rename(old)
        try:
            beside.rename(folder)
        finally:
            if os.path.lexists(old) and not os.path.lexists(folder):
                old.rename(folder)
        flush_to_disk(folder.parent)
        _delete(old)
    finally:
        _delete(beside)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading its bytes, in a folder that may be anybody's.

    Raises:
        OSError: it cannot be opened, or is no regular file: a link is not followed, a pipe not waited for.
    """
    flags = ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC")  # of those that the system has
    descriptor = os.open(path, functools.reduce(int.__or__, (getattr(os, flag, 0) for flag in flags), os.O_RDONLY))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, most: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: as of :func:`open_regular`; there are more than ``most`` bytes.
    """
    with open_regular(path) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"more than {readable_size(most)}", str(path))
    return found


class NameTwice(ValueError):
    """Of two values of a name in an object, readers take different ones."""


def names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for reading JSON. :class:`NameTwice` where a name stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NameTwice("a name twice")
    return found


def json_object(data: bytes) -> dict[str, Any]:
    """An object in JSON, in which no name stands twice: of two, readers take different ones.

    Raises:
        ValueError, RecursionError: it is none.
    """

    found = json.loads(data, object_pairs_hook=names_once)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def make_folder(folder: Path) -> None:
    """A folder that only its owner can look into, unless it is there already; those above it as the umask has them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_own_folder(folder: Path) -> None:
    """The same within a folder that may be anybody's, where a link would lead what is written to somewhere else.

    Raises:
        UserError: it is a link.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, and what belongs here would be written elsewhere. Delete the link.")
    make_folder(folder)


def _open_private(path: str | Path, flags: int) -> int:
    return os.open(path, flags, 0o600)


def unfinished(path: Path) -> list[Path]:
    """What :func:`new_file` or :func:`new_folder` left beside ``path`` where the process was killed."""
    return [found for found in path.parent.glob(f".{path.name}.*") if found.suffix[1:].isdigit()]


def _beside(path: Path, kind: str = "") -> Path:
    """What :func:`unfinished` finds."""
    return path.with_name(f".{path.name}{kind}.{os.getpid()}")


def _delete(path: Path) -> None:
    """A folder, or a file or link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole text, or what the file held before. Of several processes one writes it, and no other waits."""
    if processes.writes():
        with new_file(path) as new:
            new.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """One value a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, row: object) -> None:
    """One value more, at the end of the file. Of several processes one writes it, and no other waits."""
    if processes.writes():
        with open(path, "a", encoding="utf-8", opener=_open_private) as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[Any]:
    """What :func:`write_jsonl` wrote; nothing where there is no file.

    Raises:
        UserError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "no regular file", str(path))
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


def flush_to_disk(path: Path) -> None:
    """Have a file or folder written to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def readable_size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
