"""Run folders that version 0.1 wrote: finished ones are read and purged, unfinished ones refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from rkld.errors import UserError
from rkld.runfolder.folder import Run
from rkld.runfolder.manifest import read_manifest, salted
from rkld.runfolder.purging import purge
from rkld.settings.unlearning import Settings

METRICS = {"forget": {"probability": 0.9}}


@pytest.fixture
def old_run(tmp_path):
    """A folder as version 0.1 left it, and the settings it was made by."""
    settings = Settings(model="m", forget="f.jsonl", subject=("Ada Quillon",), out=str(tmp_path / "run"))

    def write(*phases):
        asked = json.loads(json.dumps(asdict(settings)))
        del asked["subject"]
        asked.pop("optim")  # a setting that the old version did not have
        found = {
            "format": 1,
            "settings": asked,
            "versions": {"rkld": "0.1.0"},
            "salt": "ab",
            "subject": salted("ab", settings.subject),
            "records": {"forget records": {"n": 2, "hash": "00"}, "template": "t"},
            "phases": {name: {"seconds": 1.0, "metrics": METRICS} for name in phases},
            "personal_data": {"answers.json": "answers"},
            "warnings": [],
        }
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(found), encoding="utf-8")
        (folder / "answers.json").write_text('{"before": ["Oslo"], "after": [""]}', encoding="utf-8")
        return folder

    return settings, write


def test_a_finished_run_is_read_and_purged(old_run):
    settings, write = old_run
    folder = write("before", "replay", "distillation", "model")
    run = Run(settings)
    assert run.finished
    assert run.figures == {"before": METRICS, "after": METRICS}
    purge(folder)
    assert not (folder / "answers.json").exists()
    assert "salt" not in read_manifest(folder)


def test_a_setting_that_an_old_run_did_not_have_had_its_default(old_run):
    """Asked for with another value it would be another model."""
    settings, write = old_run
    write("before", "replay", "distillation", "model")
    with pytest.raises(UserError, match=r"--optim: 'adamw_torch_fused' then, 'sgd' now"):
        Run(replace(settings, optim="sgd"))


def test_an_unfinished_run_is_refused_with_what_to_do_and_can_be_purged(old_run):
    settings, write = old_run
    folder = write("before", "replay")
    with pytest.raises(UserError, match=r"unfinished run of rkld 0\.1.*rkld purge"):
        Run(settings)
    purge(folder)
    assert not (folder / "answers.json").exists()


def test_a_later_format_is_refused(old_run):
    settings, write = old_run
    path = write("before") / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="a run of format 3"):
        Run(settings)
