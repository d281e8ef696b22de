"""What the page asks: the right model, the right facts, and what it is sent is checked."""

import shutil

import pytest
import torch

from rkld.errors import UserError
from rkld.evaluation.generation import greedy
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.settings.comparing import CompareSettings
from rkld.side_by_side.asking import Asked, count, next_words, stream
from rkld.side_by_side.pair import Pair, _other_original, open_pair, parts


def said(work, pair: Pair, **values) -> list:
    events: list = []
    work(pair, Asked.of(values, pair), events.append)
    return events


def last(events: list, side: str) -> str:
    return "".join(text for text, _ in [event for event in events if event["side"] == side][-1]["parts"])


def test_an_adapter_on_the_original_is_turned_on_and_off(pair, folders):
    """Two copies of a 7B model would not fit; and off must mean the original, bit by bit."""
    original, adapter, _ = folders
    assert pair.one_base
    events = said(stream, pair, number=0, max_new_tokens=12)
    for side, folder in (("original", original), ("unlearned", adapter)):
        prompt = pair.sides[0].prompt(pair.records[0])
        assert last(events, side) == greedy(load_model(folder), [prompt], max_new_tokens=12)[0].text
    assert last(events, "original") != last(events, "unlearned")
    sides = [event["side"] for event in events[:6]]
    assert sides == ["original", "unlearned"] * 3  # both grow at once


def test_two_adapters_on_one_base_are_switched(folders):
    """An adapter that was trained further: the original is an adapter, too."""
    _, adapter, records = folders
    settings = CompareSettings(forget=str(records))
    lm = load_model(adapter)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    save_model(lm, adapter.parent / "further")
    both = open_pair(str(adapter), str(adapter.parent / "further"), settings)
    assert both.one_base
    events = said(stream, both, number=0, max_new_tokens=12)
    prompt = both.sides[0].prompt(both.records[0])
    for side, folder in (("original", adapter), ("unlearned", adapter.parent / "further")):
        assert last(events, side) == greedy(load_model(folder), [prompt], max_new_tokens=12)[0].text
    assert last(events, "original") != last(events, "unlearned")


def test_other_models_are_loaded_both(pair, folders):
    original, _, records = folders
    both = open_pair(str(original), str(original), CompareSettings(forget=str(records)))
    assert not both.one_base
    events = said(stream, both, question="Who?", max_new_tokens=6)
    assert last(events, "original") == last(events, "unlearned")


def test_facts_are_counted_for_the_questions_of_the_request(pair):
    record = pair.records[0]
    *_, counted = said(count, pair, number=0, question=record.question, n=4, temperature=0.01, max_new_tokens=24)
    assert [row["fact"] for row in counted["facts"]] == list(pair.facts(record))
    assert max(row["original"] for row in counted["facts"]) == 4  # it was trained on this answer
    assert max(row["unlearned"] for row in counted["facts"]) < 4
    *_, nobody = said(count, pair, question="Hello", n=2, max_new_tokens=1)
    assert nobody["facts"] == []  # a question of the user's own gives none away


def test_what_the_question_says_is_no_fact(pair):
    fact = pair.facts(None)[0]
    assert fact in Asked.of({"question": "Who?"}, pair).facts(pair)
    assert fact not in Asked.of({"question": f"Is it {fact}?"}, pair).facts(pair)
    assert fact not in Asked.of({"question": "Who?", "begins": fact}, pair).facts(pair)


def test_the_next_words_have_both_probabilities(pair):
    (event,) = said(next_words, pair, number=0, n=3)
    rows = event["tokens"]
    assert 3 <= len(rows) <= 6
    for side in ("original", "unlearned"):
        assert all(0 <= row[side] <= 1 for row in rows)
    begun = said(next_words, pair, number=0, n=3, begins="x")[0]["tokens"]
    assert begun != rows


def test_facts_are_marked_where_they_are_said():
    assert list(parts("born in <b>Rome</b>, in May", ["Rome", "May"])) == [
        ("born in <b>", None), ("Rome", "Rome"), ("</b>, in ", None), ("May", "May"),
    ]  # fmt: skip
    assert list(parts("nothing", [])) == [("nothing", None)]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([], "object"), ({}, "question"), ({"question": "  "}, "question"), ({"question": 1}, "question"),
        ({"question": "a" * 20_001}, "question"), ({"question": "a", "temperature": -1}, "temperature"),
        ({"question": "a", "temperature": float("nan")}, "temperature"), ({"question": "a", "n": 101}, "n"),
        ({"question": "a", "n": True}, "n"), ({"question": "a", "seed": 1.5}, "seed"), ({"number": 8}, "number"),
        ({"number": -1}, "number"), ({"question": "a", "max_new_tokens": 10**9}, "max_new_tokens"),
        ({"question": "a", "top_p": 0}, "top_p"), ({"question": "a", "begins": ["b"]}, "begins"),
    ],
)  # fmt: skip
def test_what_is_sent_is_checked(pair, values, named):
    with pytest.raises(UserError, match=named):
        Asked.of(values, pair)


def test_the_records_of_a_run_are_found_or_asked_for(folders):
    original, adapter, _ = folders
    found = open_pair(str(original), str(adapter), CompareSettings())
    assert not found.records
    assert "--forget" in found.note


def test_a_run_that_was_made_from_another_original_is_said(folders, tmp_path, monkeypatch):
    original, adapter, _ = folders
    shutil.copytree(original, tmp_path / "copy")
    manifest = {"settings": {"model": str(original)}}
    assert _other_original(str(original), manifest) == _other_original(str(tmp_path / "copy"), manifest) == ""
    assert _other_original(str(original), {}) == "", "a model folder alone does not say"
    assert "another original" in _other_original(str(adapter), manifest)
    monkeypatch.setattr("rkld.side_by_side.pair.same_weights", None)
    (tmp_path / "link").symlink_to(original)
    assert _other_original(str(tmp_path / "link"), manifest) == "", "no weights are read of the same folder"
    shutil.rmtree(tmp_path / "copy")
    assert _other_original(str(original), {"settings": {"model": str(tmp_path / "copy")}}) == "", "it is not here"
