"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rkld.files import append_jsonl, make_folder, new_file, new_folder, unfinished, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_is_replaced_whole_or_left_alone(tmp_path):
    """Would break if a failed save left half a model, or a second save mixed with the first."""
    with new_folder(tmp_path / "run" / "model") as new:
        (new / "old").touch()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "run" / "model") as new:
        (new / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["run", "run/model", "run/model/old"]
    with new_folder(tmp_path / "run" / "model") as new:
        (new / "sub").mkdir()
    assert names(tmp_path) == ["run", "run/model", "run/model/sub"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    """Would break if the old model were deleted before the new one stands in its place."""
    with new_folder(tmp_path / "model") as new:
        (new / "old").touch()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == new:
            assert not (tmp_path / "model" / "half").exists()
            raise OSError("no space")
        return rename(path, target)

    with pytest.raises(OSError, match="no space"), new_folder(tmp_path / "model") as new:
        monkeypatch.setattr(Path, "rename", fail)
    assert names(tmp_path) == ["model", "model/old"]


def test_the_old_folder_is_found_where_the_process_is_killed(tmp_path, monkeypatch):
    """A model that lies aside must be found when the run is purged."""
    (tmp_path / "model").mkdir()
    monkeypatch.setattr("rkld.files._delete", lambda path: None)
    with new_folder(tmp_path / "model"):
        pass
    assert len(unfinished(tmp_path / "model")) == 1


@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_a_folder_takes_the_place_of_a_file_or_a_link(tmp_path, kind):
    """Would break if hours of training ended in an error; or if what a link leads to were deleted."""
    place = tmp_path / "model"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    with new_folder(place) as new:
        (new / "new").touch()
    assert names(tmp_path) == ["elsewhere", "elsewhere/kept", "model", "model/new"]
    assert not place.is_symlink()


def test_a_file_is_replaced_whole_or_left_alone(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), new_file(tmp_path / "file") as new:
        new.write_text("ha")
        assert unfinished(tmp_path / "file") == [new]
        raise KeyboardInterrupt
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_nobody_else_can_read_what_is_written(tmp_path):
    """Not for a moment, and whatever the umask is."""
    before = os.umask(0)
    try:
        make_folder(tmp_path / "run")
        append_jsonl(tmp_path / "run" / "metrics", {})
        write_text(tmp_path / "run" / "text", "")
        with new_file(tmp_path / "run" / "new") as new:
            assert new.stat().st_mode & 0o777 == 0o600
            new.unlink()  # as a library that puts its own file there
            new.touch()
        with new_folder(tmp_path / "run" / "model") as new:
            assert new.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert found == {"run": 0o700, "model": 0o700, "metrics": 0o600, "text": 0o600, "new": 0o600}
