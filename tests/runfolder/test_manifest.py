"""Manifests that cannot be trusted: cut, of wrong types, or reached by another path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rkld.errors import UserError
from rkld.runfolder.manifest import read_manifest, run_of

WHOLE: dict[str, Any] = {
    "format": 2, "settings": {}, "salt": "ab", "subject": "cd", "records": {}, "phases": {"after": {}},
}  # fmt: skip


def make_run(folder: Path, content: object = WHOLE) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "run.yaml").write_text("model: m\n")
    (folder / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("content", ["", json.dumps(WHOLE)[:50], "[" * 100_000], ids=["empty", "cut", "deep"])
def test_a_damaged_manifest_is_no_missing_one(tmp_path: Path, content: str) -> None:
    """Else an audit would count the records that steered."""
    run = make_run(tmp_path / "run", content)
    for model in (run, run / "model"):
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            run_of(str(model))


@pytest.mark.parametrize(
    "part",
    [{"phases": [1]}, {"phases": 1}, {"phases": {"stop": "x"}}, {"settings": []}, {"records": 5}, {"salt": 5},
     {"subject": []}, {"format": "2"}, {"format": [2]}, {"format": True}],
    ids=str,
)  # fmt: skip
def test_a_manifest_of_wrong_types_is_refused(tmp_path: Path, part: dict[str, object]) -> None:
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(make_run(tmp_path / "run", {**WHOLE, **part}))


@pytest.mark.parametrize("content", ["", "[]", "null", '{"name": "an app"}'])
def test_the_manifest_of_another_program_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    assert read_manifest(tmp_path) is None


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    """A model's folder may come from anybody, and whoever audits it looks for a run there."""
    os.mkfifo(tmp_path / "manifest.json")
    assert read_manifest(tmp_path) is None
    (tmp_path / "run.yaml").write_text("model: m\n")
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(tmp_path)


def test_the_run_of_a_model_is_found_by_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run / "model")
    (tmp_path / "other").symlink_to(run)
    for model in (run, run / "model", tmp_path / "link", tmp_path / "other" / "model"):
        found = run_of(str(model))
        assert found is not None
        assert found.resolve() == run.resolve()
    monkeypatch.chdir(run / "model")
    found = run_of(".")
    assert found is not None
    assert found.resolve() == run.resolve()
    assert run_of("a\0b") is None
