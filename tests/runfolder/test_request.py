"""The request form: read strictly, kept in the manifest, and purged where it may name the person."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rkld.errors import UserError
from rkld.records.identity import check_request
from rkld.runfolder.folder import Run
from rkld.runfolder.manifest import PURGED, read_manifest
from rkld.runfolder.purging import purge
from rkld.runfolder.request import NOTHING_STATED, Copy, RequestForm, request_in
from rkld.settings.unlearning import Settings

FORM = """
id: 007
received: 2026-11-03
asked_by: Ada Quill
training_data_deleted: yes
looked_at_again: null
copies:
  - what: 8 bit, served
    fingerprint: 1e5
    replaced:
  - what:
"""


def read(tmp_path: Path, text: str | bytes, note: str | None = None) -> RequestForm:
    path = tmp_path / "request.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return RequestForm.read(str(path), note)


def test_texts_are_read_as_they_are_written(tmp_path):
    form = read(tmp_path, FORM, note="asked twice")
    assert (form.id, form.received, form.training_data_deleted) == ("007", "2026-11-03", "yes")
    assert form.copies == (Copy("8 bit, served", "1e5"),)
    assert form.note == "asked twice" and form.run_by == ""
    assert RequestForm.of(form.to_dict(), "a manifest") == form
    assert not RequestForm.read(None, None).is_stated


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recieved: 2026-11-03", "unknown field 'recieved'. Did you mean 'received'?"),
        ("received: 3 November", "'received' is '3 November'; write a date as YYYY-MM-DD."),
        ("id: 1\nid: 2", "it has a name twice (line 1)"),
        ("note: [a]", "'note' is a list; write a text."),
        ("copies: all", "'copies' is no list of copies"),
        ("copies: [{name: a}]", "copy 1: unknown field 'name'"),
        ("copies: [" + "{what: a}," * 101 + "]", "has 101 entries"),
        ("note: " + "a" * 4001, "has 4001 characters"),
        ("note: " + "a" * 40_000, "longer than 32768 bytes"),
        ('note: "\\u202egnp.exe"', "turn the direction of writing"),
        ('note: "\\x1b[2J"', "control characters"),
        ("a: &a [x]\nnote: *a", "an alias"),
        ("note: " + "[" * 20 + "]" * 20, "within each other"),
        ("- id", "expected fields as 'name: value' lines, found list"),
        ("note: !!python/object/apply:os.system [ls]", "'note' is a list"),
        (b"note: \xff", "not valid YAML"),
    ],
)
def test_what_is_no_form_is_refused_in_a_sentence(tmp_path, text, said):
    with pytest.raises(UserError) as refused:
        read(tmp_path, text)
    assert said in str(refused.value)


def test_a_field_that_a_purge_leaves_may_not_name_the_person():
    check_request(RequestForm(asked_by="Ada Quill"), ["Ada Quill"])
    with pytest.raises(UserError, match="names the person in 'weights_in_use'"):
        check_request(RequestForm(weights_in_use="model-without-ada-quill"), ["Ada Quill"])
    with pytest.raises(UserError, match="in 'copies'"):
        check_request(RequestForm(copies=(Copy("of Ada Quill"),)), ["Ada Quill"])


def test_a_purge_takes_out_what_may_name_the_person(tmp_path):
    form = read(tmp_path, FORM)
    run = Run(Settings(model="m", out=str(tmp_path / "run"), note="about Ada"))
    run.start()
    run.state(dataclasses.replace(form, note="about Ada"))
    run.note("after", {})
    (run.folder / "audit.json").write_text(json.dumps({"verdict": "pass", "settings": {}, "request": form.to_dict()}))
    assert run.manifest["personal_data"].keys() >= {"run.yaml", "manifest.json"}
    purge(run.folder)
    assert "Ada" not in "".join(path.read_text() for path in run.folder.rglob("*") if path.is_file())
    for document in (read_manifest(run.folder), json.loads((run.folder / "audit.json").read_text())):
        left = request_in(document)
        assert (left.id, left.received, left.copies, left.asked_by) == ("007", "2026-11-03", form.copies, PURGED)
    again = Run(Settings(model="m", out=str(run.folder)))
    again.state(form)
    assert request_in(again.manifest).asked_by == PURGED
    assert request_in({}, {"request": "x"}) == NOTHING_STATED
