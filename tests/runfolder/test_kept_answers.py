"""``rkld.runfolder.kept_answers``: what is found again, by whom, and what is not believed."""

from __future__ import annotations

import json
import os
import stat

import pytest

from rkld.runfolder import kept_answers
from rkld.runfolder.kept_answers import DAYS, Answer, KeptAnswers, folder, kept_files
from rkld.runfolder.once import own_key

PROMPTS = [(1, 2, 3), (4, 5), (1, 2)]
SAID = [Answer("Paris.", False), Answer("It is a town in", True), None]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def kept():
    found = KeptAnswers({"model": "m", "max_new_tokens": 64})
    found.note(zip(PROMPTS, SAID, strict=True))
    return found


def test_what_was_noted_is_found_again_by_the_same_way_of_asking_alone(kept):
    assert KeptAnswers({"max_new_tokens": 64, "model": "m"}).find(PROMPTS) == SAID
    for other in ({"model": "n", "max_new_tokens": 64}, {"model": "m", "max_new_tokens": 32}):
        assert KeptAnswers(other).find(PROMPTS) == [None] * 3
    kept.note([(PROMPTS[0], None), (PROMPTS[2], Answer("new", False))])
    assert kept.find(PROMPTS) == [None, SAID[1], Answer("new", False)], "what was dropped stayed"


def test_nobody_else_reads_them_and_no_prompt_stands_there(kept):
    (path,) = kept_files()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder().stat().st_mode) == 0o700
    document = json.loads(path.read_text())
    assert set(document) == {"answers", "checksum"}
    assert all(len(name) == 32 for name in document["answers"]), "a prompt in clear"


def changed(document):
    next(iter(document["answers"].values()))[0] = "Lyon."


def unsealed(document):
    changed(document)
    del document["checksum"]


def half(document):
    document["answers"] = {"x": ["text"]}


@pytest.mark.parametrize("damage", [changed, unsealed, half])
def test_a_file_that_was_changed_is_not_believed(kept, damage, caplog):
    """It would be trained on: whoever can write there must not decide what the model is held to."""
    (path,) = kept_files()
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    assert kept.find(PROMPTS) == [None] * 3
    assert "not as they were written" in caplog.text
    kept.note([(PROMPTS[1], SAID[1])])
    assert kept.find(PROMPTS) == [None, SAID[1], None]


def test_a_link_is_not_followed_and_another_key_opens_nothing(kept, tmp_path):
    (path,) = kept_files()
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert kept.find(PROMPTS) == [None] * 3
    path.unlink()
    (tmp_path / "elsewhere.json").rename(path)
    assert kept.find(PROMPTS) == SAID
    (tmp_path / "cache" / "rkld" / "readings.key").unlink()
    assert own_key() and kept.find(PROMPTS) == [None] * 3


def test_old_ones_are_deleted(kept):
    (old,) = kept_files()
    os.utime(old, (0, old.stat().st_mtime - (DAYS + 1) * 86400))
    other = KeptAnswers({"model": "n"})
    other.note([(PROMPTS[0], SAID[0])])
    assert old not in kept_files() and other.find(PROMPTS[:1]) == SAID[:1]


def test_without_a_place_for_the_key_nothing_is_kept(monkeypatch, tmp_path):
    """It could never be read again, and would lie there."""
    monkeypatch.setattr(kept_answers, "own_key", lambda: os.urandom(32).hex())
    KeptAnswers({}).note([(PROMPTS[0], SAID[0])])
    assert kept_files() == []
