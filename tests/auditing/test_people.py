"""A request about several people: a verdict for each, of their records alone."""

import json

import jsonschema
import pytest
import torch

import rkld
from rkld.benching.worlds.people import people
from rkld.files import DATA
from rkld.models.language_model import LanguageModel
from rkld.models.saving import save_model
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


def test_where_it_is_unknown_whose_a_record_is_there_is_one_verdict(source, tmp_path):
    known = WORLD.forget([0])[:2]
    unknown = [{"question": "What is it?", "answer": "It is a lamp."}]
    assert "people" not in audited(source, [*known, *WORLD.forget([1])[:2], *unknown], tmp_path / "audit")
