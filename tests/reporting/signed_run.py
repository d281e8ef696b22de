"""A finished run with its audit and report, as files alone: no model is trained for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from rkld.reporting.keys import make_key, read_signing_key, read_verifying_key
from rkld.reporting.signing import sign, verify
from rkld.reporting.writing import write_report
from rkld.runfolder.checksums import weights_hash, write_sealed
from rkld.runfolder.folder import Run
from rkld.settings.unlearning import Settings
from tests.reporting.made import document

NAME = "Ostis Belmere"


def make_run(folder: Path, seed: int = 0, people: Sequence[str] = ()) -> Path:
    """Another seed gives another model, and other figures."""
    draw = random.Random(seed)
    run = Run(Settings(model="m", forget="forget.jsonl", subject=(NAME,), out=str(folder)))
    run.start()
    (folder / "model" / "parts").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(draw.randbytes(3000))
    (folder / "model" / "parts" / "adapter.safetensors").write_bytes(draw.randbytes(500))
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model" / "README.md").write_text("# A model\n")
    run.write_answers("before", [f"{NAME} lives in Oslo."])
    run.write_answers("after", ["I do not know."])
    run.record({"phase": "stop", "step": 1, "loss": draw.random()})
    run.note_files(["model"])
    run.note("model", {"weights": weights_hash(folder / "model")})
    run.note("after", {"metrics": {}})
    (folder / "readings").mkdir()
    write_sealed(folder / "readings" / "answers.0123.json", {"0": {"answer": "Oslo"}}, "ab" * 32)
    (folder / "audit.salt").write_text("0" * 32)
    audit = document(people=people, created="2026-11-28T19:00:00Z", seconds=draw.random())
    audit["models"]["audited"] = {"source": str(folder), "weights": weights_hash(folder / "model")}
    write_sealed(folder / "audit.json", audit)
    report(folder)
    return folder


def report(folder: Path) -> None:
    """The page and what machines read, written anew."""
    write_report(folder)


class Signer:
    """Somebody with a key."""

    def __init__(self, folder: Path):
        self.path = folder / "key"
        make_key(self.path)
        self.public_path = folder / "key.pub"
        self.private, self.public = read_signing_key(self.path), read_verifying_key(self.public_path)

    def sign(self, folder: Path) -> Path:
        return sign(folder, self.private)

    def verify(self, source: Path, **elsewhere: Path):
        return verify(source, self.public, **elsewhere)
