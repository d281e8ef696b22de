"""The manifest of a run folder, and salted hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rkld.errors import UserError
from rkld.files import write_text
from rkld.runfolder.checksums import belongs, differing, unsealed, write_sealed
from rkld.runfolder.lock import MODEL

logger = logging.getLogger(__name__)

MANIFEST, SETTINGS, METRICS, AUDIT = "manifest.json", "run.yaml", "metrics.jsonl", "audit.json"

READINGS, SALT = "readings", "audit.salt"
"""Beside :data:`AUDIT`: the folder of what models said, so of personal data; the salt of the hashes."""

REPORT, STATEMENT, SIGNATURE, SIGNATURE_SALT = "report.html", "report.json", "report.sig", "report.salt"
"""What was found, as a page, as a statement for machines, and signed; the key of the signature's fingerprints."""

PURGED = "(purged)"
"""In place of what named the records and was purged."""

FORMAT = 2
"""Of manifest.json. Finished runs of format 1 (rkld 0.1) are read, audited and purged."""


def salted(salt: str, value: object) -> str:
    """A hash that shows equality to holders of the salt, and reveals nothing to anyone else."""
    data = salt + json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(data.encode(), digest_size=16).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder; None where there is none, or another program's.

    Raises:
        UserError: it is damaged, or of a later format.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for: the folder may be anybody's
            raise OSError(errno.EINVAL, "no regular file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        if (folder / SETTINGS).is_file():  # what lies beside the manifest of a run
            raise damaged(folder) from None
        return None
    own = {"format", "settings", "phases"}
    if not isinstance(found, dict) or not own <= found.keys():
        # Another program's has none of ours, whatever else is called run.yaml beside it.
        if (folder / SETTINGS).is_file() and (not isinstance(found, dict) or own & found.keys()):
            raise damaged(folder)
        return None
    found = unsealed(found)
    if found is None or type(found["format"]) is not int or not _is_manifest(found):
        raise damaged(folder)
    if found["format"] not in range(1, FORMAT + 1):
        raise UserError(
            f"{folder}: a run of format {found['format']}; this version of rkld reads formats 1 to {FORMAT}. "
            "Use the version that made it."
        )
    whole: dict[str, Any] = found
    return whole


def _is_manifest(found: Mapping[str, Any]) -> bool:
    """Whether the parts that everything reads are of their types."""
    settings, phases, records, files = (found.get(name, {}) for name in ("settings", "phases", "records", "files"))
    if not all(isinstance(part, dict) for part in (settings, phases, records, files)):
        return False
    if not all(isinstance(phase, dict) for phase in phases.values()):
        return False
    return all(isinstance(found.get(name, ""), str) for name in ("salt", "subject"))


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write it, with the checksum of its own content."""
    write_sealed(folder / MANIFEST, manifest)


class DamagedManifest(UserError):
    """A manifest from which something is missing."""


def damaged(folder: Path) -> DamagedManifest:
    """What to say of a manifest from which something is missing."""
    return DamagedManifest(
        f"{folder / MANIFEST} is damaged, so what the run was is unknown. Restore it, or delete the folder and run "
        "rkld unlearn anew."
    )


def check_model(folder: Path) -> None:
    """Refuse the model of a run whose files are not those that the run wrote; a run of 0.1 noted none.

    Raises:
        UserError: so.
    """
    manifest = read_manifest(folder) or {}
    noted = manifest.get("files", {})
    if not any(belongs(path, [MODEL]) for path in noted) or not (folder / MODEL).is_dir():
        return
    if ways := differing(folder, noted, [MODEL]):
        raise UserError(
            f"{folder / MODEL} is not the model that the run in {folder} wrote ({named(ways)}), so nothing that is "
            "known of that run holds for it. Restore it; or copy it to another folder, and give that one."
        )


def check_outside(folder: Path, model: str) -> None:
    """Refuse a folder for a run or an audit in the model's own, with which it would be copied and served.

    Raises:
        UserError: so.
    """
    if model and Path(model).is_dir() and folder.resolve().is_relative_to(Path(model).resolve()):
        raise UserError(
            f"--out {folder} lies in the model's folder {model}: what is written there holds personal data, and "
            "whoever copies or serves the model would take it along. Give a folder elsewhere."
        )


def named(ways: Mapping[str, str]) -> str:
    """What :func:`rkld.runfolder.checksums.differing` found, in a few words."""
    few = [f"{path}: {way}" for path, way in list(ways.items())[:3]]
    return ", ".join(few) + (f" and {len(ways) - 3} more" if len(ways) > 3 else "")


def is_finished(manifest: Mapping[str, Any]) -> bool:
    """Whether the run's phases are all done."""
    return "after" in manifest["phases"] or (manifest["format"] == 1 and "model" in manifest["phases"])


def write_settings(folder: Path, settings: Mapping[str, object]) -> None:
    import yaml

    write_text(folder / SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def is_settings(folder: Path, settings: Mapping[str, object], free: Collection[str]) -> bool:
    """Whether run.yaml is there and says this. Where it says something else, a line says that it is not believed.

    Args:
        free: settings that may differ, such as the folder of a run that was moved.
    """
    import yaml

    path = folder / SETTINGS
    if not path.is_file():
        return False
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError):
        found = None
    whole = isinstance(found, dict) and all(found.get(n) == v for n, v in settings.items() if n not in free)
    if not whole:
        logger.warning("%s is not as the run wrote it: it is written anew.", path)
    return whole


def run_of(model: str) -> Path | None:
    """The run folder that ``model`` is, or whose ``model/`` it is, by whatever path or link; None where it is neither.

    Raises:
        UserError: as of :func:`read_manifest`.
    """
    if not model or "\0" in model:
        return None
    path = Path(model)
    # "." has no parent by name, and a link has one where it points to.
    return next((folder for folder in (path, path.parent, path.resolve().parent) if read_manifest(folder)), None)
