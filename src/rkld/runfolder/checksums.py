"""Checksums: what was written is believed only while it is what was written.

A run's manifest notes a checksum of every file that a phase leaves (:func:`checksums`); before it is read by another
start, it is compared (:func:`differing`). A JSON document of ours carries the checksum of its own content
(:func:`sealed`). What is not whole is made again from the unit of work before it, or refused.

They find damage, and another file in the place of ours. They keep out nobody who may write the manifest, too. What
others are to believe is signed (:mod:`rkld.reporting.signing`), by :func:`sha256`.
"""

from __future__ import annotations

import filecmp
import hashlib
import hmac
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rkld.files import open_regular, write_json

CHECKSUM = "checksum"
"""The key in a sealed document."""

FOR_PEOPLE = ".md"
"""Files that nothing reads and people may write on: they are noted, and not compared."""


def checksum(path: Path) -> str:
    """Of a file's bytes: BLAKE2b, 32 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sha256(path: Path, key: bytes = b"") -> str:
    """Of a file's bytes: SHA-256, or with a key HMAC-SHA256, in 64 hex digits.

    A plain one of a short text can be found by trying texts; whoever lacks the key cannot.

    Raises:
        OSError: it cannot be read, or is a link or no regular file (:func:`rkld.files.open_regular`).
    """
    start: Callable[[], Any] = partial(hmac.new, key, digestmod="sha256") if key else hashlib.sha256
    with open_regular(path) as file:
        return hashlib.file_digest(file, start).hexdigest()


def weights_hash(folder: Path) -> str:
    """Hash (BLAKE2b, 32 hex digits) of the weight files in a folder and below: which weights they are, byte by byte.

    Of names and bytes of every ``*.safetensors`` and ``*.bin``, sorted by name.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, path in sorted(_weight_files(folder).items()):
        digest.update(f"{name}\n{checksum(path)}\n".encode())
    return digest.hexdigest()


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weight files, as :func:`weights_hash` compares them, up to where they differ:
    by their names, then by their sizes, then by their bytes from the first on.
    """
    files, others = _weight_files(one), _weight_files(other)
    if files.keys() != others.keys():
        return False
    pairs = [(path, others[name]) for name, path in files.items() if not path.samefile(others[name])]
    return all(a.stat().st_size == b.stat().st_size for a, b in pairs) and all(
        filecmp.cmp(a, b, shallow=False) for a, b in pairs
    )


def _weight_files(folder: Path) -> dict[str, Path]:
    """Path in the folder, with slashes → each weight file in it and below."""
    paths = (path for pattern in ("*.safetensors", "*.bin") for path in Path(folder).rglob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def checksums(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Path in ``folder``, with slashes → checksum, of each named file and every file in each named folder.

    Hidden files are left out: file managers and version control leave them.
    """
    found = {}
    for name in sorted(names):
        top = folder / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inner.parts):
                found[inner.as_posix()] = checksum(path)
    return found


def differing(folder: Path, noted: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Path → "missing", "changed" or "added": how what lies under the names differs from what :func:`checksums` noted.

    Raises:
        OSError: a file cannot be read.
    """
    then = {path: value for path, value in noted.items() if belongs(path, names)}
    now = checksums(folder, names)
    ways = {
        path: "missing" if path not in now else "added" if path not in then else "changed"
        for path in sorted(then.keys() | now.keys())
        if then.get(path) != now.get(path)
    }
    return {path: way for path, way in ways.items() if not path.endswith(FOR_PEOPLE)}


def belongs(path: str, names: Collection[str]) -> bool:
    """Whether a path in a folder is one of the names there, or lies below one."""
    return any(path == name or path.startswith(f"{name}/") for name in names)


def content_checksum(document: Mapping[str, Any], key: str = "") -> str:
    """Of a document without its own checksum: BLAKE2b, 32 hex digits, of its JSON with sorted keys.

    Args:
        key: up to 64 characters of ASCII; with a secret one, nobody else can make the checksum.
    """
    content = json.loads(json.dumps({name: value for name, value in document.items() if name != CHECKSUM}))
    data = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=16, key=key.encode()).hexdigest()


def sealed(document: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """The document with its checksum in it."""
    return {**document, CHECKSUM: content_checksum(document, key)}


def unsealed(found: object, key: str = "") -> dict[str, Any] | None:
    """The document without its checksum; None where it is not as :func:`sealed` made it.

    One without a checksum is of an earlier version, and believed where no key is asked for.
    """
    if not isinstance(found, dict):
        return None
    try:
        whole = found[CHECKSUM] == content_checksum(found, key) if CHECKSUM in found else not key
    except (ValueError, RecursionError):  # numbers or depths that JSON has and Python does not write
        return None
    return {name: value for name, value in found.items() if name != CHECKSUM} if whole else None


def write_sealed(path: Path, document: Mapping[str, Any], key: str = "") -> None:
    """Write a document with its checksum."""
    write_json(path, sealed(document, key))


def read_sealed(path: Path, key: str = "") -> dict[str, Any] | None:
    """What :func:`write_sealed` wrote, without its checksum; None where it is damaged.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")), key)
    except (ValueError, RecursionError):
        return None
