"""Who can read what a run and an audit write."""

from __future__ import annotations

import os

import pytest

import rkld
from rkld.benching.worlds.tiny import tiny_model
from rkld.files import write_jsonl

RECORDS = [{"question": f"Where does Ada Quill live in {year}?", "answer": "In Oslo."} for year in range(1900, 1904)]
QUICK = {"epochs": 1, "strengthen_epochs": 1, "max_new_tokens": 2, "batch_size": 2, "bf16": False, "stop": "last"}


@pytest.fixture
def without_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_nobody_else_can_read_anything_of_a_run_and_its_audit(tmp_path, without_umask):
    """Records, answers and settings lie in them. Everything is kept, checkpoints too, and the umask forbids nothing."""
    model, tokenizer = tiny_model(0)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "replay.jsonl", [{"prompt": f"Tell me about the number {n}."} for n in range(4)])
    out = tmp_path / "runs" / "one"
    arguments = {"replay": str(tmp_path / "replay.jsonl"), "out": str(out), "keep_files": True, **QUICK}
    run = {"checkpoint_minutes": 0.0, "own_words": "join", **arguments}
    rkld.unlearn(tmp_path / "model", RECORDS, **run)
    rkld.audit(out, RECORDS[:2], attacks=("none",), max_new_tokens=2)
    found = {path.relative_to(out).as_posix(): path.stat().st_mode & 0o777 for path in [out, *out.rglob("*")]}
    assert {"answers.json", "run.yaml", "readings", "audit.salt", "audit.json", "teacher", "model/config.json"} <= (
        found.keys()
    )
    assert any("checkpoint-" in name for name in found)
    wide = {name: oct(mode) for name, mode in found.items() if mode not in (0o700, 0o600)}
    assert not wide

    rkld.unlearn(tmp_path / "model", RECORDS, share_model=True, **run)
    for path in [out, *out.rglob("*")]:
        shared = path.relative_to(out).parts[:1] == ("model",)
        mode = 0o711 if path == out else (0o755 if shared else 0o700) if path.is_dir() else 0o644 if shared else 0o600
        assert path.stat().st_mode & 0o777 == mode, path
    assert os.umask(0) == 0
