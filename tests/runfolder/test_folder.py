"""The run folder: what may go on in it, what it says about people, and what a purge leaves."""

from __future__ import annotations

import json
import os

import pytest

from rkld import files
from rkld.errors import UserError
from rkld.files import read_jsonl
from rkld.runfolder.folder import INTERMEDIATE, PERSONAL, Run, remove
from rkld.runfolder.manifest import PURGED
from rkld.runfolder.purging import purge
from rkld.settings.config_file import read_config
from rkld.settings.specification import make
from rkld.settings.unlearning import Settings

NAME = "Ada Quillfeather"


def settings(folder, **values) -> Settings:
    return Settings(**{"model": "m", "forget": "people.jsonl", "out": str(folder), "subject": (NAME, "Ada"), **values})


def started(folder, **values) -> Run:
    run = Run(settings(folder, **values))
    run.start()
    return run


def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def fill(run: Run) -> None:
    """Everything a run may leave behind, and its results."""
    for name in PERSONAL:
        if "." in name:
            (run.folder / name).write_text(NAME)
        else:
            (run.folder / name / "deep").mkdir(parents=True)
            (run.folder / name / "deep" / "file").write_text(NAME)
    (run.folder / "model").mkdir()
    (run.folder / "model" / "model.safetensors").write_text("weights")
    run.record({"loss": 1.0})
    run.save()


# Starting and going on


def test_nothing_is_written_before_start(tmp_path):
    """check opens a run to see whether it could be one."""
    Run(settings(tmp_path / "a" / "run"))
    assert not (tmp_path / "a").exists()


def test_other_settings_are_refused_with_the_difference(tmp_path):
    started(tmp_path / "run")
    with pytest.raises(UserError) as error:
        Run(settings(tmp_path / "run", alpha=4.0, epochs=2, keep_files=True))
    assert "--alpha: 16.0 then, 4.0 now" in str(error.value) and "--epochs: 10 then, 2 now" in str(error.value)
    assert "keep" not in str(error.value)
    Run(settings(tmp_path / "run", keep_files=True, checkpoint_minutes=1.0))  # these change no result


def test_another_subject_is_refused_and_neither_is_named(tmp_path):
    """Also in a finished run, which reads no records any more: its result is about somebody else."""
    started(tmp_path / "run").note("after", {})
    with pytest.raises(UserError, match="--subject: another than then") as error:
        Run(settings(tmp_path / "run", subject=("Bo Marlin",)))
    assert "Ada" not in str(error.value) and "Bo" not in str(error.value)
    Run(settings(tmp_path / "run"))


@pytest.mark.parametrize("name, text", [
    ("notes.txt", "mine"), ("manifest.json", '{"name": "a web page", "icons": []}'), ("manifest.json", "{"),
    ("manifest.json", "[]"),
])  # fmt: skip
def test_a_folder_with_something_else_is_left_alone(tmp_path, name, text):
    """manifest.json is a common name: neither unlearn nor purge may take another program's folder for a run."""
    (tmp_path / name).write_text(text)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="something else"):
        Run(settings(tmp_path))
    with pytest.raises(UserError, match="no run folder"):
        purge(tmp_path)
    assert (tmp_path / name).read_text() == text and (tmp_path / "checkpoints").exists()


def test_a_file_or_a_later_format_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        Run(settings(tmp_path / "file"))
    for absent in ("file", "absent"):
        with pytest.raises(UserError, match="no run folder"):
            purge(tmp_path / absent)
    run = started(tmp_path / "run")
    run.manifest["format"] = 99
    run.save()
    for use in (lambda: Run(settings(tmp_path / "run")), lambda: purge(tmp_path / "run")):
        with pytest.raises(UserError, match="format 99"):
            use()


def test_a_run_killed_while_it_started_goes_on(tmp_path, monkeypatch):
    """At any of its writes: the folder must be taken for a run or for an empty one, and run.yaml be written."""
    real, written = os.fsync, []

    def killed(descriptor):
        written.append(descriptor)
        if len(written) == dies_at:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", killed)
    for dies_at in (1, 2, 3):
        written.clear()
        folder = tmp_path / str(dies_at)
        with pytest.raises(KeyboardInterrupt):
            started(folder)
        written.clear()
        dies_at = 0
        started(folder)
        assert read_config(folder / "run.yaml")["subject"] == [NAME, "Ada"]
        assert not [p for p in folder.iterdir() if p.name.startswith(".")], "half a file is left"


def test_phases_are_done_when_finished_and_known_again(tmp_path):
    run = started(tmp_path / "run")
    assert run.find("replay") is None
    run.note("replay", {"kept": 3})
    again = Run(settings(tmp_path / "run"))
    assert again.find("replay") == {"kept": 3}
    again.record({"a": 1})
    again.record({"text": "two\u2028lines"})
    assert read_jsonl(again.folder / "metrics.jsonl") == [{"a": 1}, {"text": "two\u2028lines"}]


# Hashes


def test_hashes_agree_within_a_run_and_tell_nothing_across_runs(tmp_path):
    """Unsalted, anybody could look a name up by its hash."""
    a, b = started(tmp_path / "a"), started(tmp_path / "b")
    assert a.salted([NAME]) == Run(settings(tmp_path / "a")).salted((NAME,)) != b.salted([NAME])
    assert a.salted([NAME]) != a.salted(["Bo"])
    assert a.manifest["subject"] != b.manifest["subject"]


def test_changed_inputs_are_refused(tmp_path):
    run = started(tmp_path / "run")
    run.same("forget records", {"n": 2, "hash": "x"})
    run.same("forget records", {"n": 2, "hash": "x"})
    with pytest.raises(UserError, match="the forget records changed"):
        run.same("forget records", {"n": 2, "hash": "y"})


# Personal data


def test_the_manifest_never_holds_the_subject_and_lists_what_does(tmp_path):
    run = started(tmp_path / "run")
    assert "Ada" not in (run.folder / "manifest.json").read_text()
    assert "Ada" in (run.folder / "run.yaml").read_text(), "every setting as it was used"
    assert manifest(run.folder)["personal_data"].keys() == {"run.yaml"}
    fill(run)
    assert manifest(run.folder)["personal_data"].keys() == {*PERSONAL, "run.yaml"}
    assert started(tmp_path / "nobody", subject=()).manifest["personal_data"] == {}
    assert set(INTERMEDIATE) <= set(PERSONAL)


def test_removing_says_what_was_there_and_its_size(tmp_path):
    fill(started(tmp_path / "run"))
    removed = dict(remove(tmp_path / "run", INTERMEDIATE))
    assert removed == dict.fromkeys(INTERMEDIATE, len(NAME))
    assert (tmp_path / "run" / "answers.json").exists() and remove(tmp_path / "run", INTERMEDIATE) == []


def test_purge_leaves_no_name_and_keeps_the_model_and_the_numbers(tmp_path):
    run = started(tmp_path / "run", alpha=4.0)
    fill(run)
    run.note("after", {})
    (run.folder / ".answers.json.4321").write_text(NAME)  # of a process that was killed
    (run.folder / ".run.yaml.4321").write_text(NAME)
    removed = dict(purge(run.folder))
    assert removed.keys() == {*PERSONAL, ".run.yaml.4321", "run.yaml (names)"}
    assert removed["answers.json"] == 2 * len(NAME)
    left = [path for path in run.folder.rglob("*") if path.is_file()]
    assert {path.name for path in left} == {"model.safetensors", "manifest.json", "metrics.jsonl", "run.yaml"}
    assert not [path for path in left if "Ada" in path.read_text()]
    assert manifest(run.folder)["personal_data"] == {} and manifest(run.folder)["finished"]
    assert make(read_config(run.folder / "run.yaml"), "run.yaml", Settings) == settings(
        PURGED, alpha=4.0, subject=(), forget=PURGED
    )
    assert purge(run.folder) == []
    again = Run(settings(run.folder, alpha=4.0))  # the same command still finds its result
    again.save()
    assert manifest(run.folder)["personal_data"] == {}


def test_a_purged_manifest_holds_no_hash(tmp_path):
    """Neither of the subject nor of records: with a copy of the salt anybody could try names. Their number stays."""
    run = started(tmp_path / "run")
    hashes = [run.salted([NAME]), run.salted(["a record"])]
    run.same("subject", hashes[0])
    run.same("forget records", {"n": 2, "hash": hashes[1]})
    run.save()
    hashes += [run.manifest["salt"], run.manifest["subject"]]
    purge(run.folder)
    text = (run.folder / "manifest.json").read_text(encoding="utf-8")
    assert not any(one in text for one in hashes)
    assert manifest(run.folder)["records"] == {"forget records": {"n": 2}}


def test_an_unfinished_run_that_was_purged_cannot_go_on(tmp_path):
    """Its phases are noted as done and their files are gone."""
    run = started(tmp_path / "run")
    fill(run)
    run.note("replay", {})
    purge(run.folder)
    assert manifest(run.folder)["finished"] is False
    for values in ({}, {"alpha": 4.0}):
        with pytest.raises(UserError, match="purged before it was finished"):
            Run(settings(run.folder, **values))


def test_a_purge_cut_short_is_marked_and_can_be_repeated(tmp_path, monkeypatch):
    run = started(tmp_path / "run")
    fill(run)
    monkeypatch.setattr("rkld.runfolder.folder.shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        purge(run.folder)
    monkeypatch.undo()
    with pytest.raises(UserError, match="purged"):
        Run(settings(run.folder))
    assert purge(run.folder) and not (run.folder / "teacher").exists()


def test_a_purged_run_yaml_is_written_even_where_it_was_broken(tmp_path):
    run = started(tmp_path / "run")
    (run.folder / "run.yaml").write_text(f"subject: [{NAME}")
    purge(run.folder)
    assert "Ada" not in (run.folder / "run.yaml").read_text() and read_config(run.folder / "run.yaml")["alpha"] == 16.0


@pytest.mark.parametrize("content", ["", "[]", '{"before": "text"}', '{"before": [1]}'])
def test_damaged_answers_are_said_to_be_so(tmp_path, content):
    run = started(tmp_path / "run")
    assert run.answers() == {"before": [], "after": []}
    (run.folder / "answers.json").write_text(content)
    with pytest.raises(UserError, match=r"answers\.json is damaged"):
        run.answers()


def test_notes_that_were_cut_are_said_to_be_so(tmp_path):
    (tmp_path / "own_words.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(UserError, match=r"own_words\.jsonl is damaged"):
        files.read_jsonl(tmp_path / "own_words.jsonl")


def test_a_manifest_without_what_a_run_needs_is_damaged(tmp_path):
    run = started(tmp_path / "run")
    found = manifest(run.folder)
    del found["salt"]
    (run.folder / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="is damaged"):
        Run(run.settings)
