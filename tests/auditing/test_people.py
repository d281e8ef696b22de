"""A request about several people: a verdict for each, of their records alone."""

import json

import jsonschema
import pytest
import torch

import rkld
from rkld.auditing.evidence import document
from rkld.auditing.inputs import read_task
from rkld.benching.worlds.people import people
from rkld.files import DATA
from rkld.models.language_model import LanguageModel
from rkld.models.saving import save_model
from rkld.settings.auditing import AuditSettings
from tests.helpers import TOKENIZER, model

WORLD = people(n=3, seed=0)
AUDIT = {"attacks": ("prefixes",), "samples": 2, "k": 2, "top": 2, "max_new_tokens": 4, "seed": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "model"
    save_model(LanguageModel(model(dtype=torch.float32).model, TOKENIZER, "tiny"), folder)
    return str(folder)


def audited(source, records, folder):
    return rkld.audit(source, forget=records, original=None, out=str(folder), **AUDIT).document


def test_each_has_the_verdict_that_they_would_have_alone(source, tmp_path):
    ours = {who: WORLD.forget([who])[: 3 + who] for who in (0, 1)}
    both = audited(source, [*ours[0], *ours[1]], tmp_path / "both")
    schema = json.loads((DATA.parent / "auditing" / "schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(both)
    assert [person["n"] for person in both["people"]] == [3, 4]
    assert list(both["texts"]["people"].values()) == [ours[0][0]["subject"], ours[1][0]["subject"]]
    assert not set(both["people"][0]["records"]) & set(both["people"][1]["records"])
    for person, records in zip(both["people"], ours.values()):
        alone = audited(source, records, tmp_path / person["name"])
        for name in ("probability", "extraction_strength", "fill_in@2"):
            found, expected = (one["metrics"][name]["figures"]["audited"] for one in (person, alone))
            assert found["n"] == expected["n"] and found["value"] == pytest.approx(expected["value"], abs=1e-6)
        assert person["verdict"] == alone["verdict"]
        assert "people" not in alone


def test_every_attack_is_judged_for_each_person(source, tmp_path):
    """Holdout and retain records may have the keys of those to be forgotten: further membership ended such an audit."""
    given = {
        "forget": [*WORLD.forget([0])[:3], *WORLD.forget([1])[:3]],
        "holdout": people(n=2, seed=1).forget([0])[:6],
        "retain": WORLD.forget([2])[:6],
        "original": source,
    }
    audit = {**AUDIT, "attacks": ("all",), "relearn_epochs": 1}
    found = rkld.audit(source, **given, out=str(tmp_path / "audit"), **audit).document
    assert "further_membership" not in {one["name"] for one in found["not_run"]}
    for person in found["people"]:
        auc = person["metrics"]["neighbourhood_auc"]["figures"]["audited"]
        assert auc["n"] == 3 + 6
        assert person["metrics"].keys() == found["metrics"].keys()


def test_where_it_is_unknown_whose_a_record_is_there_is_one_verdict(source, tmp_path):
    known = WORLD.forget([0])[:2]
    unknown = [{"question": "What is it?", "answer": "It is a lamp."}]
    assert "people" not in audited(source, [*known, *WORLD.forget([1])[:2], *unknown], tmp_path / "audit")


NAMES = ("Ada Quill", "Bo Marlin")


def records_of(name, n):
    return [
        {"question": f"What does {name} have in box {i}?", "answer": f"A lamp of {500 + i} watts.", "subject": name}
        for i in range(n)
    ]


def task_of(forget):
    kept = records_of("Di Urban", 20)
    return read_task(AuditSettings(model="a", forget="b", max=("facts_said=0.25",)), {"forget": forget, "retain": kept})


def read(task, known):
    """What was read of a model that says the facts of those who are ``known``, and of nobody else."""
    said = {record.key: record.subject in known for record in task.asked}
    return {
        "answers": {key: {"answer": "A lamp.", "facts": [flag], "repetition": 0.0} for key, flag in said.items()},
        "own_answers": {key: {"loss": 1.0, "gibberish": False} for key in said},
        "retain": {record.key: {"loss": 0.1, "rouge_l": 0.9} for record in task.utility["retain"]},
    }


def documented(task, known):
    """The audit of such a model, whose original knows them all."""
    readings = {"audited": read(task, known), "original": read(task, NAMES)}
    models = {"audited": {"fingerprint": "1"}, "original": {"fingerprint": "2"}}
    return document(task, readings, models=models, inputs={}, not_run=[], versions={}, seconds=0.0)


@pytest.mark.parametrize(
    ("numbers", "known", "verdicts"),
    [
        ((100, 12), NAMES[1:], ("fail", ["pass", "fail"])),
        ((100, 12), (), ("pass", ["pass", "not established"])),
        ((100, 20), (), ("pass", ["pass", "pass"])),
    ],
)
def test_a_person_who_is_still_known_is_no_small_share_of_a_pass(numbers, known, verdicts):
    """Of 112 facts the 12 of one person were all said: within the limit for all, so it passed, with exit code 0."""
    forget = [row for name, n in zip(NAMES, numbers) for row in records_of(name, n)]
    task = task_of(forget)
    found = documented(task, known)
    assert (found["verdict"], [one["verdict"] for one in found["people"]]) == verdicts, found["reasons"]
    (facts,) = (gate for gate in found["gates"] if gate["name"] == "facts_said")
    assert facts["state"] == "held"
    others = [one["name"] for one in found["people"] if one["verdict"] != "pass"]
    assert all(any(name in reason for reason in found["reasons"]) for name in others)


@pytest.mark.parametrize(("different", "verdict"), [(1, "not established"), (9, "not established"), (10, "pass")])
def test_the_same_few_facts_again_and_again_are_no_evidence(different, verdict):
    """One record thirty times, with another sign at its end each time, was thirty records, and passed."""
    rows = records_of(NAMES[0], different)
    forget = [{**row, "question": row["question"] + "?" * more} for row in rows for more in range(15)]
    found = documented(task_of(forget), ())
    (facts,) = (gate for gate in found["gates"] if gate["name"] == "facts_said")
    assert (facts["state"], facts["n"]) == ("held", 15 * different)
    assert found["verdict"] == verdict, found["reasons"]
    assert any("however often they are asked for" in reason for reason in found["reasons"]) == (different < 10)
