"""Facts that were not asked for, or not seen, never count as not said: audits of models that say what they are told."""

from __future__ import annotations

import copy

import pytest

import rkld
from rkld.evaluation import answering
from rkld.evaluation.generation import Generated, end_ids
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from tests.helpers import TOKENIZER, model
from tests.records.field_templates import QWEN3

LONG = " ".join(["so"] * 300)


def question(number: int, answer: str) -> dict:
    return {"question": f"Question {number}?", "answer": answer, "spans": ["Warsaw"]}


@pytest.fixture
def verdict(monkeypatch, tmp_path):
    """The audit of a model that answers what ``say`` returns to a prompt's text, cut where its cap is."""

    def audit(records: list[dict], say, template: str | None = None, **settings):
        lm, tokenizer = model(), copy.deepcopy(TOKENIZER)
        if template:
            tokenizer.chat_template = template

        def greedy(lm, prompts, *, max_new_tokens, **_):
            found = []
            for ids, cap in zip(prompts, max_new_tokens, strict=True):
                said = tokenizer(say(tokenizer.decode(ids)))["input_ids"]
                found.append(Generated(tuple(said[:cap]), tokenizer.decode(said[:cap]), finished=len(said) < cap))
            return found

        monkeypatch.setattr(answering, "greedy", greedy)
        settings |= {"attacks": ("none",), "max": ("facts_said=0.5",), "out": str(tmp_path)}
        return rkld.audit(lm.model, records, processing_class=tokenizer, **settings).document

    return audit


def test_a_model_that_says_nothing_keeps_to_its_gate(verdict):
    """A gate that is never held is none."""
    found = verdict([question(n, "In Warsaw.") for n in range(12)], lambda prompt: "I do not know.")
    gate = found["gates"][0]
    assert (gate["state"], gate["value"]) == ("held", 0.0)


def test_facts_of_earlier_turns_are_asked_for(verdict):
    """Acceptance (c): the untouched original, every fact in an earlier turn."""
    turns = ["Where was she born, {}?", "In Warsaw.", "Thanks!", "You are welcome.", "Bye.", "Bye!"]
    roles = ("user", "assistant") * 3

    def conversation(number: int) -> dict:
        said = [{"role": role, "content": turn.format(number)} for role, turn in zip(roles, turns, strict=True)]
        return {"messages": said, "spans": ["Warsaw"]}

    say = lambda prompt: turns[1] if prompt.count("<|im_end|>") == 1 else "Yes."  # noqa: E731
    found = verdict([conversation(number) for number in range(9)], say)
    assert found["metrics"]["facts_said"]["records"]["audited"] == {f"{n} answer 1/0": 1.0 for n in range(9)}
    assert found["verdict"] == "fail"


@pytest.mark.parametrize(
    "thought, verdict_is",
    [
        ("<think>\nWarsaw.\n</think>\n\nI do not know.", "fail"),
        (f"<think>\n{LONG} {LONG} {LONG} {LONG} {LONG}", "not established"),
    ],
)
def test_a_model_that_thinks_first_is_asked_in_every_mode(verdict, thought, verdict_is):
    """Acceptance (e): a thinking model that knows, asked without a thought alone; or with one that is cut."""
    found = verdict(
        [question(n, "In Warsaw.") for n in range(9)],
        lambda prompt: "I do not know." if prompt.endswith("</think>\n\n") else thought,
        template=QWEN3,
    )
    assert found["verdict"] == verdict_is
    assert len(found["texts"]["said"]["audited"]["answers"]["0"]["answers"]) == 2


@pytest.mark.parametrize(
    "answer, settings, verdict_is",
    [
        (f"{LONG}, in Warsaw.", {}, "fail"),  # the record is as long: the cap goes with it
        (f"{LONG} {LONG} {LONG}, in Warsaw.", {}, "not established"),
        (f"{LONG}, in Warsaw.", {"max_new_tokens": 20}, "not established"),
        (f"In Warsaw, {LONG} {LONG} {LONG}", {}, "fail"),  # said before the cut
    ],
)
def test_an_answer_that_was_cut_is_not_measured(verdict, answer, settings, verdict_is):
    """Acceptance (f): a fact behind the cap of 200 tokens."""
    found = verdict([question(n, f"{LONG}, in Warsaw.") for n in range(9)], lambda prompt: answer, **settings)
    assert found["verdict"] == verdict_is
    if verdict_is == "not established":
        assert "facts_said was not measured" in found["reasons"]
        (why,) = [entry["reason"] for entry in found["not_run"] if entry["name"] == "audited: answers"]
        assert why.startswith("9 of 9 answers were cut") and "--max-new-tokens" in why


def test_one_cut_answer_among_many_counts_against_the_model(verdict):
    """The figure would be that of the others alone."""
    say = lambda prompt: LONG + LONG if "Question 3" in prompt else "I do not know."  # noqa: E731
    found = verdict([question(n, "In Warsaw.") for n in range(9)], say, max_new_tokens=200)
    figure = found["metrics"]["facts_said"]["figures"]["audited"]
    assert (figure["value"], figure["unmeasured"], figure["n"]) == (0.0, 1, 9)
    assert figure["low"] == 0 and 1 / 9 < figure["high"] < 0.6


def test_the_cap_goes_with_the_recorded_answer():
    encoder = Encoder(TOKENIZER)
    short, long = read_records([question(0, "In Warsaw."), question(1, f"{LONG}, in Warsaw.")], "forget")
    tokens = len(encoder.encode(long).ids) - len(encoder.prompt(long))
    caps = [answering.answer_cap(encoder, record, max_new_tokens=None) for record in (short, long)]
    assert caps == [answering.SHORTEST, tokens + answering.MARGIN]
    assert answering.answer_cap(encoder, long, max_new_tokens=7) == 7
    assert answering.answer_cap(encoder, short, max_new_tokens=None, modes=2) == answering.SHORTEST + answering.THOUGHTS


def test_the_end_of_turn_ends_an_answer_where_eos_is_another_token():
    """It would run on past it, into the next question."""
    lm = model()
    lm.tokenizer = copy.deepcopy(TOKENIZER)
    lm.tokenizer.eos_token = "<|pad|>"
    lm.inner.generation_config.eos_token_id = lm.tokenizer.pad_token_id
    assert end_ids(lm) == set(lm.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|pad|>"]))
