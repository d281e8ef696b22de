"""Metrics by name: one name each, computed of rows alone, and the same for unlearn and audit."""

import math

import numpy as np
import pytest

from rkld.errors import UserError
from rkld.evaluation.metric import Measured, RecordMetric
from rkld.evaluation.registry import METRICS, declare
from rkld.evaluation.summary import SHOWN, Measurement

ROWS = {
    "a": {"loss": 0.0, "paraphrase_loss": math.log(2), "perturbed_loss": [0.0, 0.0], "rouge_l": 0.5},
    "b": {"loss": math.log(4), "paraphrase_loss": 0.0, "perturbed_loss": [math.log(4), math.log(4)], "rouge_l": 1.0},
}
"""Truth ratios: 2 and 1/4."""


def test_names_are_those_that_unlearn_and_bench_show():
    """A metric under two names would be two metrics to whoever reads the tables."""
    assert set(SHOWN) <= set(METRICS.names())
    assert set(Measurement(("a",), (1.0,)).values()) == {"n", *SHOWN}
    expected = {"ks_distance", "forget_quality", "model_utility", "truth_ratio", "leak@k", "fill_in@top", "mem", "priv"}
    assert expected <= set(METRICS.names())
    assert all(metric.name == name and metric.title for name, metric in METRICS.items())


def test_a_metric_has_another_form_on_records_that_should_be_kept():
    """TOFU's aggregates differ by set; a wrong one would pass for utility."""
    probability, ratio = METRICS.get("probability"), METRICS.get("truth_ratio")
    assert probability.values(ROWS) == {"a": 1.0, "b": pytest.approx(0.25)}
    assert probability.on("real_authors").values(ROWS) == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3)}
    assert list(ratio.values(ROWS).values()) == pytest.approx([0.5, 0.25])
    kept = ratio.on("retain")
    assert list(kept.values(ROWS).values()) == pytest.approx([0.0, 0.75])
    assert (kept.name, kept.reading, kept.direction) == ("retain_truth_ratio", "retain", "high")
    assert (probability.on("forget").name, probability.on("forget").direction) == ("forget_probability", "low")


def test_a_parameter_is_in_the_name_and_the_title():
    """leak@8 and leak@32 are two numbers; "leak@k" in a table would be neither."""
    leak = METRICS.get("leak@k").at({"k": 2})
    assert (leak.name, leak.title) == ("leak@2", "chance that one of 2 sampled answers leaks")
    assert leak.values({"a": {"leaks": [True, False, False]}}) == {"a": pytest.approx(2 / 3)}


def test_differences_are_over_the_same_records_only():
    """Means over other records may differ without any difference between the models."""
    rouge = METRICS.get("rouge_l")
    other = {key: {"rouge_l": row["rouge_l"] - 0.25} for key, row in ROWS.items()}
    measured = Measured({"audited": {"answers": ROWS}, "control": {"answers": other}, "original": {"answers": {}}})
    assert rouge.differences(measured)["control"].value == pytest.approx(0.25)
    assert set(rouge.figures(measured)) == {"audited", "control"}
    one = Measured({"audited": {"answers": ROWS}, "control": {"answers": {"a": other["a"]}}})
    assert rouge.differences(one) == {}


def test_what_was_not_measured_widens_the_interval_and_is_compared_with_nothing():
    """The figure of the others alone would be that of a model that says nothing behind the cut."""
    said = METRICS.get("facts_said")
    rows = {str(n): {"facts": [False]} for n in range(20)}
    cut = {**rows, "0": {"facts": [None]}, "1": {"facts": [True]}}
    measured = Measured({"audited": {"answers": cut}, "control": {"answers": cut}})
    figure = said.figures(measured)["audited"]
    assert (figure.value, figure.n, figure.unmeasured) == (pytest.approx(1 / 19), 20, 1)
    most = said.figure({key: float(row["facts"][0] is not False) for key, row in cut.items()})
    assert figure.high == most.high and figure.low < 1 / 20
    assert said.records(measured)["audited"].keys() == {f"{n}/0" for n in range(1, 20)}
    assert said.differences(measured) == {}
    nothing = Measured({"audited": {"answers": {"0": {"facts": [None, None]}}}})
    assert said.figures(nothing) == {} and said.records(nothing) == {}
    leak = METRICS.get("leak@k").at({"k": 1})
    partly = Measured({"audited": {"sampling": {"0": {"leaks": [True, None, False, False]}}}})
    assert leak.figures(partly)["audited"].value == 0.25, "at least"


def test_aggregates_compare_models_and_are_silent_without_them():
    """Forget quality without a retrained model is no number."""
    distance, quality = METRICS.get("ks_distance"), METRICS.get("forget_quality")
    alone = Measured({"audited": {"contrast": ROWS}})
    assert distance.figures(alone) == {}
    assert quality.figures(alone) == {}
    beside = Measured({"audited": {"contrast": ROWS}, "control": {"contrast": ROWS}})
    assert {role: figure.value for role, figure in distance.figures(beside).items()} == {"audited": 0.0}
    logged = Measured({"audited": {"contrast": ROWS}}, retrained_ratios=np.array([5.0, 6.0, 7.0]))
    assert distance.figures(logged)["audited"].value == 1.0
    assert quality.figures(logged)["audited"]["retrained_n"] == 3


def test_a_name_can_be_declared_once_and_a_mistyped_one_is_explained():
    """Whichever was imported last would silently win."""
    with pytest.raises(ValueError, match="two entries of the name 'rouge_l'"):
        declare(RecordMetric("rouge_l", "another", "answers", lambda rows: {}))
    with pytest.raises(UserError, match=r"unknown metric 'rouge'.*rouge_l"):
        METRICS.get("rouge")
