"""Made once, noted, gone on from: how every long piece of work resumes.

A run's phases, an audit's readings and a benchmark's cells all ask :func:`once` for their result. What was made before
is read again, and what was not is made, noted atomically, and given back as it will be read the next time, so that a
resumed piece of work sees what an uninterrupted one does.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rkld.errors import UserError
from rkld.files import make_folder
from rkld.runfolder.checksums import read_sealed, write_sealed

logger = logging.getLogger(__name__)


class Notes(Protocol):
    """Where finished results are noted, by name."""

    def find(self, name: str) -> Any | None:
        """What is noted under ``name``; None where nothing is."""

    def note(self, name: str, made: Any) -> Any:
        """Note what was made, atomically, and give it back as :meth:`find` will."""


def once(notes: Notes, name: str, make: Callable[[], Any]) -> Any:
    """The result ``name``: found where it is noted, else made and noted."""
    found = notes.find(name)
    return notes.note(name, make()) if found is None else found


def _file_name(name: str) -> str:
    """``name`` as a part of a file's name: it stays in its folder.

    Raises:
        UserError: it holds a separator, begins with a dot, or is empty. A plug-in of the user's may be named so.
    """
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise UserError(f"{name!r} cannot be part of a file's name: leave out separators and a dot at its beginning.")
    return name


def _written(path: Path, value: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Write it, and give it back as it will be read."""
    make_folder(path.parent)
    write_sealed(path, value, key)
    found = read_sealed(path, key)
    assert found is not None, f"{path} was changed while it was written"
    return found


class HashedFiles:
    """One JSON object a result, ``FOLDER/NAME.IDENTITY.json``: under another identity it is made anew.

    So is a file that is broken, since what is in it can be had again.
    """

    def __init__(self, folder: Path, identity: str, key: str = ""):
        """
        Args:
            identity: a hash of all that decides the result.
            key: a secret of whoever may have noted it (:func:`own_key`): what others wrote is broken.
        """
        self.folder, self.identity, self.key = Path(folder), identity, key

    def path(self, name: str) -> Path:
        return self.folder / f"{_file_name(name)}.{_file_name(self.identity)}.json"

    def find(self, name: str) -> dict[str, Any] | None:
        """What :meth:`note` wrote; None where there is nothing, or nothing that can be read."""
        path = self.path(name)
        try:
            found = read_sealed(path, self.key)
        except FileNotFoundError:
            return None
        if found is None:
            logger.warning("%s is damaged: %s is made anew.", path, name)
        return found

    def note(self, name: str, made: Mapping[str, Any]) -> dict[str, Any]:
        return _written(self.path(name), made, self.key)


def own_cache() -> Path:
    """rkld's folder in the cache of this user; it need not be there.

    Raises:
        RuntimeError: the user has no home.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "rkld"


def own_key() -> str:
    """A secret of this user, in hex: what is found under an identity that it is part of was noted by them.

    It lies in ``rkld/readings.key`` of the user's cache, made once and readable by them alone, so in no folder that is
    handed on. Where it cannot be kept it is a fresh one each time, and nothing noted before is found.
    """
    key = secrets.token_hex(32)
    try:
        path = own_cache() / "readings.key"
        found = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if re.fullmatch("[0-9a-f]{64}", found):
            return found
        make_folder(path.parent)
        descriptor, beside = tempfile.mkstemp(dir=path.parent)  # of mode 0600
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(key)
        os.replace(beside, path)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        pass
    return key


class ResultFiles:
    """One JSON file a result, ``FOLDER/NAME.json``, with the settings that it was made by."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        """
        Args:
            settings: all that decides the results, as JSON has them.
        """
        self.folder, self.settings = Path(folder), dict(settings)

    def path(self, name: str) -> Path:
        return self.folder / f"{_file_name(name)}.json"

    def find(self, name: str) -> dict[str, Any] | None:
        """What :meth:`note` wrote.

        Raises:
            UserError: it was made by other settings, or the file is broken.
        """
        path = self.path(name)
        if not path.exists():
            return None
        found = read_sealed(path)
        then = found.get("settings") if found else None
        if found is None or not isinstance(then, dict):
            raise UserError(f"{path} is broken: delete it to make it again.")
        different = [
            f"  {name}: {then.get(name)!r} then, {value!r} now"
            for name, value in self.settings.items()
            if then.get(name) != value
        ]
        if different:
            raise UserError(
                f"{path.parent}: this was made with other settings. Give another --out, or delete it.\n"
                + "\n".join(different)
            )
        return found

    def note(self, name: str, made: Mapping[str, Any]) -> dict[str, Any]:
        return _written(self.path(name), {"settings": self.settings, **made})
