"""The manifest of a run folder, and salted hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rkld.errors import UserError
from rkld.files import write_text

MANIFEST, SETTINGS, AUDIT = "manifest.json", "run.yaml", "audit.json"

FORMAT = 2
"""Of manifest.json. Finished runs of format 1 (rkld 0.1) are read, audited and purged."""


def salted(salt: str, value: object) -> str:
    """Says whether two values are equal to whoever has the salt, and nothing of what they are to anybody else."""
    data = salt + json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(data.encode(), digest_size=16).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder; None where there is none, or another program's.

    Raises:
        UserError: it is of a later format.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(found, dict) or not {"format", "settings", "phases"} <= found.keys():
        return None
    if found["format"] not in range(1, FORMAT + 1):
        raise UserError(
            f"{folder}: a run of format {found['format']}; this version of rkld knows formats 1 to {FORMAT}. "
            "Use the version that made it."
        )
    whole: dict[str, Any] = found
    return whole


def is_finished(manifest: Mapping[str, Any]) -> bool:
    """Whether the run's phases are all done."""
    return "after" in manifest["phases"] or (manifest["format"] == 1 and "model" in manifest["phases"])


def write_settings(folder: Path, settings: Mapping[str, object]) -> None:
    import yaml

    write_text(folder / SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def run_of(model: str) -> Path | None:
    """The run folder that ``model`` is, or whose ``model/`` it is; None where it is neither."""
    path = Path(model)
    return next((folder for folder in (path, path.parent) if model and read_manifest(folder)), None)
