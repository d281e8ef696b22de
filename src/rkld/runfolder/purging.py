"""Deleting what still holds personal data."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rkld.errors import UserError
from rkld.files import unfinished
from rkld.runfolder.checksums import belongs, write_sealed
from rkld.runfolder.folder import OF_AUDIT, PERSONAL, remove
from rkld.runfolder.manifest import AUDIT, SETTINGS, is_finished, read_manifest, write_manifest, write_settings


def purge(folder: str | Path) -> list[tuple[str, int]]:
    """Delete everything in a run's or an audit's folder that still holds personal data; model and numbers stay.

    The subject is taken out of run.yaml, all text out of audit.json. An unfinished run cannot go on afterwards.

    Returns:
        what was deleted: its name in the folder and its size in bytes.

    Raises:
        UserError: neither a run's folder nor an audit's.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    audited = _read_audit(folder) is not None  # or refused, before anything is deleted
    if manifest is None:
        if audited:  # beside it may lie other things of the user's, whatever they are called
            return remove(folder, OF_AUDIT) + _purge_audit(folder)
        raise UserError(
            f"{folder}: no run folder of rkld (it has no manifest.json) and no audit's (it has no {AUDIT}). Give the "
            "folder that --out named."
        )
    # Said before it is done: a purge that is cut short must not look like a run that can go on.
    manifest["purged"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    manifest["finished"] = is_finished(manifest)
    write_manifest(folder, manifest)
    removed = remove(folder, list(PERSONAL)) + _purge_settings(folder, manifest["settings"]) + _purge_audit(folder)
    # With the salt beside them, the hashes would let anybody try names and short records.
    for name in ("salt", "subject"):
        manifest.pop(name, None)
    manifest["records"] = {n: {"n": v["n"]} for n, v in manifest["records"].items() if isinstance(v, dict)}
    for phase in manifest["phases"].values():  # how many records steered the stop stays known, which ones does not
        if isinstance(phase, dict) and isinstance(phase.get("steering"), dict):
            for name in ("hashes", "holdout"):
                phase["steering"].pop(name, None)
    files = manifest.get("files", {})
    manifest["files"] = {path: value for path, value in files.items() if not belongs(path, list(PERSONAL))}
    manifest["personal_data"] = {}
    write_manifest(folder, manifest)
    return removed


def _purge_settings(folder: Path, settings: Mapping[str, object]) -> list[tuple[str, int]]:
    """Write run.yaml without the subject. The manifest has all the other settings: a broken file is mended by it."""
    for path in unfinished(folder / SETTINGS):
        path.unlink()
    path = folder / SETTINGS
    before = path.read_bytes() if path.exists() else b""
    write_settings(folder, settings)
    after = path.read_bytes()
    return [(f"{SETTINGS} (the subject)", len(before) - len(after))] if len(before) > len(after) else []


def _read_audit(folder: Path) -> dict[str, Any] | None:
    """An audit's document; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / AUDIT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged, so what it holds is unknown: delete it, and purge again.") from None
    return found if isinstance(found, dict) and "verdict" in found else None


def _purge_audit(folder: Path) -> list[tuple[str, int]]:
    """Take all text out of the audit's evidence, where there is one; its numbers stay."""
    path, found = folder / AUDIT, _read_audit(folder)
    if found is None or found.pop("texts", None) is None:
        return []
    found.pop("readings", None)  # they are deleted
    before = path.stat().st_size
    write_sealed(path, found)
    return [(f"{AUDIT} (texts)", before - path.stat().st_size)]
