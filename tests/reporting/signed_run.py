"""A finished run with its audit and report, as files alone: no model is trained for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from rkld.reporting.keys import make_key, read_signing_key, read_verifying_key
from rkld.reporting.signing import sign, verify
from rkld.runfolder.checksums import sha256, weights_hash, write_sealed
from rkld.runfolder.folder import Run
from rkld.settings.unlearning import Settings

NAME = "Ostis Belmere"


def make_run(folder: Path, seed: int = 0) -> Path:
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
    audit = {"verdict": "pass", "created": "2026-11-28T19:00:00Z", "models": {}, "figures": draw.random()}
    audit["models"] = {"audited": {"source": str(folder), "weights": weights_hash(folder / "model")}}
    write_sealed(folder / "audit.json", audit)
    report(folder)
    return folder


def report(folder: Path) -> dict[str, Any]:
    """The page and the statement, written anew."""
    (folder / "report.html").write_text(f"<!doctype html><title>{sha256(folder / 'audit.json')[:8]}</title>")
    made = statement(folder)
    (folder / "report.json").write_text(json.dumps(made, indent=2))
    return made


def statement(folder: Path) -> dict[str, Any]:
    """An in-toto test result in the shape of :func:`rkld.reporting.statement.statement`."""
    audit = json.loads((folder / "audit.json").read_text())
    noted = {"verdict": audit["verdict"], "created": audit["created"], "audited": audit["models"]["audited"]}
    noted["audited"] = {"weights": noted["audited"]["weights"]}
    evidence = {"name": "audit.json", "digest": {"sha256": sha256(folder / "audit.json")}, "annotations": noted}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "report.html", "digest": {"sha256": sha256(folder / "report.html")}}],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {"result": "PASSED", "configuration": [evidence]},
    }


class Signer:
    """Somebody with a key."""

    def __init__(self, folder: Path):
        self.path = folder / "key"
        make_key(self.path)
        self.public_path = folder / "key.pub"
        self.private, self.public = read_signing_key(self.path), read_verifying_key(self.public_path)

    def sign(self, folder: Path) -> Path:
        return sign(folder, statement(folder), self.private)

    def verify(self, source: Path, **elsewhere: Path):
        return verify(source, self.public, **elsewhere)
