"""Metrics by name: one name each, computed of rows alone, and the same for unlearn and audit."""

import math

import numpy as np
import pytest

from rkld.auditing.evidence import _entry
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.reading import Attack
from rkld.errors import UserError
from rkld.evaluation.metric import BETTER, Measured, RecordMetric
from rkld.evaluation.registry import METRICS, declare
from rkld.evaluation.statistics import Figure
from rkld.evaluation.summary import SHOWN, Measurement
from rkld.settings.auditing import AuditSettings

ROWS = {
    "a": {"loss": 0.0, "paraphrase_loss": math.log(2), "perturbed_loss": [0.0, 0.0], "rouge_l": 0.5},
    "b": {"loss": math.log(4), "paraphrase_loss": 0.0, "perturbed_loss": [math.log(4), math.log(4)], "rouge_l": 1.0},
}
"""Truth ratios: 2 and 1/4."""


def test_names_are_those_that_unlearn_and_bench_show():
    """A metric under two names would be two metrics to whoever reads the tables."""
    assert set(SHOWN) <= set(METRICS.names())
    assert set(Measurement(("a",), (1.0,)).values()) == {"n", *SHOWN, "facts", "facts_unseen"}
    expected = {"ks_distance", "forget_quality", "model_utility", "truth_ratio", "leak@k", "fill_in@top", "mem", "priv"}
    assert expected <= set(METRICS.names())
    assert all(metric.name == name and metric.title for name, metric in METRICS.items())


def test_every_figure_says_what_is_better_and_what_it_means():
    """Also those that attacks make, and the same under an attack or on another set."""
    for name, metric in audit_metrics(AuditSettings(attacks=("all",))).items():
        assert 30 < len(metric.explanation) <= 160 and metric.explanation.endswith("."), name
        assert BETTER[metric.direction]


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
    assert (figure.value, figure.n, figure.unmeasured) == (pytest.approx(1 / 20), 20, 1)
    most = said.figure({key: float(row["facts"][0] is not False) for key, row in cut.items()})
    assert figure.high == most.high and figure.low < 1 / 20
    assert said.records(measured)["audited"].keys() == {f"{n}/0" for n in range(1, 20)}
    assert said.differences(measured) == {}
    nothing = Measured({"audited": {"answers": {"0": {"facts": [None, None]}}}})
    assert said.figures(nothing) == {} and said.records(nothing) == {}
    leak = METRICS.get("leak@k").at({"k": 1})
    partly = Measured({"audited": {"sampling": {"0": {"leaks": [True, None, False, False]}}}})
    assert leak.figures(partly)["audited"].value == 0.25, "at least"


def test_a_share_that_could_have_grown_is_known_from_below_alone():
    """ROUGE-L up to the cut is the least that it is."""
    rouge = METRICS.get("rouge_l")
    rows = {str(n): {"rouge_l": 0.25, "cut": n == 0} for n in range(12)}
    figure = rouge.figures(Measured({"audited": {"answers": rows}}))["audited"]
    assert (figure.value, figure.unmeasured) == (0.25, 1) and figure.low <= 0.25
    assert figure.high >= (11 * 0.25 + 1) / 12
    assert rouge.differences(Measured({"audited": {"answers": rows}, "control": {"answers": rows}})) == {}


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


# Membership as a distance


def scored(forget: list[float], holdout: list[float]) -> dict:
    """A membership reading of which all attacks score alike."""
    attacks = ("loss", "zlib", "min_k", "min_k_plus_plus")
    return {
        name: {f"{name}{i}": dict.fromkeys(attacks, score) for i, score in enumerate(scores)}
        for name, scores in {"forget": forget, "holdout": holdout}.items()
    }


LOW, HIGH = [1.0 + i / 100 for i in range(40)], [9.0 + i / 100 for i in range(40)]
MIXED = [1.0 + (37 * i % 40) / 5 for i in range(40)]
SHIFTED = [x + 2.0 for x in MIXED]


def distance_of(reading: dict, **measured) -> tuple[float, float, float]:
    figure = METRICS.get("loss_auc_distance").figures(Measured({"audited": {"membership": reading}}, **measured))[
        "audited"
    ]
    return figure.value, figure.low, figure.high


def test_pushed_away_is_as_far_as_still_known():
    """An AUC of 0 passed every gate on the AUC's height: over-forgetting is a leak, too."""
    known, pushed = distance_of(scored(LOW, HIGH)), distance_of(scored(HIGH, LOW))
    assert known[0] == pushed[0] == 0.5
    assert known == pytest.approx(pushed, abs=1e-6) and known[1] > 0.4
    honest = distance_of(scored(MIXED, MIXED[::-1]))
    assert honest[:2] == (0.0, 0.0) and 0.1 < honest[2] < 0.25


def test_the_reference_is_the_control_else_the_text_where_it_tells():
    """A retrained model shows .76 where the text alone gives .73: that is no leak."""
    reading = scored(MIXED, SHIFTED)
    alone = METRICS.get("loss_auc").figures(Measured({"audited": {"membership": reading}}))["audited"]
    text = Figure(alone.value, alone.value - 0.1, alone.value + 0.1, 80, "")
    assert alone.value > 0.65
    assert distance_of(reading)[0] == pytest.approx(alone.value - 0.5)
    assert distance_of(reading, text_auc=text)[0] == 0.0
    unclear = Figure(0.58, 0.45, 0.7, 80, "")
    assert distance_of(reading, text_auc=unclear)[0] == pytest.approx(alone.value - 0.5)
    beside = {role: {"membership": reading} for role in ("audited", "control")}
    found = METRICS.get("loss_auc_distance").figures(Measured(beside, text_auc=unclear))
    assert list(found) == ["audited"] and (found["audited"].value, found["audited"].high) == (0.0, 0.0)


def test_a_height_names_its_distance():
    """No gate is on the height itself."""
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus", "reference"):
        for name in (f"{attack}_auc", f"{attack}_priv_leak"):
            assert METRICS.get(METRICS.get(name).distance)


# What was kept


def losses(values: list[float]) -> dict:
    return {str(i): {"loss": -math.log(value)} for i, value in enumerate(values)}


def test_kept_is_relative_to_what_the_original_had():
    """A drop from .1 to 0 is no small difference."""
    faint = [0.1 + i / 1000 for i in range(20)]
    found = {
        "audited": {"retain": losses([p / 10 for p in faint])},
        "control": {"retain": losses(faint)},
        "original": {"retain": losses(faint)},
    }
    figures = METRICS.get("retain_kept").figures(Measured(found))
    assert {role: round(figure.value, 6) for role, figure in figures.items()} == {"audited": 0.1, "control": 1.0}
    assert figures["audited"].high < 0.2
    assert METRICS.get("retain_kept").figures(Measured({"audited": found["audited"]})) == {}


def test_answers_kept_are_what_the_originals_own_say():
    """A model that refused 59 of 60 questions about anybody kept .87 of the probability, and passed."""
    refused = {"loss": -math.log(0.87), "rouge_l": 0.0}
    answered = {"loss": -math.log(0.99), "rouge_l": 0.5, "cut": True}
    told = {str(i): answered for i in range(20)}
    rows = {"original": told, "control": told, "audited": {**dict.fromkeys(told, refused), "0": answered}}
    measured = Measured({role: {"retain": found} for role, found in rows.items()})
    assert METRICS.get("retain_kept").figures(measured)["audited"].low > 0.8
    figures = METRICS.get("retain_answers_kept").figures(measured)
    assert {role: round(figure.value, 6) for role, figure in figures.items()} == {"audited": 0.05, "control": 1.0}
    assert figures["audited"].high < 0.3
    unsaid = {key: {**answered, "rouge_l": 0.0} for key in told}
    nothing = Measured({role: {"retain": unsaid} for role in ("audited", "original")})
    assert METRICS.get("retain_answers_kept").figures(nothing) == {}


def test_fluency_is_read_from_the_answers_under_the_original():
    rows = {"a": {"loss": 1.0, "gibberish": 0.0, "known_words": 0.8}, "b": {"loss": 9.0, "gibberish": 1.0}}
    measured = Measured({"audited": {"own_answers": rows}})
    values = {n: METRICS.get(n).figures(measured)["audited"] for n in ("own_answer_loss", "gibberish", "known_words")}
    assert {name: (figure.value, figure.n) for name, figure in values.items()} == {
        "own_answer_loss": (5.0, 2), "gibberish": (0.5, 2), "known_words": (0.8, 1),
    }  # fmt: skip


def long_answers(rows):
    return {key: float(len(row["answer"]) > 9) for key, row in rows.items()}


def test_what_a_cut_answer_would_have_said_is_no_value_of_ones_own_metric():
    """An answer of eight characters is no short one where it was cut there: a gate would hold."""
    metric = RecordMetric("long", "long answers", "answers", long_answers, flags=True, needs_end=True)
    rows = {str(n): {"answer": "In Oslo.", "cut": n < 15} for n in range(20)}
    rows["19"] = {"answer": "In a city by the sea.", "cut": False}
    measured = Measured({"audited": {"answers": rows}, "control": {"answers": rows}})
    figure = metric.figures(measured)["audited"]
    assert (figure.value, figure.unmeasured) == (1 / 20, 15) and figure.high > 16 / 20
    assert metric.records(measured)["audited"].keys() == {str(n) for n in range(15, 20)}
    assert metric.differences(measured) == {}
    behind = metric.on("attack", part="first")
    parts = Measured({"audited": {"attack": {"first": rows, "second": {}}}})
    assert behind.figures(parts)["audited"].unmeasured == 15, "rows of an attack that holds several tables"
    length = RecordMetric("length", "characters", "answers", lambda rows: {k: float(len(r["answer"])) for k, r in
                          rows.items()}, bounds=(0.0, math.inf), needs_end=True)  # fmt: skip
    assert length.figures(measured) == {}, "it has no end"
    whole = {key: row for key, row in rows.items() if not row["cut"]}
    assert length.figures(Measured({"audited": {"answers": whole}}))["audited"].value == (4 * 8 + 21) / 5


def test_a_metric_of_ones_own_that_fails_is_named_with_its_place_and_what_there_is():
    """And not with what the error says, which may be an answer."""
    misspelt = RecordMetric(
        "mine", "mine", "answers", lambda rows: {key: float(row["anser"]) for key, row in rows.items()}
    )
    other_kind = RecordMetric(
        "mine", "mine", "answers", lambda rows: {key: float(row["answer"]) for key, row in rows.items()}
    )
    beyond = RecordMetric("mine", "mine", "answers", lambda rows: dict.fromkeys(rows, 17.0), flags=True)
    measured = Measured({"audited": {"answers": {"a": {"answer": "Jane Doe", "cut": False}}}})
    for metric, error in ((misspelt, "KeyError"), (other_kind, "ValueError"), (beyond, "ValueError")):
        with pytest.raises(
            UserError, match=rf"the metric mine cannot be computed: {error} in \w+.py, line \d+"
        ) as found:
            _entry(metric, measured, 0.1)
        assert "whose rows have answer, cut" in str(found.value) and "Jane" not in str(found.value)


def test_what_a_metric_and_an_attack_name_is_checked(monkeypatch):
    with pytest.raises(ValueError, match="has the direction 'lower': it is one of 'low', 'high'"):
        RecordMetric("mine", "mine", "answers", long_answers, direction="lower")
    monkeypatch.setattr(METRICS, "resolve", lambda spec: RecordMetric("mine", "mine", "anwsers", long_answers))
    with pytest.raises(UserError, match=r"made of the reading 'anwsers', which there is not. Did you mean 'answers'?"):
        audit_metrics(AuditSettings(metric=("mine.py:MINE",)))

    class Mine(Attack):
        metric_names = "facts_said"  # the comma of a tuple forgotten

        def read(self, reader):
            return {}

    with pytest.raises(UserError, match="metric_names of mine, a tuple of names: unknown metric 'f'"):
        Mine("mine").metrics()
    Mine.metric_names = ("util",)
    with pytest.raises(UserError, match="metric_names of mine holds 'util', which is no mean over records"):
        Mine("mine").metrics()
