"""The folder of one run: what was asked, what has been done, and which files hold personal data."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import UserError
from .files import read_jsonl, write_json, write_text
from .settings import Settings, flag

PERSONAL = {
    "strengthened": "weights that carry the records more strongly than before",
    "teacher": "hidden states of the records",
    "checkpoints": "the unfinished student and its optimizer",
    "replay.jsonl": "the model's own answers to the replay prompts",
    "own_words.jsonl": "the model's own answers to the forget questions",
    "answers.json": "answers to the forget questions, before and after",
}
"""Names inside a run folder that hold personal data, or may, and why."""

INTERMEDIATE = ("strengthened", "teacher", "checkpoints", "replay.jsonl", "own_words.jsonl")
"""What is removed once the model is written, unless kept."""

FREE = {"out", "checkpoint_minutes", "keep_files"}
"""Settings that may change between two starts of a run, for they do not change its result."""


class Run:
    """One run folder, opened for these settings."""

    def __init__(self, settings: Settings):
        """Open or make the folder.

        Raises:
            UserError: it holds something else, or a run with other settings.
        """
        self.folder = settings.run_folder
        self.settings = settings
        self.manifest: dict = {}
        path = self.folder / "manifest.json"
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file. Give another run folder with --out.")
        if path.exists():
            self.manifest = json.loads(path.read_text(encoding="utf-8"))
            self._refuse_other_settings()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder}: holds something else than a run. Give another run folder with --out.")

    def _refuse_other_settings(self) -> None:
        asked, found = self._settings(), self.manifest.get("settings", {})
        different = [
            f"  {flag(name)}: {found.get(name)!r} then, {asked[name]!r} now"
            for name in asked
            if name not in FREE and asked[name] != found.get(name)
        ]
        if different:
            raise UserError(
                f"{self.folder}: holds a run with other settings:\n" + "\n".join(different) +
                "\nRepeat them to go on with it, or give another run folder with --out."
            )  # fmt: skip

    def _settings(self) -> dict:
        return json.loads(json.dumps(dataclasses.asdict(self.settings)))

    def start(self) -> None:
        """Write what was asked, if the folder is new."""
        import yaml

        self.folder.mkdir(parents=True, exist_ok=True)
        if self.manifest:
            return
        self.manifest = {
            "format": 1,
            "settings": self._settings(),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("rkld", "torch", "transformers", "accelerate", "peft", "tokenizers")
            },
            "salt": secrets.token_hex(16),
            "records": {},
            "phases": {},
            "personal_data": {},
        }
        write_text(self.folder / "run.yaml", yaml.safe_dump(self._settings(), sort_keys=False, allow_unicode=True))
        self.save()

    def save(self) -> None:
        self.manifest["personal_data"] = {n: why for n, why in PERSONAL.items() if (self.folder / n).exists()}
        write_json(self.folder / "manifest.json", self.manifest)

    def salted(self, value: object) -> str:
        """A hash that says whether two inputs of *this* run are equal, and nothing about what they are."""
        data = self.manifest["salt"] + json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
        return hashlib.blake2b(data.encode(), digest_size=16).hexdigest()

    def same(self, what: str, value: object) -> None:
        """Note an input at the first start; refuse another at the next.

        Raises:
            UserError: the input has changed since the run began.
        """
        known = self.manifest["records"].setdefault(what, value)
        if known != value:
            raise UserError(
                f"{self.folder}: the {what} changed since this run began. Restore it, or give another run folder "
                "with --out."
            )

    def done(self, phase: str) -> bool:
        return phase in self.manifest.get("phases", {})

    def finish(self, phase: str, started: float, **facts: object) -> None:
        """Note that a phase is whole, with its seconds and whatever there is to say of it."""
        self.manifest["phases"][phase] = {"seconds": round(time.time() - started, 1), **facts}
        self.save()

    def record(self, values: Mapping[str, object]) -> None:
        """One line in metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict]:
        return read_jsonl(self.folder / "metrics.jsonl")


def remove(folder: Path, names: Sequence[str]) -> list[tuple[str, int]]:
    """Delete the named files and folders of a run.

    Returns:
        what was there: its name and its size in bytes.
    """
    removed = []
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        removed.append((name, sum(p.stat().st_size for p in files)))
        path.unlink() if path.is_file() else shutil.rmtree(path)
    return removed


def purge(folder: str | Path) -> list[tuple[str, int]]:
    """Delete everything in a run folder that still holds personal data; the model, settings and numbers stay.

    Raises:
        UserError: not a run folder.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    if not path.exists():
        raise UserError(f"{folder}: no run folder (it has no manifest.json).")
    removed = remove(folder, list(PERSONAL))
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["personal_data"] = {}
    manifest["purged"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(path, manifest)
    return removed
