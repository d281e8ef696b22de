"""What ``rkld init`` writes: every file is read by the tool as it was written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from rkld.auditing.inputs import read_task
from rkld.cli import main
from rkld.commands.write_forms import OF_A_RUN, OF_AN_AUDIT, write_forms
from rkld.errors import UserError
from rkld.pipeline.preparing import read_inputs
from rkld.records.probes import as_probes
from rkld.records.reading import read_records
from rkld.runfolder.request import RequestForm
from rkld.settings.auditing import AuditSettings
from rkld.settings.config_file import read_config
from rkld.settings.specification import fields, make
from rkld.settings.unlearning import Settings


def uncommented(path: Path) -> None:
    """Take the sign off every setting that is offered."""
    path.write_text(re.sub(r"(?m)^#(?=\S)", "", path.read_text()))


@pytest.fixture
def forms(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["init", "jane"])
    assert done.exit_code == 0 and "rkld check --config jane/run.yaml" in done.output
    return tmp_path / "jane"


@pytest.mark.parametrize("all_set", [False, True])
def test_the_run_and_the_audit_read_every_file_as_it_was_written(forms, all_set):
    if all_set:
        uncommented(forms / "run.yaml")
        uncommented(forms / "audit.yaml")
    run = make(read_config("jane/run.yaml"), "run.yaml", Settings)
    inputs = read_inputs(run)
    assert len(inputs.forget) == 4 and inputs.warnings() == [] and not inputs.request.is_stated
    assert len(inputs.forget[0].rewordings) == 2
    assert (len(inputs.retain), len(inputs.holdout)) == ((2, 2) if all_set else (0, 0))
    task = read_task(make(read_config("jane/audit.yaml"), "audit.yaml", AuditSettings), {})
    assert task.notes == () and len(task.reworded) == 1
    assert as_probes(read_records("jane/questions.yaml", "probes"))


def test_what_is_commented_out_are_the_defaults(forms):
    """So that taking a sign away changes nothing but what offers a file."""
    for name, cls in {"run.yaml": Settings, "audit.yaml": AuditSettings}.items():
        before = yaml.safe_load((forms / name).read_text())
        uncommented(forms / name)
        added = {k: v for k, v in yaml.safe_load((forms / name).read_text()).items() if k not in before}
        made = make(added, name, cls)
        assert {k for k in added if getattr(made, k) != getattr(cls(), k)} <= {"retain", "holdout", "probes"}


def test_the_settings_are_some_that_there_are():
    assert set(OF_A_RUN) <= set(fields(Settings)) and set(OF_AN_AUDIT) <= set(fields(AuditSettings))


def test_a_filled_form_is_read(forms):
    path = forms / "request.yaml"
    assert RequestForm.read(str(path), None) == RequestForm()
    path.write_text(
        re.sub(r"(?m)^( *(?:- )?\w+):$", r"\1: 2026-11-03", path.read_text()).replace("copies: 2026-11-03", "copies:")
    )
    form = RequestForm.read(str(path), None)
    assert set(form.to_dict()) == set(fields(RequestForm)) and form.copies[0].replaced == "2026-11-03"
    assert all(form.to_dict().values())


def test_no_file_is_written_over(forms):
    (forms / "run.yaml").write_text("model: mine")
    (forms / "records.yaml").unlink()
    with pytest.raises(UserError, match=r"holds run.yaml, .* already"):
        write_forms(forms)
    assert (forms / "run.yaml").read_text() == "model: mine" and not (forms / "records.yaml").exists()
    with pytest.raises(UserError, match="is a file"):
        write_forms(forms / "run.yaml")
