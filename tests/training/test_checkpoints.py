"""Which checkpoint a training goes on from."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rkld.training.checkpoints import SHARDS, NoteChecksums, last_checkpoint


@pytest.fixture
def folder(tmp_path):
    """Of a training whose model was whole until step 2, and in shards at steps 3 and 4; the last was interrupted."""
    for step in (1, 2, 3, 4):
        one = tmp_path / f"checkpoint-{step}"
        (one / SHARDS if step > 2 else one).mkdir(parents=True)
        (one / "trainer_state.json").write_text(json.dumps({"global_step": step})[: -1 if step == 4 else None])
        if step <= 2:
            args, state = SimpleNamespace(output_dir=tmp_path, world_size=1), SimpleNamespace(global_step=step)
            NoteChecksums().on_save(args, state, None)
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_model_goes_on_from_what_no_shards_were_written_of(folder, caplog):
    """A traceback before: "Can't find a valid checkpoint"."""
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    assert left(folder) == ["checkpoint-1", "checkpoint-2"]
    assert "checkpoint-3 is of a model in shards" in caplog.text and "checkpoint-4 is not whole" in caplog.text


def test_a_model_in_shards_goes_on_from_shards(folder, caplog):
    assert last_checkpoint(folder, sharded=True) == folder / "checkpoint-3"
    (folder / "checkpoint-3" / "trainer_state.json").unlink()
    assert last_checkpoint(folder, sharded=True) is None and left(folder) == []
    assert "checkpoint-2 is of a whole model" in caplog.text


def test_processes_that_do_not_wait_for_each_other_note_no_checksums(folder):
    """Trained by one's own Trainer under torchrun, one may still be writing when another is done."""
    done = folder / "checkpoint-3"
    for world_size in (2, 1):
        args, state = SimpleNamespace(output_dir=folder, world_size=world_size), SimpleNamespace(global_step=3)
        NoteChecksums().on_save(args, state, None)
        assert (done / "checksums.json").exists() is (world_size == 1)
    (done / "trainer_state.json").write_text("{}")
    assert last_checkpoint(folder, sharded=True) is None, "what was noted is compared, in shards too"
