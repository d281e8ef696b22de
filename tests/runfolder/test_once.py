"""``rkld.runfolder.once``: a result is made once, read as it was written, and never taken for another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rkld.errors import UserError
from rkld.runfolder.once import HashedFiles, Notes, ResultFiles, once, own_key

MADE = {"values": (1, 2), "text": "Þór"}
READ = {"values": [1, 2], "text": "Þór"}

BROKEN = {"cut off": '{"settings": {"n"', "empty": "", "no object": "[1]", "not UTF-8": b"\xff", "deep": "[" * 100_000}


class Making:
    """Makes :data:`MADE`, and counts."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return MADE


def failing() -> dict[str, Any]:
    raise RuntimeError("out of memory")


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(params=["settings", "hash"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> ResultFiles | HashedFiles:
    folder = tmp_path / "new" / "folder"
    return ResultFiles(folder, {"n": 1}) if request.param == "settings" else HashedFiles(folder, "ab12")


def test_made_once_and_read_as_it_was_written(notes: ResultFiles | HashedFiles):
    """A resumed piece of work must see what an uninterrupted one did: lists, not tuples."""
    make = Making()
    first, again = once(notes, "cell", make), once(notes, "cell", make)
    assert first == again
    assert {name: first[name] for name in READ} == READ
    assert make.times == 1


def test_an_empty_result_is_a_result(notes: ResultFiles | HashedFiles):
    once(notes, "cell", dict)
    make = Making()
    once(notes, "cell", make)
    assert make.times == 0


def test_an_error_leaves_no_note(notes: Notes):
    with pytest.raises(RuntimeError):
        once(notes, "cell", failing)
    assert notes.find("cell") is None


def test_written_whole_or_not_at_all(notes: ResultFiles | HashedFiles, monkeypatch: pytest.MonkeyPatch):
    """Killed while it writes, it must leave what was there."""
    once(notes, "cell", Making())
    before = notes.path("cell").read_bytes()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        notes.note("cell", {"values": [3]})
    assert notes.path("cell").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../cell", "a/b", "a\\b", "/cell", ".cell", "a\0b"])
def test_a_name_stays_in_its_folder(notes: Notes, name: str):
    """A user's plug-in gives its attacks their names."""
    with pytest.raises(UserError, match="part of a file's name"):
        once(notes, name, Making())


def test_other_settings_are_refused_and_named(tmp_path: Path):
    once(ResultFiles(tmp_path, {"n": 1, "seed": 0}), "cell", Making())
    make = Making()
    with pytest.raises(UserError, match=r"other settings(.|\n)*n: 1 then, 2 now"):
        once(ResultFiles(tmp_path, {"n": 2, "seed": 0}), "cell", make)
    assert make.times == 0


def test_another_hash_is_made_anew_beside_it(tmp_path: Path):
    make = Making()
    for identity in ("ab12", "cd34", "ab12"):
        once(HashedFiles(tmp_path, identity), "answers", make)
    assert make.times == 2
    assert {path.name for path in tmp_path.iterdir()} == {"answers.ab12.json", "answers.cd34.json"}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_result_is_refused_in_a_sentence(tmp_path: Path, content: str | bytes):
    notes = ResultFiles(tmp_path, {"n": 1})
    write(notes.path("cell"), content)
    with pytest.raises(UserError, match="is broken: delete it"):
        notes.find("cell")


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_reading_is_made_anew(tmp_path: Path, content: str | bytes):
    notes, make = HashedFiles(tmp_path, "ab12"), Making()
    write(notes.path("answers"), content)
    assert once(notes, "answers", make) == READ
    assert notes.find("answers") == READ


# The user's own key


def test_the_key_is_made_once_and_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key, path = own_key(), tmp_path / "rkld" / "readings.key"
    assert own_key() == key == path.read_text()
    assert len(bytes.fromhex(key)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["readings.key"]


@pytest.mark.parametrize("content", [b"", b"known to all", b"\xff"])
def test_a_key_that_is_none_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes):
    """An empty file would be a secret that everyone knows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "rkld").mkdir()
    (tmp_path / "rkld" / "readings.key").write_bytes(content)
    key = own_key()
    assert len(bytes.fromhex(key)) == 32
    assert own_key() == key


def test_without_a_place_for_it_the_key_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is resumed then, and nobody's files are believed."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert own_key() != own_key()
