"""What is written where: the page, what machines read, and nothing half."""

import json
import os
import random
from pathlib import Path

import cyclonedx.schema
import pytest
from click.testing import CliRunner
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as Predicate
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Parsed

from rkld.cli import main
from rkld.errors import UserError
from rkld.files import write_json
from rkld.reporting.bom import bill_of_materials
from rkld.reporting.keys import make_key
from rkld.reporting.statement import statement
from rkld.reporting.writing import write_report
from rkld.runfolder.checksums import sealed, sha256
from rkld.runfolder.purging import purge
from tests.reporting.made import write_audit, write_run


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run", verdict="fail")


def test_the_command_writes_all_into_the_folder(run):
    done = CliRunner().invoke(main, ["report", str(run)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in run.iterdir()} >= {"report.html", "report.json", "model.cdx.json"}
    assert (run / "report.html").stat().st_mode & 0o777 == 0o600
    shown = CliRunner().invoke(main, ["report", str(run), "--show-records"])
    assert "personal data" in shown.output and (run / "report-records" / "report.html").is_file()
    assert "Words of record" not in (run / "report.html").read_text()


def test_a_purge_takes_what_shows_records(run):
    write_report(run, show_records=True)
    purge(run)
    assert not (run / "report-records").exists() and (run / "report.html").exists() is False
    write_report(run)
    assert "Words of record" not in (run / "report.html").read_text()


def test_the_statement_is_one_of_in_toto(run):
    """Parsed and validated by its own package: no field is unknown to it."""
    write_report(run)
    found = json.loads((run / "report.json").read_text())
    assert found == statement(run)
    parsed = json_format.ParseDict(found, Parsed())
    Statement.copy_from_pb(parsed).validate()
    predicate = json_format.ParseDict(found["predicate"], Predicate())
    assert predicate.result == "FAILED" and list(predicate.failed_tests) == ["facts_said max 0.25"]
    assert list(predicate.warned_tests) == ["loss_auc_distance max 0.25"]  # not measured is not passed
    names = {subject["name"]: subject["digest"]["sha256"] for subject in found["subject"]}
    assert names.keys() == {"model/config.json", "model/model.safetensors", "report.html"}
    assert names["model/model.safetensors"] == sha256(run / "model" / "model.safetensors")


def test_of_a_run_without_an_audit_it_is_stated_that_there_is_none(tmp_path):
    folder = write_run(tmp_path / "run", audit=False)
    write_report(folder)
    found = json.loads((folder / "report.json").read_text())
    assert found == statement(folder)
    predicate = json_format.ParseDict(found["predicate"], Predicate())
    assert predicate.result == "WARNED" and list(predicate.warned_tests) == ["not audited"]
    assert not predicate.passed_tests and not predicate.failed_tests
    (evidence,) = found["predicate"]["configuration"]
    assert evidence["name"] == "manifest.json" and evidence["annotations"] == {"verdict": "not audited"}


def taken_out(run: Path) -> None:
    """As --redact leaves an audit, and a purge one without a run."""
    document = json.loads((run / "audit.json").read_text())
    document.pop("texts")
    write_json(run / "audit.json", sealed(document))


WITHOUT_TEXTS = {
    "it was purged, so no text of a record is left": purge,
    "its audit holds no texts: it was redacted or purged": taken_out,
    "it was not audited": lambda run: (run / "audit.json").unlink(),
}


@pytest.mark.parametrize("reason", WITHOUT_TEXTS)
def test_records_that_are_not_there_are_not_said_to_be_shown(run, reason):
    WITHOUT_TEXTS[reason](run)
    done = CliRunner().invoke(main, ["report", str(run), "--show-records"])
    assert done.exit_code == 2 and f"--show-records has nothing to show: {reason}." in done.stderr
    assert "personal data" not in done.output and not (run / "report-records").exists()
    assert CliRunner().invoke(main, ["report", str(run)]).exit_code == 0


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_name_is_nobodys(tmp_path, blank):
    """Would break if a variable of the shell that is not set made one person's page everybody's."""
    run = write_run(tmp_path / "run", people=["Ada Quill", "Ben Ochre"], n=40)
    done = CliRunner().invoke(main, ["report", str(run), "--subject", blank, "--show-records"])
    assert done.exit_code == 2 and "--subject is blank" in done.stderr and not (run / "report-records").exists()


BLANK = {
    "report RUN --sign": "--sign",
    "ledger list LEDGER --ledger-key": "--ledger-key",
    "ledger verify LEDGER --ledger-key": "--ledger-key",
    "ledger verify LEDGER --head": "--head",
    "ledger recheck MODEL --ledger LEDGER --unseal": "--unseal",
    "ledger recheck MODEL --ledger LEDGER --ledger-key": "--ledger-key",
    "ledger list LEDGER --ledger-key KEY --subject": "--subject",
    "discover MODEL --subject": "--subject",
    "discover MODEL --subject Ada --alias": "--alias",
    "unlearn MODEL --forget FORGET --subject": "subject 1 of 1",
    "check MODEL --forget FORGET --subject": "subject 1 of 1",
    "audit MODEL --forget FORGET --subject": "subject 1 of 1",
    "compare MODEL MODEL --forget FORGET --subject": "subject 1 of 1",
    "reword FORGET --out OUT --subject": "subject 1 of 1",
    "probes --forget FORGET --out OUT --subject": "subject 1 of 1",
}


@pytest.mark.parametrize("command", BLANK)
def test_an_option_that_is_given_with_nothing_is_refused(run, tmp_path, command):
    """None is taken for one that was left out, which would name, compare or sign less."""
    make_key(tmp_path / "key", "ledger")
    (tmp_path / "forget.jsonl").write_text('{"question": "Where does Ada live?", "answer": "In Oslo."}\n')
    (tmp_path / "ledger.jsonl").touch()
    places = {"RUN": run, "MODEL": tmp_path / "model", "LEDGER": tmp_path / "ledger.jsonl", "KEY": tmp_path / "key",
              "FORGET": tmp_path / "forget.jsonl", "OUT": tmp_path / "out.jsonl"}  # fmt: skip
    done = CliRunner().invoke(main, [*(str(places.get(word, word)) for word in command.split()), ""])
    assert done.exit_code == 2 and f"{BLANK[command]} is blank" in done.stderr, done.output
    assert not (run / "report.html").exists()


def test_of_a_model_elsewhere_the_fingerprint_is_stated(tmp_path):
    folder = write_audit(tmp_path / "audit")
    (subject,) = statement(folder)["subject"]
    assert subject["digest"]["rkld-weights"] == "1" * 32


@pytest.mark.parametrize(("weights", "said"), [("0" * 32, "is of another model than"), (None, "is unknown")])
def test_an_audit_of_another_model_is_no_verdict_on_the_one_that_lies_there(run, weights, said):
    """Of a retrained model, written into a run's folder, the verdict was stated of the files of the run's model."""
    document = json.loads((run / "audit.json").read_text())
    document["models"]["audited"]["weights"] = weights
    if weights is None:  # as of a model that is served
        del document["models"]["audited"]["weights"]
    write_json(run / "audit.json", sealed(document))
    write_report(run)
    assert said in (run / "report.html").read_text()
    names = [subject["name"] for subject in json.loads((run / "report.json").read_text())["subject"]]
    assert names == ["weights", "report.html"]
    card = json.loads((run / "model.cdx.json").read_text())["metadata"]["component"]["modelCard"]
    assert card["properties"][-1] == {"name": "rkld:verdict", "value": "not audited"}
    assert "quantitativeAnalysis" not in card


def test_what_fails_for_one_person_is_among_the_failed_tests(tmp_path):
    """All records together keep to a limit that one person's do not."""
    run = write_run(tmp_path / "run", people=["Ada Quill", "Ben Ochre"])
    predicate = statement(run)["predicate"]
    assert predicate["failedTests"] == ["person 1: facts_said max 0.25"]


def test_the_bill_of_materials_keeps_to_the_schema(run, tmp_path):
    for folder in (run, write_run(tmp_path / "bare", audit=False)):
        found = bill_of_materials(folder)
        error = JsonStrictValidator(cyclonedx.schema.SchemaVersion.V1_6).validate_str(json.dumps(found))
        assert error is None, error
        assert found["metadata"]["component"]["type"] == "machine-learning-model"


def test_a_bill_of_values_of_another_kind_is_refused(run):
    document = json.loads((run / "manifest.json").read_text())
    write_json(run / "manifest.json", sealed(document | {"versions": "text"}))
    with pytest.raises(UserError, match="not as rkld writes it"):
        bill_of_materials(run)


def test_a_page_that_cannot_be_written_loses_nothing(run, monkeypatch):
    from rkld.cli import _report_after

    monkeypatch.setattr("rkld.reporting.writing.page", lambda *_, **__: 1 / 0)
    _report_after(run)
    assert (run / "audit.json").is_file() and not (run / "report.html").exists()


def test_a_pdf_without_a_browser_is_refused_before_anything_is_written(run, monkeypatch):
    monkeypatch.setitem(os.environ, "PATH", "")
    with pytest.raises(UserError, match="needs a Chromium"):
        write_report(run, pdf=True)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["../../victim", "/tmp/victim", "\x1b]0;x\x07", "person 1/../../x", 5])
def test_no_file_is_named_by_an_audit(tmp_path, name):
    """Would break if a folder of somebody else's said where a page is written to."""
    folder = write_audit(tmp_path / "audit", people=["Ada Quill", "Ben Ochre"], n=40)
    audit = json.loads((folder / "audit.json").read_text())
    audit["people"][0]["name"] = name
    audit.pop("checksum", None)
    (folder / "audit.json").write_text(json.dumps(audit))
    with pytest.raises(UserError, match="names people otherwise"):
        write_report(folder, subject="Ben Ochre")


def test_pages_are_not_written_through_a_link(run, tmp_path):
    (tmp_path / "outside").mkdir()
    (run / "report-records").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link"):
        write_report(run, show_records=True)
    assert not list((tmp_path / "outside").iterdir())


def places(value: object, at: tuple = ()):
    """The path of every value within a document, itself excepted."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield (*at, name)
        yield from places(item, (*at, name))


@pytest.mark.parametrize("file", ["audit.json", "manifest.json"])
def test_values_of_another_kind_are_said_to_be_so(run, file):
    """Whoever changes a document can write its checksum, too: each value in turn is of another kind."""
    document = json.loads((run / file).read_text())
    draw, seen = random.Random(0), {"written": 0, "refused": 0}
    for at in draw.choices(list(places(document)), k=150):
        changed = json.loads(json.dumps(document))
        holder = changed
        for name in at[:-1]:
            holder = holder[name]
        holder[at[-1]] = draw.choice([None, "text", -1e400, [], {}, [[]], {"a": "b"}, True])
        write_json(run / file, sealed(changed))
        try:
            write_report(run)
            seen["written"] += 1
        except UserError:
            seen["refused"] += 1
    assert min(seen.values()) > 2, seen
