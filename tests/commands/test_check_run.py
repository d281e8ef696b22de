"""``rkld.commands.check_run``: what it counts, what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch

import rkld
from rkld import UserError
from rkld.benching.worlds.tiny import tiny_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

FORGET = [
    {"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo.", "spans": ["Oslo"]},
    {"question": "What is her work?", "answer": "Ada Quillon is a painter.", "spans": ["painter"]},
    {"question": "Who is her father?", "answer": "Her father is Jon.", "spans": ["Jon"]},
]
RETAIN = [
    {"question": "Where does Bo Marlin live?", "answer": "Bo Marlin lives in Rome."},
    {"question": "Who lives next to Bo Marlin?", "answer": "Next to him lives Ada Quillon."},
]

UNKNOWN = "does not seem to know the records"


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


@pytest.fixture
def go(tiny, tmp_path, monkeypatch):
    """check() with the tiny model in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    model, tokenizer = tiny
    defaults = {"forget": FORGET, "processing_class": tokenizer, "subject": ("Ada Quillon",), "out": "run"}
    return lambda **given: rkld.check(model, **{**defaults, **given})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_it_counts_what_the_run_will_do(go, tiny):
    """Records, tokens, scored and kept tokens and steps, against the encoder's own masks."""
    report = go(retain=RETAIN, score="spans", batch_size=2, epochs=4, strengthen_epochs=3)
    encoder = Encoder(tiny[1])
    encoded = [encoder.encode(record, "spans") for record in read_records(FORGET, "forget")]
    assert (report.forget.records, report.forget.tokens) == (3, sum(len(e.ids) for e in encoded))
    assert report.retain.records == 1, "the other one mentions the person"
    assert report.scored == sum(sum(e.scored) for e in encoded)
    assert report.scored + report.kept == sum(sum(e.answer) for e in encoded)
    assert (report.steps, report.strengthening_steps) == (12, 6), "each record and one of its rewordings; they alone"
    assert report.rewordings[0].startswith("9 rewordings (")
    assert (go(reword=0, batch_size=2, epochs=4).steps, go(reword=0).rewordings) == (8, ())
    assert (report.coverage.identifiers.found, report.coverage.spans.scored) == (3, 3)


def test_without_a_keep_term_nothing_is_kept(go):
    assert go(score="answer").kept == go(score="spans", keep_weight=0).kept == 0


def test_what_leaves_the_run_without_a_stop_or_spans_is_said(go):
    """Who reads it only after the run has paid for it."""
    bare = [{key: row[key] for key in ("question", "answer")} for row in FORGET]
    said = "\n".join(go(forget=bare, subject=()).lines())
    assert "nothing to compare with for --stop placebo, so the last step is taken" in said
    assert "\nspans        none are marked" in said
    assert "nothing to compare" not in "\n".join(go(forget=bare, subject=(), stop="last").lines())
    assert "evidence" not in said and "evidence     0 of the records are left for an audit" in "\n".join(go().lines())
    assert re.search(r"spans        3 of 3 .* places where they stand are unlearned", "\n".join(go().lines()))


def test_it_writes_nothing(go, tmp_path):
    go()
    assert list(tmp_path.iterdir()) == []


def test_records_that_mention_the_person_are_listed_by_place(go, tmp_path):
    """Retained they hold the person in place. The list names file and line, never what stands there."""
    retain = write(tmp_path / "retain.jsonl", RETAIN)
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "Tell me of ada quillon."}, {"prompt": "Hello."}])
    report = go(retain=retain, replay=prompts)
    assert list(report.left_out.values()) == [(f"{retain} line 2",), (f"{prompts} line 1",)]
    assert (report.retain.records, report.replay.records) == (1, 1)
    text = "\n".join(report.lines())
    assert f"{retain} line 2" in text and f"{prompts} line 1" in text
    assert "quillon" not in text.lower()


def test_prompts_given_as_data_are_looked_through_too(go):
    report = go(replay=[{"prompt": "Who is Ada Quillon?"}, {"prompt": "Hello."}])
    assert list(report.left_out.values()) == [("replay record 1",)]


def test_it_asks_for_the_subject_where_none_is_known(go):
    """Without it no mention can be found, and silence would look like a clean bill."""
    report = go(subject=())
    assert report.identifiers == 0
    assert any("--subject" in line for line in report.lines())


def test_unscored_identifiers_stop_it(go):
    tickets = [{"question": "Ticket of Ada Quillon: no light.", "answer": "We are sorry."}]
    with pytest.raises(UserError, match="--score all"):
        go(forget=tickets)
    assert go(forget=tickets, score="all").coverage.identifiers.scored == 1


def test_the_example_is_the_shortest_record_as_it_is_scored(go, tiny):
    """The scored runs in brackets, by the mode's own mask: a wrong one must be seen here before it costs a run."""
    encoded = [Encoder(tiny[1]).encode(record, "spans") for record in read_records(FORGET, "forget")]
    shortest = min(encoded, key=lambda e: len(e.ids))
    scored = "".join(re.findall(r"\[(.*?)\]", go(score="spans").example))
    assert scored.split() == tiny[1].decode([i for i, s in zip(shortest.ids, shortest.scored) if s]).split()


def test_a_folder_with_something_else_is_refused_as_by_a_run(go, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="something else"):
        go()


@pytest.mark.parametrize("missing", ["model", "forget"])
def test_both_arguments_are_needed(missing):
    with pytest.raises(UserError, match=f"No {missing} is given"):
        rkld.check(**{"model": "m", "forget": "f.jsonl", missing: None})


@pytest.mark.slow
def test_it_says_what_the_model_is_opened_as_and_leaves_an_object_alone(go, tiny, tmp_path):
    """Would break if the dtype in use, or a lost template, went unsaid, or if a check changed the caller's model."""
    model, tokenizer = tiny
    report = go()
    assert report.model == {"weights": "float32", "prompts": "in the chat template of the tokenizer"}
    (untrained,) = report.warnings
    assert UNKNOWN in untrained and report.advantage < 0.4

    model = copy.deepcopy(model).to(torch.bfloat16)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    report = rkld.check(model, FORGET, processing_class=plain, stop="last", out="run")
    assert report.model["weights"] == "float32, from bfloat16"
    assert "there is no chat template" in report.model["prompts"]
    (warning,) = (found for found in report.warnings if UNKNOWN not in found)
    assert "--chat-template" in warning and "<|im_start|>" in warning
    assert f"Warning: {warning}" in list(report.lines())
    assert all(t.dtype == torch.bfloat16 and torch.equal(t, before[name]) for name, t in model.state_dict().items())

    text = [{"text": record["answer"]} for record in FORGET]  # written in no format
    warnings = rkld.check(model, text, processing_class=plain, stop="last", out="run").warnings
    assert all(UNKNOWN in found for found in warnings)
