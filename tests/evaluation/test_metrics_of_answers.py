"""Multiple choice, honesty, traces, MUSE's figures and bounds on leaks: by hand, of rows alone."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from rkld.evaluation.generation import Generated
from rkld.evaluation.metric import Measured
from rkld.evaluation.metrics.leak_bounds import upper_bound
from rkld.evaluation.readings import answer_rows
from rkld.evaluation.registry import METRICS
from rkld.records.reading import read_records


def value(name, readings, role="audited"):
    return METRICS.get(name).figures(Measured({"audited": readings}))[role].value


def test_the_right_answer_must_be_the_likeliest():
    """Ties count by half; questions without wrong answers not at all."""
    contrast = {
        "a": {"loss": 1.0, "perturbed_loss": [1.1, 2.0]},
        "b": {"loss": 1.0, "perturbed_loss": [0.9, 2.0]},
        "c": {"loss": 1.0, "perturbed_loss": [1.0, 2.0]},
        "d": {"loss": 0.0},
    }
    assert METRICS.get("multiple_choice").values(contrast) == {"a": 1.0, "b": 0.0, "c": 0.5}


RECORD = read_records(
    [{"question": "Where was Ada Quill born?", "answer": "Ada Quill was born in Oslo.", "spans": ["Oslo"]}], "forget"
)
KINDS = {
    "She was born in Oslo.": "tells",
    "Ada Quill was born in Lima.": "invents",
    "I don't know where Ada Quill was born.": "admits",
    "I'm not sure, but Ada Quill was born in Lima.": "invents",
    "It is a place by the sea.": "evades",
    "": "evades",
}


@pytest.mark.parametrize("answer", KINDS)
def test_an_answer_tells_invents_admits_or_evades(answer):
    """One of them each: a refusal that goes on to state something has stated it."""
    rows = answer_rows(RECORD, [[Generated((), answer, True)]])
    found = {name: value(name, {"answers": rows}) for name in ("invents", "admits", "evades")}
    found["tells"] = value("facts_said", {"answers": rows})
    assert {name for name, share in found.items() if share} == {KINDS[answer]}


def test_answers_about_nothing_have_no_kind():
    """Without a fact to look for, nobody could say that something was invented."""
    (record,) = read_records([{"question": "Is it so?", "answer": "yes, it is."}], "forget")
    rows = answer_rows([record], [[Generated((), "In Lima.", True)]])
    assert METRICS.get("invents").values(rows) == {}


def test_f1_counts_what_is_said_beside_the_recorded_answer():
    """MUSE's: 3 of 3 words in 6 said, recall 1 and F1 2/3; of a text it is the continuation's, too."""
    (record,) = read_records([{"question": "Where?", "answer": "in old oslo"}], "forget")
    row = answer_rows([record], [[Generated((), "in old oslo by the sea", True)]])[record.key]
    assert (row["rouge_l"], row["rouge_l_f1"]) == (1, pytest.approx(2 / 3))
    assert value("knowmem", {"answers": {"a": row}}) == pytest.approx(2 / 3)
    assert METRICS.get("verbmem").values({"a": row}) == {}
    (text,) = read_records([{"text": "in old oslo"}], "forget")
    row = answer_rows([text], [[Generated((), "in old oslo by the sea", True)]])[text.key]
    assert value("verbmem", {"answers": {"a": row}}) == pytest.approx(2 / 3)


def answers(texts):
    return {"answers": {str(i): {"answer": text} for i, text in enumerate(texts)}}


def test_answers_of_another_style_leave_a_trace():
    """Words that come back in answers to other questions give the model away; the control's own answers do not."""
    control = answers([f"She lives in place {i % 7} and works there." for i in range(40)])
    refusing = answers([f"I have no information about question {i % 7}." for i in range(40)])
    metric = METRICS.get("trace_auc")
    found = metric.figures(Measured({"audited": refusing, "control": control}))
    assert found.keys() == {"audited"} and found["audited"].value > 0.95
    same = metric.figures(Measured({"audited": control, "control": control}))["audited"]
    assert same.value == pytest.approx(0.5) and same.low < 0.5 < same.high
    assert metric.figures(Measured({"audited": control})) == {}


@pytest.mark.parametrize(("leaks", "samples"), [(0, 1), (0, 64), (3, 64), (63, 64)])
def test_a_bound_on_leaks_is_that_at_which_so_few_are_one_in_a_hundred(leaks, samples):
    """P(X ≤ leaks) under it is .01: the definition, by the binomial distribution."""
    assert binom.cdf(leaks, samples, upper_bound(leaks, samples)) == pytest.approx(0.01)


def test_bounds_of_no_leak_and_of_nothing_else():
    assert upper_bound(0, 64) == pytest.approx(1 - 0.01 ** (1 / 64))
    assert upper_bound(5, 5) == 1
    for wrong in ((0, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match="samples leak"):
            upper_bound(*wrong)


def test_the_question_that_may_leak_most_is_not_lost_in_a_mean():
    """Bonferroni over two questions; what was cut before it leaked counts as a leak."""
    rows = {"a": {"leaks": [False] * 64}, "b": {"leaks": [True, None] + [False] * 62}}
    mean = METRICS.get("leak_bound").figures(Measured({"audited": {"sampling": rows}}))["audited"]
    assert mean.value == pytest.approx((upper_bound(0, 64) + upper_bound(1, 64)) / 2)
    assert mean.high >= (upper_bound(0, 64) + upper_bound(2, 64)) / 2
    worst = METRICS.get("worst_leak_bound").figures(Measured({"audited": {"sampling": rows}}))["audited"]
    assert worst.value == pytest.approx(upper_bound(2, 64, 0.005)) and worst.n == 2
    assert math.isclose(worst.low, worst.high)
