"""What the evidence says of the request, and whether questions and gates stood fixed before the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import rkld
from rkld.auditing.gates import fingerprint
from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.runfolder.manifest import read_manifest
from rkld.runfolder.purging import purge
from rkld.runfolder.request import request_in

FORGET = [
    {"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo."},
    {"question": "What is the work of Ada Quillon?", "answer": "Ada Quillon is a painter."},
]
QUICK = {"epochs": 1, "strengthen_epochs": 1, "max_new_tokens": 4, "replay": "none", "stop": "last", "reword": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fixed")
    for part in tiny_model():
        part.save_pretrained(folder / "model")
    (folder / "request.yaml").write_text("id: R-1\nasked_by: a lawyer\n")
    made = rkld.unlearn(
        folder / "model", FORGET, out=folder / "run", request=folder / "request.yaml", note="first", **QUICK
    )
    return made.run


def audit(run: Path, forget=FORGET, **given):
    return rkld.audit(run, forget, attacks="none", max_new_tokens=4, **given).document


def test_the_run_keeps_the_request_and_the_audit_takes_it_from_there(run):
    assert request_in(read_manifest(run)).note == "first"
    assert request_in(audit(run)).id == "R-1"
    (run / "again.yaml").write_text("id: R-2\n")
    found = request_in(audit(run, request=str(run / "again.yaml"), note="second"))
    assert (found.id, found.asked_by, found.note) == ("R-2", "", "second")
    with pytest.raises(UserError, match="names the person in 'id'"):
        (run / "again.yaml").write_text("id: Quillon\n")
        audit(run, request=str(run / "again.yaml"), subject="Quillon")


def test_questions_and_gates_are_known_to_be_those_from_before_the_run(run):
    assert read_manifest(run)["fixed"]["gates"] == fingerprint() != fingerprint([("max", "facts_said", 0.9)])
    found = audit(run)["fixed"]
    assert found["at"] and (found["questions"], found["gates"]) == (True, True)
    other = [{**FORGET[0], "question": "Where does she live?"}, FORGET[1]]
    assert audit(run, other, out=run.parent / "others")["fixed"]["questions"] is False
    assert audit(run, max="facts_said=0.9")["fixed"]["gates"] is False
    assert audit(run.parent / "model", out=run.parent / "audit")["fixed"] == {
        "at": None, "questions": None, "gates": None,
    }  # fmt: skip


def test_an_audit_of_other_records_does_not_replace_the_runs(run):
    """The evidence and the report that were handed on would be gone, and nobody would know."""
    audit(run)
    written = (run / "audit.json").read_bytes()
    for others in (FORGET[:1], [{**FORGET[0], "question": "Where does she live?"}, FORGET[1]]):
        with pytest.raises(UserError, match=rf"audit of other records \(2 then, {len(others)} now\).*--out"):
            audit(run, others)
    assert (run / "audit.json").read_bytes() == written
    (run / "audit.salt").unlink()
    with pytest.raises(UserError, match="audit of other records"):
        audit(run, FORGET[:1])


def test_after_a_purge_questions_are_not_known_and_gates_are(run):
    purge(run)
    found = audit(run)
    assert (found["fixed"]["questions"], found["fixed"]["gates"]) == (None, True)
    assert (request_in(found).id, request_in(found).asked_by) == ("R-1", "(purged)")
