"""Deleting what still holds personal data."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rkld.errors import ODD_VALUES, UserError
from rkld.files import unfinished, write_json
from rkld.runfolder.checksums import belongs, unsealed, write_sealed
from rkld.runfolder.folder import OF_AUDIT, PERSONAL, remove
from rkld.runfolder.kept_answers import alone, kept_files
from rkld.runfolder.lock import MODEL, hold_to_delete
from rkld.runfolder.manifest import (
    AUDIT,
    MANIFEST,
    METRICS,
    PURGED,
    REPORT,
    SETTINGS,
    SIGNATURE_SALT,
    DamagedManifest,
    is_finished,
    read_manifest,
    write_manifest,
    write_settings,
)
from rkld.runfolder.request import NOTHING_STATED, REQUEST, request_in
from rkld.settings.table import TABLE

ELSEWHERE = (
    "the records themselves, and caches of the hub or of data sets that they came through",
    "the original model, which still knows them, and whatever else was made from it",
    "the ledger, where the run was noted in one: a pseudonym, and perhaps sealed questions",
    "backups and other copies of this folder, and audits in other folders",
    "replayed answers that runs of other users, or on other machines, keep in rkld/replay of their user's cache",
    "copies of the unlearned model: whoever holds it and the original can extract more than from either alone "
    "(arXiv 2505.24379)",
)
"""Where a purge cannot look."""


OF_PAGES = (REPORT, "report.pdf", SIGNATURE_SALT)
"""What stays where nothing is purged: a page was made of what a purge has left, and may be signed."""

ASSISTANT = f"{MODEL}/assistant"
"""Of a model that is two (:mod:`rkld.methods.two_models`)."""


class IncompletePurge(UserError):
    """Something that holds personal data, or may, is left.

    Attributes:
        removed: what was deleted, as :func:`purge` returns it.
        left: what is left: its name in the folder, and why.
    """

    def __init__(self, folder: Path, removed: list[tuple[str, int]], left: list[tuple[str, str]]):
        self.removed, self.left = removed, left
        lines = "".join(f"\n  {name}: {why}" for name, why in left)
        super().__init__(
            f"{folder}: not all could be purged. What is left:{lines}\nDelete it, or mend that and purge again."
        )


def purge(folder: str | Path) -> list[tuple[str, int]]:
    """Delete everything in a run's or an audit's folder that still holds personal data; model and numbers stay.

    With a run's go all replayed answers that this user's runs keep (:mod:`rkld.runfolder.kept_answers`).

    The subject and the names of the records' files are taken out of manifest.json, run.yaml and audit.json, all text
    out of audit.json. An audit.json that is damaged is deleted; so are a damaged manifest.json and the run.yaml beside
    it. An unfinished run cannot go on afterwards. Where nothing is left to purge, no file is changed. Where it cannot
    look: :data:`ELSEWHERE`.

    Returns:
        what was deleted: its name in the folder, of what lies elsewhere its path, and its size in bytes.

    Raises:
        UserError: neither a run's folder nor an audit's, or another process works in it.
        IncompletePurge: not all could be deleted. What could be has been.
    """
    folder = Path(folder)
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be read. Purge it as the user whom it belongs to.")
    if not _is_ours(folder):
        raise UserError(
            f"{folder}: no run folder of rkld (it has no manifest.json) and no audit's (it has no {AUDIT}). Give the "
            "folder that --out named."
        )
    with hold_to_delete(folder):
        purging = _Purging(folder)
        purging.go()
    if purging.left:
        raise IncompletePurge(folder, purging.removed, purging.left)
    return purging.removed


def _is_ours(folder: Path) -> bool:
    try:
        if read_manifest(folder) is not None:
            return True
    except DamagedManifest:
        return True
    found = _read(folder / AUDIT)
    if found is None:  # damaged: what lies beside it tells whose it is
        return any((folder / name).exists() for name in OF_AUDIT)
    return "verdict" in found


class _Purging:
    """One purge: what cannot be deleted or written is noted, and the rest goes on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.removed: list[tuple[str, int]] = []
        self.left: list[tuple[str, str]] = []
        self.names = {str(folder), str(folder.resolve())}
        """Paths that may name the person."""

    def go(self) -> None:
        try:
            manifest = read_manifest(self.folder)
            found = None if manifest is None else self._purged(manifest)
            json.dumps(found, ensure_ascii=False).encode()  # what cannot be written is damaged, too
        except (
            DamagedManifest,
            RecursionError,
            *ODD_VALUES,
        ):  # its settings are unknown, so run.yaml cannot be written anew
            self._remove([*PERSONAL, MANIFEST, SETTINGS])
            self._remove_kept_answers()
            self._purge_audit(PERSONAL)
            return
        if manifest is None or found is None:
            # An audit's: beside it may lie other things of the user's, whatever they are called.
            self._remove_personal(OF_AUDIT)
            self._purge_audit(OF_AUDIT)
            return
        changed = found != manifest
        if changed:
            # Said before it is done: a purge that is cut short must not look like a run that can go on.
            said = {**manifest, **{name: found[name] for name in ("purged", "finished")}}
            changed = self._written(MANIFEST, lambda path: write_manifest(path.parent, said))  # else it is said already
            self._remove(PERSONAL)
        self._remove_personal(PERSONAL)
        self._remove_kept_answers()
        self._purge_settings(found["settings"])
        self._purge_audit(PERSONAL)
        if changed:
            self._written(MANIFEST, lambda path: write_manifest(path.parent, self._swept(found)))
        for name in (MANIFEST, METRICS):
            self._remove_unfinished(name)
        teacher = manifest["settings"].get("teacher")
        if isinstance(teacher, str) and teacher and Path(teacher).is_dir():
            self.left.append((f"--teacher {teacher}", "hidden states of the records, which other runs may share"))
        if (self.folder / ASSISTANT).is_dir():
            self.left.append((ASSISTANT, "knows the records better than the original did, and the model needs it"))

    def _purged(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest as a purge leaves it, but for :attr:`names` in its texts: they are not all known yet."""
        found = copy.deepcopy(dict(manifest))
        found.setdefault("purged", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        found["finished"] = is_finished(found)
        found["settings"] = self._without_names(found["settings"])
        _take_out_hashes(found)
        _take_out_request(found)
        return found

    def _remove_personal(self, names: Iterable[str]) -> None:
        """Delete files by their names; pages that show nothing of what is purged, and their signature, stay."""
        self._remove(name for name in names if name not in OF_PAGES)
        if self.removed:
            self._remove(name for name in names if name in OF_PAGES)

    def _remove(self, names: Iterable[str]) -> None:
        self.removed += remove(self.folder, list(names), self.left)

    def _remove_kept_answers(self) -> None:
        """Of all runs: none knows whom another one's answers name."""
        with alone():
            self._remove_all(kept_files())

    def _remove_all(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                size = path.lstat().st_size
                path.unlink()
            except FileNotFoundError:  # another run's, renamed or deleted since
                continue
            except OSError as error:
                self.left.append((str(path), error.strerror or str(error)))
            else:
                self.removed.append((str(path), size))

    def _remove_unfinished(self, name: str) -> None:
        """What a process that was killed left beside a file that stays."""
        self._remove(path.name for path in unfinished(self.folder / name))

    def _written(self, name: str, write: Callable[[Path], object]) -> bool:
        """Whether a file could be written anew."""
        try:
            write(self.folder / name)
        except OSError as error:
            self.left.append((name, error.strerror or str(error)))
            return False
        return True

    def _purge_settings(self, settings: Mapping[str, object]) -> None:
        """Write run.yaml without the subject: the manifest has all the rest, which mends a broken file."""
        self._remove_unfinished(SETTINGS)
        before = _bytes(self.folder / SETTINGS)
        self._written(SETTINGS, lambda path: write_settings(path.parent, settings))
        self._note(f"{SETTINGS} (names)", before, _bytes(self.folder / SETTINGS))

    def _purge_audit(self, personal: Iterable[str]) -> None:
        """Take all text and the names of files out of the audit's evidence, where there is one; its numbers stay.

        Args:
            personal: names of what holds personal data here; pages made of what is taken out go first.
        """
        self._remove_unfinished(AUDIT)
        found = _read(self.folder / AUDIT)
        if found is None:
            self.removed += [(f"{name} (damaged)", size) for name, size in remove(self.folder, [AUDIT], self.left)]
        elif "verdict" in found:
            as_it_is = copy.deepcopy(found)
            before, part = _bytes(self.folder / AUDIT), "texts" if "texts" in found else "names"
            write = write_json if unsealed(found) is None else write_sealed  # what was changed must not look whole
            found.pop("texts", None)
            _take_out_request(found)
            found.pop("readings", None)  # they are deleted
            found["settings"] = self._without_names(found.get("settings"))
            if (swept := self._swept(found)) == as_it_is:
                return
            self._remove(name for name in personal if name in OF_PAGES)
            self._written(AUDIT, lambda path: write(path, swept))
            self._note(f"{AUDIT} ({part})", before, _bytes(self.folder / AUDIT))

    def _note(self, what: str, before: bytes, after: bytes) -> None:
        if before and after != before:
            self.removed.append((what, max(0, len(before) - len(after))))

    # Names ---------------------------------------------------------------------------------------------------------

    def _without_names(self, settings: Any) -> dict[str, Any]:
        """The settings without the names of the records' files and of the folder, which may be the person's."""
        found = dict(settings) if isinstance(settings, dict) else {}
        for name, value in found.items():
            spec = TABLE.get(name)
            if spec is None or not isinstance(value, str) or value in (spec.default, "none", PURGED):
                continue
            if ("DATA" in spec.metavar and not value.startswith("<")) or name == "out":  # "<list>": records as objects
                self.names |= {value, Path(value).name}
                found[name] = PURGED
        return found

    def _swept(self, value: Any) -> Any:
        """``value`` without :attr:`names`, wherever a text holds one."""
        if isinstance(value, dict):
            return {key: self._swept(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._swept(item) for item in value]
        if isinstance(value, str):
            for name in sorted(filter(_is_telling, self.names), key=len, reverse=True):
                value = value.replace(name, PURGED)
        return value


def _is_telling(name: str) -> bool:
    """Whether a path can be looked for in texts: a mere word such as "data" stands there for other things."""
    return any(sign in name for sign in "./") and sum(char.isalnum() for char in name) > 3


def _take_out_hashes(manifest: dict[str, Any]) -> None:
    """With the salt beside them, the hashes would let anybody try names and short records."""
    for name in ("salt", "subject"):
        manifest.pop(name, None)
    manifest["records"] = {n: {"n": v["n"]} for n, v in manifest["records"].items() if isinstance(v, dict)}
    for phase in manifest["phases"].values():  # how many records steered the stop stays known, which ones does not
        if isinstance(phase, dict):
            phase.pop("hashes", None)  # of the wordings that were trained on
        if isinstance(phase, dict) and isinstance(phase.get("steering"), dict):
            for name in ("hashes", "holdout"):
                phase["steering"].pop(name, None)
    files = manifest.get("files", {})
    manifest["files"] = {path: value for path, value in files.items() if not belongs(path, list(PERSONAL))}
    manifest["personal_data"] = {}


def _take_out_request(document: dict[str, Any]) -> None:
    """What of the request may name the person; all of it where it is no form."""
    try:
        form = request_in(document)
    except UserError:
        form = NOTHING_STATED
    if document.pop(REQUEST, None) is not None:
        document[REQUEST] = form.without_personal(PURGED).to_dict()


def _bytes(path: Path) -> bytes:
    """What a file holds; nothing where it cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError:
        return b""


def _read(path: Path) -> dict[str, Any] | None:
    """An object in JSON; empty where there is none, None where it is damaged."""
    try:
        if path.exists() and not path.is_file():
            return None  # a pipe would be waited for
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else {}
