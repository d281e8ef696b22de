"""What a report is made of: the audit, the manifest and the checks of the stop. The folder may be anybody's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rkld.errors import ODD_VALUES, UserError
from rkld.files import read_jsonl
from rkld.runfolder.checksums import CHECKSUM, checksum, read_sealed, weights_hash
from rkld.runfolder.lock import MODEL
from rkld.runfolder.manifest import AUDIT, MANIFEST, METRICS, read_manifest


@dataclass(frozen=True)
class Run:
    """The folder of a run, of an audit, or of both.

    Attributes:
        audit: the document of the audit; None where there was none.
        manifest: of the run; empty for a model that no run of ours made.
        checks: those of the stop, in their order, as they stand in metrics.jsonl; none where that is not the file whose
            checksum the manifest holds.
        changed: whether it is another: then what it says is not shown.
        bare: whether the audit holds no checksum, as an earlier version's does not, or one from which it was taken.
    """

    folder: Path
    audit: Mapping[str, Any] | None
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)
    checks: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    changed: bool = False
    bare: bool = False

    @cached_property
    def apart(self) -> str:
        """Why the audit is none of the model that lies in the folder; empty where it is of that, or there is none."""
        if self.audit is None or not (self.folder / MODEL).is_dir():
            return ""
        audited = self.audit["models"].get("audited")
        noted = audited.get("weights") if isinstance(audited, Mapping) else None
        if noted is None:  # it was served, or an object
            return (
                "The audit does not know the files of the model that it read, so whether that was the model in this "
                "folder is unknown."
            )
        if noted == weights_hash(self.folder / MODEL):
            return ""
        return "The audit is of another model than the one in this folder: nothing that it found holds for that one."


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run or of an audit.

    Raises:
        UserError: it is neither; its audit or manifest is damaged, or of another version.
    """
    folder = Path(folder)
    manifest, audit = read_manifest(folder) or {}, _read_audit(folder)
    if not manifest and audit is None:
        raise UserError(
            f"{folder}: no run folder of rkld (it has no manifest.json) and no audit's (it has no {AUDIT}). Give the "
            "folder that --out named."
        )
    noted = manifest.get("files", {}).get(METRICS)  # noted when a run ends
    changed = noted is not None and not _is_whole(folder / METRICS, noted)
    checks, bare = _checks(folder) if noted is not None and not changed else [], audit is not None and _is_bare(folder)
    return Run(folder, audit, manifest, checks, changed, bare)


@contextmanager
def as_rkld_writes(folder: Path) -> Iterator[None]:
    """Say so where values of a folder are of another kind than rkld writes: its checksums are no signature."""
    try:
        yield
    except ODD_VALUES as error:
        raise UserError(
            f"{folder}: its {AUDIT} or {MANIFEST} is not as rkld writes it ({type(error).__name__}). Restore it, or "
            "run rkld audit again; if nobody changed it, this is a defect of rkld."
        ) from error


def _read_audit(folder: Path) -> dict[str, Any] | None:
    path = folder / AUDIT
    try:
        found = read_sealed(path) if path.is_file() else {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if found is None:
        raise UserError(f"{path} is damaged, so nothing can be said by it. Restore it, or run rkld audit again.")
    parts = {"gates": list, "metrics": dict, "models": dict, "inputs": dict, "settings": dict, "not_run": list}
    if found and not all(isinstance(found.get(name), kind) for name, kind in parts.items()):
        raise UserError(f"{path} is no audit of rkld. Give the folder of an audit, or run rkld audit again.")
    people = found.get("people", [])
    # Names of files are made of them.
    if not isinstance(people, list) or not all(isinstance(one, dict) and _is_person(one.get("name")) for one in people):
        raise UserError(f"{path} names people otherwise than rkld does. Restore it, or run rkld audit again.")
    return found or None


def _is_bare(folder: Path) -> bool:
    try:
        return CHECKSUM not in json.loads((folder / AUDIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # changed since it was read
        return True


def _is_person(name: object) -> bool:
    """Whether it is what an audit calls a person of several."""
    return isinstance(name, str) and re.fullmatch(r"person [0-9]{1,6}", name) is not None


def _is_whole(path: Path, noted: object) -> bool:
    try:
        return path.is_file() and checksum(path) == noted
    except OSError:
        return False


def _checks(folder: Path) -> list[dict[str, Any]]:
    """Without them there is no trajectory to draw; what they end in stands in the manifest."""
    try:
        rows = read_jsonl(folder / METRICS)
    except UserError:
        return []
    return [row for row in rows if isinstance(row, dict) and row.get("phase") == "stop"]
