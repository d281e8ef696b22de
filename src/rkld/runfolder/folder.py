"""The folder of one run: its settings, its finished phases, and which files hold personal data."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rkld import processes
from rkld.errors import UserError
from rkld.files import append_jsonl, make_folder, unfinished, write_text
from rkld.runfolder.checksums import belongs, checksums, differing, read_sealed, write_sealed
from rkld.runfolder.lock import MODEL, for_us_alone, hold
from rkld.runfolder.manifest import (
    FORMAT,
    MANIFEST,
    METRICS,
    PURGED,
    READINGS,
    SALT,
    SETTINGS,
    SIGNATURE_SALT,
    damaged,
    is_finished,
    is_settings,
    named,
    read_manifest,
    salted,
    write_manifest,
    write_settings,
)
from rkld.runfolder.request import REQUEST, RequestForm, request_in
from rkld.settings.specification import flag
from rkld.settings.table import without_effect
from rkld.settings.unlearning import Settings

SHOWN = "report-records"
"""Reports that show records, or are one person's."""

PERSONAL = {
    "strengthened": "weights that carry the records more strongly than before",
    "teacher": "hidden states of the records",
    "checkpoints": "the unfinished student and its optimizer",
    "replay.jsonl": "the model's own answers to the replay prompts",
    "own_words.jsonl": "the model's own answers to the forget questions",
    "rewordings.jsonl": "the forget records in other words",
    "everyday.jsonl": "the model's own answers to everyday prompts",
    "answers.json": "answers to the forget questions, before and after",
    SIGNATURE_SALT: "the key of a signature's fingerprints of the files above",
    READINGS: "what models said in an audit",
    SALT: "the salt of the audit's hashes",
    SHOWN: "reports that show records",
    "report.html": "what is stated of the request",
    "report.pdf": "the same on paper",
}
"""Names inside a run folder that hold personal data, or may, and why."""

OF_AUDIT = (READINGS, SALT, SIGNATURE_SALT, SHOWN)
"""Those that an audit writes beside its document."""

ANSWERS = "answers.json"
"""Answers to the forget questions: part, "before" or "after" → texts in the records' order."""

APART = ("subject", "request", "note")
"""Settings that the manifest has in another form: the subject as a hash, and the request with its note."""

INTERMEDIATE = (
    "strengthened",
    "teacher",
    "checkpoints",
    "replay.jsonl",
    "own_words.jsonl",
    "rewordings.jsonl",
    "everyday.jsonl",
)
"""What is removed once the model is written, unless kept."""


class Run:
    """One run folder, opened for these settings. Within ``with`` nothing else may work in it."""

    def __init__(self, settings: Settings):
        """Open or make the folder.

        Raises:
            UserError: it holds something else, or a run with other settings.
        """
        self.folder = settings.run_folder
        self.settings = settings
        self.manifest: dict[str, Any] = {}
        self._held = ExitStack()
        self._open()

    def __enter__(self) -> Run:
        with self._held:  # let go where it is refused
            self.hold(self.folder)
            self._open()  # another process may have begun it, or gone on with it, meanwhile
            self._held = self._held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def hold(self, folder: Path, *, marks: Sequence[str] | None = None) -> None:
        """Keep others out of a folder until this run is let go (:func:`rkld.runfolder.lock.hold`)."""

        def take() -> None:
            self._held.enter_context(hold(folder, marks=marks, shared=self.settings.share_model))

        processes.by_main(take)
        if not processes.is_main():
            self._held.enter_context(for_us_alone())

    def _open(self) -> None:
        """Read what is there, as the first process finds it."""

        def read() -> dict[str, Any]:
            self._read()
            return self.manifest

        self.manifest = processes.by_main(read)

    def _read(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file. Give another run folder with --out.")
        if not self.folder.exists() or all(path.name.startswith(".") for path in self.folder.iterdir()):
            return
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise UserError(f"{self.folder}: holds something else than a run. Give another run folder with --out.")
        self.manifest = manifest
        if manifest["format"] < FORMAT and not self.finished:
            raise UserError(
                f"{self.folder}: holds an unfinished run of rkld 0.1, whose phases were others. Delete the folder to "
                "begin again (rkld purge deletes what holds the data), or give another run folder with --out."
            )
        if "purged" in manifest and not self.finished:
            raise UserError(
                f"{self.folder}: this run was purged before it was finished, so it cannot go on. Delete the folder to "
                "begin again, or give another run folder with --out."
            )
        if not self.purged and not {"salt", "subject"} <= manifest.keys():
            raise damaged(self.folder)
        manifest.setdefault("records", {})
        self._refuse_other_settings()

    def _refuse_other_settings(self) -> None:
        asked, found, free = self._settings(), self.manifest["settings"], without_effect(Settings)
        free |= {name for name, value in found.items() if value == PURGED}
        defaults = self._plain(Settings())  # an older run has fewer settings: the others had their defaults
        different = [
            f"  {flag(name)}: {found.get(name, defaults[name])!r} then, {asked[name]!r} now"
            for name in asked
            if name not in free and asked[name] != found.get(name, defaults[name])
        ]
        # Whom it is about stands in neither the manifest nor a message; after a purge not even as a hash.
        if not self.purged and self.salted(self.settings.subject) != self.manifest["subject"]:
            different.append(f"  {flag('subject')}: another than then")
        if different:
            raise UserError(
                f"{self.folder}: holds a run with other settings:\n"
                + "\n".join(different)
                + "\nRepeat them to go on with it, or give another run folder with --out."
            )

    def _settings(self) -> dict[str, Any]:
        """The settings as JSON has them, but for those of :data:`APART`."""
        return self._plain(self.settings)

    @staticmethod
    def _plain(settings: Settings) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
        return {name: value for name, value in values.items() if name not in APART}

    def start(self) -> None:
        """Write what was asked, where that has not been done.

        Raises:
            UserError: another process does not see what the first one writes.
        """

        def begin() -> dict[str, Any]:
            self._start()
            return self.manifest

        self.manifest = processes.by_main(begin)
        processes.checked(self._check_seen)

    def _check_seen(self) -> None:
        if not (self.folder / MANIFEST).is_file():
            raise UserError(
                f"{self.folder}: process {processes.index()} does not see what the first one wrote there. Give a "
                "folder with --out that all machines share."
            )

    def _start(self) -> None:
        make_folder(self.folder)
        if not self.manifest:
            self.manifest = {
                "format": FORMAT,
                "settings": self._settings(),
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("rkld", "torch", "transformers", "accelerate", "peft", "tokenizers")
                },
                "salt": secrets.token_hex(16),
                "records": {},
                "phases": {},
                "files": {},
                "personal_data": {},
            }
            self.manifest["subject"] = self.salted(self.settings.subject)
            self.save()  # before anything else: from here on the folder is known as a run
        apart = json.loads(json.dumps({name: getattr(self.settings, name) for name in APART}))
        settings = {**self._settings(), **apart}
        if not is_settings(self.folder, settings, without_effect(Settings)):
            write_settings(self.folder, settings)
            self.save()

    def save(self) -> None:
        """Write the manifest, with the files that hold personal data by now."""
        personal = {name: why for name, why in PERSONAL.items() if (self.folder / name).exists()}
        if not self.purged:
            if (self.settings.subject or self.settings.note) and (self.folder / SETTINGS).exists():
                personal[SETTINGS] = "the subject and the note as they were given"
            if request_in(self.manifest).is_personal:
                personal[MANIFEST] = "of the request: who asked, and what else may name the person"
        self.manifest["personal_data"] = personal
        write_manifest(self.folder, self.manifest)

    def state(self, form: RequestForm) -> None:
        """Keep what is stated of the request, in the place of what was; it is saved with the next note."""
        if form.is_stated:
            self.manifest[REQUEST] = (form.without_personal(PURGED) if self.purged else form).to_dict()

    def salted(self, value: object) -> str:
        """A hash that says whether two inputs of *this* run are equal, and nothing about what they are."""
        return salted(self.manifest["salt"], value)

    def same(self, what: str, value: object) -> None:
        """Note an input at the first start; refuse another at the next.

        Raises:
            UserError: the input has changed since the run began, or is another in the first process.
        """
        if processes.agreed(value) != value:
            raise UserError(f"the {what} of process {processes.index()} are not those of the first: give all the same.")
        known = self.manifest["records"].setdefault(what, value)
        if known != value:
            raise UserError(
                f"{self.folder}: the {what} changed since this run began. Restore it, or give another run folder "
                "with --out."
            )

    @property
    def purged(self) -> bool:
        return "purged" in self.manifest

    @property
    def finished(self) -> bool:
        """Whether all phases are done."""
        return bool(self.manifest) and is_finished(self.manifest)

    @property
    def figures(self) -> dict[str, dict[str, dict[str, float]]]:
        """ "before" and "after" → set → values, of a finished run."""
        phases = self.manifest["phases"]
        after = phases["after"] if "after" in phases else phases["model"]  # 0.1 measured before it wrote the model
        try:
            return {"before": phases["before"]["metrics"], "after": after["metrics"]}
        except KeyError:
            raise damaged(self.folder) from None

    def answers(self) -> dict[str, list[str]]:
        """The answers to the forget questions, "before" and, of a finished run, "after"; none once they are purged.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / ANSWERS
        found = self.find_answers()
        if found is None:
            raise UserError(
                f"{path} is damaged: restore it, or delete it, which loses the answers and nothing else of a finished "
                "run. Delete the folder to begin an unfinished one again."
            )
        return {"before": found.get("before", []), "after": found.get("after", [])}

    def find_answers(self) -> dict[str, list[str]] | None:
        """Part, "before" or "after" → the answers to the forget questions, of those there are; None if damaged."""
        try:
            found = read_sealed(self.folder / ANSWERS)
        except FileNotFoundError:
            return {}
        if found is None or not all(_are_texts(texts) for texts in found.values()):
            return None
        return found

    def write_answers(self, part: str, answers: Sequence[str]) -> None:
        """Write the answers to the forget questions, "before" or "after", beside those that are there."""

        def write() -> None:
            write_sealed(self.folder / ANSWERS, {**(self.find_answers() or {}), part: list(answers)})

        processes.by_main(write)

    def note_files(self, names: Collection[str]) -> None:
        """Take down the checksums of files and folders; they are saved with the next note."""
        noted = self.manifest.setdefault("files", {})
        kept = {path: value for path, value in noted.items() if not belongs(path, names)}
        self.manifest["files"] = kept | processes.by_main(lambda: checksums(self.folder, names))

    def changes(self, names: Collection[str]) -> dict[str, str]:
        """How what lies under the names differs from what was noted of it: path → "missing", "changed" or "added".

        A run of 0.1 noted nothing: of it there is only whether a name is there at all.
        """
        if "files" not in self.manifest:
            return {name: "missing" for name in sorted(names) if not checksums(self.folder, [name])}
        return differing(self.folder, self.manifest["files"], names)

    def results(self) -> set[str]:
        """Names of what the user will look for in the folder of a finished run.

        Raises:
            UserError: the run is finished, and its model is another, or is gone and cannot be made again.
        """
        wanted = {MODEL, ANSWERS}
        if not self.finished:
            return wanted
        if self.purged or not (self.folder / ANSWERS).exists():  # taken away on purpose; it takes nothing else with it
            wanted.discard(ANSWERS)
        if self.manifest.get("model_given_up"):
            return wanted - {MODEL}
        lost = self.changes([MODEL])
        if any(way != "missing" for way in lost.values()):  # it may be the user's own work
            raise UserError(
                f"{self.folder / MODEL} is not the model that this run wrote ({named(lost)}). Restore it; or move it "
                "away or delete it, and give the same command again to have it made anew."
            )
        if lost and (self.purged or self.manifest["format"] < FORMAT):
            why = "was purged" if self.purged else "is one of rkld 0.1"
            raise UserError(
                f"{self.folder / MODEL} is gone or not whole ({named(lost)}), and this run {why}, so it cannot make it "
                "again. Delete the folder to begin again, or give another run folder with --out."
            )
        return wanted

    def take_back(self, name: str) -> None:
        """Forget that a phase was done; it is not saved yet."""
        del self.manifest["phases"][name]

    def find(self, name: str) -> dict[str, Any] | None:
        """What a phase has noted (:class:`rkld.runfolder.once.Notes`); None where it is not done."""
        found: dict[str, Any] | None = self.manifest["phases"].get(name)
        return found

    def note(self, name: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """Note that a phase is whole, with whatever there is to say of it: what the first process found."""
        found: dict[str, Any] = processes.agreed(json.loads(json.dumps(dict(made))))  # as it will be read again
        self.manifest["phases"][name] = found
        self.save()
        return found

    def record(self, values: Mapping[str, object]) -> None:
        """One line more in metrics.jsonl."""
        append_jsonl(self.folder / METRICS, values)

    def withdraw(self, phase: str, after: int = 0) -> None:
        """Take a phase's lines out of metrics.jsonl that will be written again: those beyond step ``after``.

        Half a line, of a process that was killed, goes with them.
        """
        processes.by_main(lambda: self._withdraw(phase, after))

    def _withdraw(self, phase: str, after: int) -> None:
        path = self.folder / METRICS
        if not path.exists():
            return
        # Not splitlines(): a text may hold other line separators. What follows the last of ours is half a line.
        *lines, half = path.read_text(encoding="utf-8", errors="replace").split("\n")
        kept = [line for line in lines if not _is_of(line, phase, after)]
        if half or kept != lines:
            write_text(path, "".join(line + "\n" for line in kept))


def _is_of(line: str, phase: str, after: int) -> bool:
    """Whether a line of metrics.jsonl is of this phase and beyond this step; also of none that can be read."""
    try:
        found = json.loads(line)
        return bool(found.get("phase") == phase and found.get("step", math.inf) > after)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return True


def _emptied(path: Path) -> str:
    """Take out what can be taken out of a file or folder that cannot be deleted, and say so where nothing is left."""
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            return "" if os.listdir(path) else ", but it is empty now"
        os.truncate(path, 0)
    except OSError:
        return ""
    return ", but it is empty now"


def _are_texts(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def give_up_model(folder: Path) -> None:
    """Delete the model of a finished run that nobody needs any more, and note that it is gone on purpose."""
    manifest = read_manifest(folder)
    if manifest is not None and not manifest.get("model_given_up"):
        write_manifest(folder, {**manifest, "model_given_up": True})  # first: it must not look like a loss
    remove(folder, [MODEL])


def remove(folder: Path, names: Sequence[str], left: list[tuple[str, str]] | None = None) -> list[tuple[str, int]]:
    """Delete the named files and folders of a run, and what an interrupted writing of them left.

    Of a link the link alone is deleted: what it leads to lies outside the folder.

    Args:
        left: takes what is still there afterwards: its name and why.

    Returns:
        what was there: its name and its size in bytes.

    Raises:
        OSError: something cannot be deleted, and ``left`` is not given.
    """

    def delete() -> tuple[list[tuple[str, int]], list[tuple[str, str]] | None]:
        kept: list[tuple[str, str]] | None = None if left is None else []
        return _remove(folder, names, kept), kept

    removed, kept = processes.by_main(delete)
    if left is not None and kept is not None:
        left += kept
    return removed


def _remove(folder: Path, names: Sequence[str], left: list[tuple[str, str]] | None) -> list[tuple[str, int]]:
    removed = []
    for path in unfinished(folder / MODEL):  # not a model yet: the folder is renamed once it is whole
        _delete(path, left)
    for name in names:
        size, there = 0, False
        for path in (folder / name, *unfinished(folder / name)):
            if not os.path.lexists(path):
                continue
            files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
            size += sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())
            there |= _delete(path, left)
        if there:
            removed.append((name, size))
    return removed


def _delete(path: Path, left: list[tuple[str, str]] | None) -> bool:
    """Delete a file, a link or a folder with all in it that can be deleted; whether it is gone."""
    try:
        if path.is_symlink():
            target, is_there = path.readlink(), path.exists()
            path.unlink()
            if is_there and left is not None:
                left.append((path.name, f"was a link; what it led to is left: {target}"))
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        if left is None:
            raise
        left.append((path.name, f"{error.strerror or error}{_emptied(path)}"))
    return not os.path.lexists(path)
