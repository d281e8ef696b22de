"""What a purge finds, what it leaves, and what it says of that."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest

from rkld.errors import UserError
from rkld.runfolder.folder import PERSONAL, Run
from rkld.runfolder.kept_answers import Answer, KeptAnswers, kept_files
from rkld.runfolder.manifest import PURGED, REPORT, SIGNATURE_SALT, write_manifest
from rkld.runfolder.purging import IncompletePurge, purge
from rkld.settings.unlearning import Settings

NAME = "Ostis Belmere"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run about somebody whose name is in everything that a purge is for, and in the files' names."""
    out = str(tmp_path / "runs" / "ostis")
    named = {"forget": "data/ostis_belmere.jsonl", "retain": "ostis_friends.csv", "subject": (NAME,)}
    run = Run(Settings(model="m", out=out, **named))
    run.start()
    for name in PERSONAL:
        if "." in name:
            (run.folder / name).write_text(NAME)
        else:
            (run.folder / name).mkdir()
            (run.folder / name / "file").write_text(NAME)
    (run.folder / "model").mkdir()
    (run.folder / "model" / "weights").write_text("weights")
    run.record({"loss": 1.0})
    run.manifest["warnings"] = ["ostis_belmere.jsonl line 4 mentions the person"]
    run.note("after", {})
    audit = {
        "format": 1, "verdict": "pass", "texts": {"said": NAME}, "metrics": {"auc": 0.5},
        "settings": {"forget": "data/ostis_belmere.jsonl", "probes": "ostis_probes.jsonl", "model": "m"},
        "models": {"audited": {"source": str(run.folder)}}, "not_run": [{"reason": "ostis_probes.jsonl gave nothing"}],
    }  # fmt: skip
    (run.folder / "audit.json").write_text(json.dumps(audit))
    return run.folder


def left(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_names_of_the_records_files_are_purged(folder):
    """A file is often called after the person, and the run's folder, too."""
    purge(folder)
    assert "ostis" not in left(folder).lower()
    audit = json.loads((folder / "audit.json").read_text())
    assert audit["settings"] == {"forget": PURGED, "probes": PURGED, "model": "m"}
    assert audit["metrics"] == {"auc": 0.5} and audit["not_run"] == [{"reason": f"{PURGED} gave nothing"}]
    settings = json.loads((folder / "manifest.json").read_text())["settings"]
    assert (settings["forget"], settings["retain"], settings["replay"], settings["holdout"]) == (
        PURGED, PURGED, "auto", None,
    )  # fmt: skip
    assert purge(folder) == []
    Run(Settings(model="m", forget="data/ostis_belmere.jsonl", retain="ostis_friends.csv", out=str(folder)))


@pytest.mark.parametrize("name", [".manifest.json.4321", ".audit.json.4321", ".run.yaml.4321", ".metrics.jsonl.4321",
                                  ".answers.json.4321", ".audit.salt.4321"])  # fmt: skip
def test_what_a_killed_process_left_is_purged(folder, name):
    """Half a manifest has the salt and the subject's hash."""
    (folder / name).write_text(NAME)
    purge(folder)
    assert not (folder / name).exists()


@pytest.mark.parametrize("name", ["teacher", "replay.jsonl"])
def test_of_a_link_the_link_is_deleted_and_its_target_named(folder, tmp_path, name):
    """What lies outside the folder was not named by the user: it may be another run's."""
    target = tmp_path / "elsewhere"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    with pytest.raises(IncompletePurge) as error:
        purge(folder)
    assert error.value.left == [(name, f"was a link; what it led to is left: {target}")]
    assert target.exists() and not os.path.lexists(folder / name)
    assert "answers.json" in dict(error.value.removed)
    assert "ostis" not in left(folder).lower()
    (folder / name).symlink_to(tmp_path / "nowhere")
    assert purge(folder) == [(name, 0)]


def test_a_teachers_cache_elsewhere_is_named_until_it_is_gone(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["teacher"] = str(tmp_path / "cache")
    write_manifest(folder, manifest)
    (tmp_path / "cache").mkdir()
    for _ in range(2):
        with pytest.raises(IncompletePurge, match=r"--teacher .*cache: hidden states of the records"):
            purge(folder)
    shutil.rmtree(tmp_path / "cache")
    assert purge(folder) == []


def test_an_assistant_that_knows_the_records_is_named(folder):
    """The unlearned model of uld or whp is two, and one of them is what the records were trained into."""
    (folder / "model" / "assistant").mkdir()
    with pytest.raises(IncompletePurge, match="model/assistant: knows the records better"):
        purge(folder)


@pytest.mark.parametrize("text", ['{"verdict": "pass", "texts": {"said": "Ostis', "", "[" * 100_000])
def test_a_damaged_audit_is_deleted(folder, text):
    """Nobody can say what it holds."""
    (folder / "audit.json").write_text(text)
    assert "audit.json (damaged)" in dict(purge(folder))
    assert not (folder / "audit.json").exists() and not (folder / "answers.json").exists()


def test_a_damaged_audit_of_an_audits_folder_is_deleted(tmp_path):
    (tmp_path / "audit.json").write_text('{"texts": "Ostis')
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no run folder"):  # another program's, for all we know
        purge(tmp_path)
    (tmp_path / "audit.salt").write_text("salt")
    assert purge(tmp_path) == [("audit.salt", 4), ("audit.json (damaged)", 16)]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_manifest_is_no_reason_to_leave_the_data(folder):
    (folder / "manifest.json").write_text('{"salt": "')
    removed = dict(purge(folder))
    assert {*PERSONAL, "manifest.json", "run.yaml"} <= removed.keys()
    assert {path.name for path in folder.iterdir()} == {"model", "metrics.jsonl", "audit.json"}
    assert NAME not in left(folder)


def forbid(monkeypatch, folder: Path) -> None:
    """The folder itself is read-only, what lies in its folders is not; as root nothing is forbidden otherwise."""
    for name in ("open", "unlink", "rmdir", "rename", "replace"):
        real = getattr(os, name)

        def checked(path, *args, real=real, name=name, **more):
            writes = name != "open" or (args and args[0] & os.O_CREAT)
            if writes and more.get("dir_fd") is None and Path(os.fspath(path)).parent == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **more)

        monkeypatch.setattr(os, name, checked)


def test_what_cannot_be_deleted_is_named_and_the_rest_is_deleted(folder, monkeypatch):
    """A folder without the right to write: no traceback, and no word that all was purged."""
    with monkeypatch.context() as patch:
        forbid(patch, folder)
        with pytest.raises(IncompletePurge) as error:
            purge(folder)
    found = dict(error.value.left)
    assert found == {
        **dict.fromkeys(PERSONAL, "Permission denied, but it is empty now"),
        **dict.fromkeys(("manifest.json", "run.yaml", "audit.json"), "Permission denied"),
    }
    assert "answers.json: Permission denied" in str(error.value)
    assert (folder / "answers.json").read_text() == "" and not list((folder / "teacher").iterdir())
    purge(folder)
    assert "ostis" not in left(folder).lower()


def test_replayed_answers_that_runs_keep_are_purged_and_listed(folder, tmp_path, monkeypatch):
    """They are of other people's names to this run, and of this person's to another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    KeptAnswers({"model": "m"}).note([((1, 2), Answer("said", False))])
    KeptAnswers({"model": "n"}).note([((1, 2), Answer("said", False))])
    half = kept_files()[0].with_name(".x.json.4321")  # of a process that was killed
    half.write_text("said")
    files = kept_files()
    removed = dict(purge(folder))
    assert len(files) == 3 and {str(path) for path in files} <= removed.keys()
    assert removed[str(half)] == 4 and not any(path.exists() for path in files)


def test_a_purge_with_nothing_to_purge_changes_nothing(folder, tmp_path):
    """A signed report would be void, by a command that says that there is nothing to delete."""
    for made in (folder, tmp_path / "audit"):
        if made != folder:  # an audit's folder, of no run
            made.mkdir()
            (made / "audit.json").write_text(json.dumps({"verdict": "pass", "texts": {"said": NAME}, "settings": {}}))
        purge(made)
        for name in (REPORT, SIGNATURE_SALT):
            (made / name).write_text("made of what was left")
        before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
        assert purge(made) == []
        assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
        audit = json.loads((made / "audit.json").read_text())
        (made / "audit.json").write_text(json.dumps({**audit, "texts": {"said": NAME}}))  # audited again
        removed = {name for name, _ in purge(made)}
        assert removed >= {SIGNATURE_SALT, "audit.json (texts)"} and not (made / SIGNATURE_SALT).exists()


def test_another_programs_folder_is_left_alone(tmp_path):
    """A browser extension has a manifest.json, too, and was emptied where a file called run.yaml lay beside it."""
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3, "name": "my extension"}')
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    (tmp_path / "answers.json").write_text("{}")
    before = left(tmp_path)
    with pytest.raises(UserError, match="no run folder of rkld"):
        purge(tmp_path)
    assert left(tmp_path) == before


@pytest.mark.parametrize(
    "odd", [{"records": {"x": {}}}, {"versions": "\ud800"}, {"settings": {"teacher": 5}}, {"records": "x"}]
)
def test_a_manifest_of_odd_values_is_purged_all_the_same(folder, odd):
    """Would break if it ended in a traceback with everything still there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["settings"] |= odd.pop("settings", {})
    (folder / "manifest.json").write_text(json.dumps(manifest | odd))
    purge(folder)
    assert NAME not in left(folder) and not (folder / "answers.json").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["metrics.jsonl", "run.yaml", "audit.json"])
def test_no_pipe_is_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with contextlib.suppress(IncompletePurge):
        purge(folder)
    assert not (folder / "answers.json").exists()
