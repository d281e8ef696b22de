"""What was written is believed as it was written: lost, cut and changed files, flipped bits, full disks."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

import rkld
from rkld.errors import UserError
from rkld.pipeline import space
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.folder import INTERMEDIATE, give_up_model
from rkld.runfolder.purging import purge
from tests.long.flipped_bits import Folders, Listening, listening, look, make_folders, unlearn
from tests.long.world import AUDIT, FORGET, KEPT, files

STUDENT = Path("checkpoints/student.safetensors")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Folders:
    """A finished run with its audit, and one that was interrupted in its distillation."""
    return make_folders(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def finished(world, tmp_path) -> Path:
    return Path(shutil.copytree(world.run["finished"], tmp_path / "run"))


@pytest.fixture
def interrupted(world, tmp_path) -> Path:
    return Path(shutil.copytree(world.run["interrupted"], tmp_path / "run"))


def longer(*values, id: str):
    """A case that differs little from one that is always tried."""
    return pytest.param(*values, id=id, marks=pytest.mark.slow)


def change(path: Path, n: int = 200) -> None:
    """So many bytes in its middle."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + n] = bytes(255 - one for one in content[middle : middle + n])
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


# Finished work


@pytest.mark.parametrize("lose", [
    pytest.param(lambda run: shutil.rmtree(run / "model"), id="gone"),
    longer(lambda run: [path.unlink() for path in (run / "model").iterdir()], id="emptied"),
    longer(lambda run: (run / "model" / "model.safetensors").unlink(), id="without weights"),
])  # fmt: skip
def test_a_finished_run_whose_model_is_gone_makes_it_again(world, finished, lose):
    """It reported success, and named a folder that was not there."""
    lose(finished)
    with listening() as heard:
        result = unlearn(world.original, finished, progress=heard)
    assert len(heard.said) == 1
    assert "so it is done again: before, own_words, rewordings, replay, distillation, model, after" in heard.said[0]
    assert weights_hash(result.model_path) == world.expected["finished"]["weights"]
    with listening() as heard:
        unlearn(world.original, finished, progress=heard)
    assert not heard.said


@pytest.mark.parametrize("spoil", [change, cut, empty])
def test_another_model_in_its_place_is_refused_and_stays(world, finished, spoil):
    """200 changed bytes went unnoticed. It may be somebody's work, so it is not replaced; nor is it audited as that
    run's, of whose steering records and settings nothing holds for it."""
    path = finished / "model" / "model.safetensors"
    spoil(path)
    spoiled = path.read_bytes()
    with pytest.raises(UserError, match=r"is not the model that this run wrote \(model/model.safetensors: changed\)"):
        unlearn(world.original, finished)
    for model in (finished, finished / "model"):
        with pytest.raises(UserError, match="is not the model that the run in"):
            rkld.audit(model, FORGET, **AUDIT)
        with pytest.raises(UserError, match="is not the model that the run in"):
            rkld.audit(world.original, FORGET, control=model, out=str(finished / "other"), **AUDIT)
    assert path.read_bytes() == spoiled


def test_what_was_taken_away_on_purpose_is_not_made_again(world, finished):
    (finished / "answers.json").unlink()
    give_up_model(finished)
    stamp = (finished / "manifest.json").stat().st_mtime_ns
    give_up_model(finished)
    with listening() as heard:
        result = unlearn(world.original, finished, progress=heard)
    assert result.answers == [] and not result.model_path.exists() and not heard.said
    assert (finished / "manifest.json").stat().st_mtime_ns == stamp
    assert not unlearn(world.original, finished, share_model=True).model_path.exists(), "nothing is left to share"


def test_a_purged_run_cannot_make_its_model_again(world, finished):
    purge(finished)
    found = json.loads((finished / "manifest.json").read_text())["files"]
    assert {path.partition("/")[0] for path in found} == {"model", "metrics.jsonl"}, "a checksum of personal data stays"
    unlearn(world.original, finished)
    shutil.rmtree(finished / "model")
    with pytest.raises(UserError, match="was purged, so it cannot make it again"):
        unlearn(world.original, finished)


def test_damaged_answers_are_made_again_and_the_model_stays(world, finished):
    change(finished / "answers.json", 1)
    stamp = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    with listening() as heard:
        result = unlearn(world.original, finished, progress=heard)
    assert any("answers.json: damaged" in text for text in heard.said)
    assert result.answers and result.metrics == world.expected["finished"]["metrics"]
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == stamp


# Damaged files


DAMAGED = {
    "optimizer of zero length": (empty, "checkpoints/checkpoint-*/optimizer.pt"),
    "half a trainer's state": (cut, "checkpoints/checkpoint-*/trainer_state.json"),
    "checkpoint's weights": (change, "checkpoints/checkpoint-*/model.safetensors"),
    "checkpoint's checksums": (cut, "checkpoints/checkpoint-*/checksums.json"),
    "checks of the stop": (cut, "checkpoints/evidence.jsonl"),
    "chosen state": (change, "checkpoints/best-*.safetensors"),
    "cache": (cut, "teacher/strengthened-forget-00000.safetensors"),
    "cache's index": (cut, "teacher/index.json"),
    "replay": (cut, "replay.jsonl"),
    "own words": (empty, "own_words.jsonl"),
    "rewordings": (change, "rewordings.jsonl"),
    "answers": (empty, "answers.json"),
    "settings": (cut, "run.yaml"),
}


ALWAYS = ("optimizer of zero length", "chosen state", "cache", "rewordings")
"""One of each of what holds it: checkpoints, the stop, the teacher, and what was made of the records."""


@pytest.mark.parametrize(
    "spoil, pattern",
    [pytest.param(*case, id=name) if name in ALWAYS else longer(*case, id=name) for name, case in DAMAGED.items()],
)
def test_a_damaged_file_is_said_and_made_again(world, interrupted, spoil, pattern):
    """From the unit of work before it, to the same bytes as undisturbed; "Aborted!" and tracebacks were the answer."""
    found = [*interrupted.glob(pattern)]
    assert found, f"this run has no {pattern}: what is damaged?"
    for path in found:
        spoil(path)
    with listening() as heard:
        assert look("interrupted", world, interrupted, heard) == world.expected["interrupted"]
    assert heard.said


@pytest.mark.parametrize("spoil", [cut, empty, lambda path: change(path, 1)])
def test_a_damaged_manifest_is_refused(world, finished, spoil):
    spoil(finished / "manifest.json")
    for use in (lambda: unlearn(world.original, finished), lambda: rkld.audit(finished / "model", FORGET, **AUDIT)):
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            use()


# Audits


def test_the_evidence_names_what_it_is_made_of(world, finished):
    """Weights and readings by their checksums; a reading of other figures is made anew, and said."""
    document = json.loads((finished / "audit.json").read_text())
    assert document["models"]["audited"]["weights"] == weights_hash(finished / "model")
    named = {one["file"]: one["checksum"] for role in document["readings"].values() for one in role.values()}
    assert named.keys() == {path.name for path in (finished / "readings").iterdir()}
    path = next((finished / "readings").glob("likelihood.*"))
    text = path.read_text()
    at = text.index('"loss": ') + len('"loss": ')
    path.write_text(f"{text[:at]}9{text[at + 1 :]}")
    with listening() as heard:
        assert look("finished", world, finished, heard) == world.expected["finished"]
    assert any("likelihood is made anew" in text for text in heard.said)


def test_two_models_of_one_name_do_not_share_a_folder(world, tmp_path, monkeypatch):
    """The second audit replaced the first without a word."""
    monkeypatch.chdir(tmp_path)
    models = {"a": world.original, "b": world.run["finished"] / "model"}
    for name, source in models.items():
        shutil.copytree(source, tmp_path / name / "model")
    found = {name: rkld.audit(f"{name}/model", FORGET[:2], **AUDIT) for name in models}
    assert len({one.path for one in found.values()}) == 2
    assert all(one.path.parent.name.startswith("model-") for one in found.values())
    assert rkld.audit("a/model", FORGET[:2], **AUDIT).path == found["a"].path, "it would not find its readings again"
    with pytest.raises(UserError, match="holds the audit of another model"):
        rkld.audit("b/model", FORGET[:2], out=str(found["a"].path.parent), **AUDIT)
    (tmp_path / "npm").mkdir()
    (tmp_path / "npm" / "audit.json").write_text('{"vulnerabilities": {}}')
    with pytest.raises(UserError, match="no audit of rkld"):
        rkld.audit("b/model", FORGET[:2], out="npm", **AUDIT)


# Disks


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(world, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    for verb in (unlearn, lambda original, run: rkld.check(original, FORGET, retain=KEPT, out=str(run))):
        with pytest.raises(UserError, match=r"will write about \d+\.\d kB, and 1\.0 kB are free"):
            verb(world.original, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_run_takes_is_foreseen(world, tmp_path, monkeypatch):
    """A run is refused by this: it must not be more than what is written, nor much less."""
    seen = []
    monkeypatch.setattr("rkld.pipeline.preparing.require_space", lambda folder, found: seen.append(found))
    unlearn(world.original, tmp_path / "run", keep_files=True)
    sizes = {str(path.relative_to(tmp_path / "run")): path.stat().st_size for path in files(tmp_path / "run")}
    checkpoints = sum(size for path, size in sizes.items() if "checkpoint-" in path)
    written = sum(n for path, n in sizes.items() if path.endswith(".safetensors") and "checkpoint-" not in path)
    assert 0.7 * written < seen[0].certain <= written
    assert 0 < seen[0].checkpoints < 2 * checkpoints


@pytest.mark.parametrize("limit", [longer(30_000, id="of the cache"), pytest.param(150_000, id="of the model")])
def test_a_limit_on_files_is_a_sentence_and_leaves_nothing_half_written(world, tmp_path, limit):
    """As of a disk that becomes full: cache, checkpoints and model are written by three libraries."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match="ulimit -f"):
            unlearn(world.original, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run").rglob(".*")), "half a file is left"
    with listening() as heard:
        result = unlearn(world.original, tmp_path / "run", progress=heard)
    assert weights_hash(result.model_path) == world.expected["finished"]["weights"]
    assert not heard.said
    assert not [name for name in INTERMEDIATE if (tmp_path / "run" / name).exists()]


def test_listening_hears_what_is_unusual_alone():
    heard = Listening()
    for text in ("Loading model", "x: the teacher is made anew", "runs/a is finished already"):
        heard.say(text)
    assert heard.said == ["x: the teacher is made anew"]
