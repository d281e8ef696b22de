"""TOFU's metrics against the figures published for the authors' own logs, and by hand."""

import gzip
import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rkld.errors import UserError
from rkld.evaluation.tofu import (
    forget_quality,
    forget_truth_ratio,
    logged_ratios,
    model_utility,
    normalised_probability,
    probability,
    read_logs,
    rouge_l_recall,
    truth_ratio,
    utility_truth_ratio,
    write_logs,
)

LOGS = Path(os.environ.get("RKLD_DATA", "")) / "tofu-logs"
LLAMA2 = "ft_epoch5_lr1e-05_llama2-7b_{}_wd0.01.json.gz"
PHI = "ft_epoch5_lr2e-05_phi_{}_wd0.01.json.gz"
published = pytest.mark.skipif(
    not (os.environ.get("RKLD_DATA") and LOGS.is_dir()),
    reason="needs the TOFU authors' evaluation logs: put those of github.com/locuslab/tofu (data/*.json),"
    " gzipped, into a folder tofu-logs and name the folder above it in the environment variable RKLD_DATA",
)


def ratios(logs):
    return truth_ratio(logs["forget"]["paraphrase_loss"], logs["forget"]["perturbed_loss"])


def utility(logs):
    return model_utility(**{name: logs[name] for name in ("retain", "real_authors", "world_facts")})


@published
@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (LLAMA2.format("full"), 0.622677),
        (LLAMA2.format("retain90"), 0.613745),
        (PHI.format("full"), 0.522074),
    ],
)
def test_model_utility_is_the_published_one(log, expected):
    """Figures would not be comparable with any paper's."""
    assert utility(read_logs(LOGS / log)).value == pytest.approx(expected, abs=1e-6)


@published
@pytest.mark.parametrize(("model", "p", "steps"), [(LLAMA2, 1.834e-21, 119), (PHI, 2.194e-16, 104)])
def test_forget_quality_is_the_published_one(model, p, steps):
    """The asymptotic p-value is half of the published, exact one; an absolute tolerance would not notice."""
    quality = forget_quality(*(ratios(read_logs(LOGS / model.format(name))) for name in ("full", "retain90")))
    assert (quality.statistic, quality.n) == (pytest.approx(steps / 300, abs=1e-12), 300)
    assert f"{quality.pvalue:.3e}" == f"{p:.3e}"
    assert math.log(quality.pvalue) == pytest.approx(math.log(exact_p(300, steps)), abs=1e-6)


def exact_p(n, steps):
    """P(D ≥ steps / n) for two samples of n without ties, by the reflection principle, in integers."""
    terms = [math.comb(2 * n, n - j * steps) * (-1) ** (j - 1) for j in range(1, n // steps + 1)]
    return float(Fraction(2 * sum(terms), math.comb(2 * n, n)))


@published
def test_truth_ratios_and_rouge_are_those_in_the_logs():
    """Each record's value, not only their mean, must be the authors'."""
    path = LOGS / LLAMA2.format("full")
    raw = json.loads(gzip.decompress(path.read_bytes()))["eval_log_forget.json"]
    np.testing.assert_allclose(ratios(read_logs(path)), list(raw["truth_ratio"].values()), rtol=1e-6)
    ours = [rouge_l_recall(generated, gold) for _, generated, gold in raw["generated_text"].values()]
    np.testing.assert_allclose(ours, list(raw["rougeL_recall"].values()), rtol=0, atol=1e-12)


def test_exact_p_value_of_a_known_case():
    """D = 1 between two samples of 4 has p = 2 / C(8, 4), which the asymptotic formula misses."""
    quality = forget_quality([1, 2, 3, 4], [5, 6, 7, 8])
    assert (quality.pvalue, quality.statistic, quality.n) == (pytest.approx(2 / 70, rel=1e-12), 1.0, 4)


def test_truth_ratio_is_a_geometric_mean():
    """The papers' formula (arithmetic mean) gives other figures than their code."""
    wrong = np.array([[0.1, 0.4], [0.2, 0.2]])
    right = np.array([0.5, 0.1])
    np.testing.assert_allclose(truth_ratio(-np.log(right), -np.log(wrong)), [0.2 / 0.5, 2.0])
    ragged = [-np.log([0.1, 0.4]), -np.log([0.2])]
    np.testing.assert_allclose(truth_ratio(-np.log(right), ragged), [0.2 / 0.5, 2.0])


def test_aggregates_by_hand():
    """min and max the wrong way round would still give numbers between 0 and 1."""
    assert forget_truth_ratio([0.5, 4.0]) == pytest.approx((0.5 + 0.25) / 2)
    assert utility_truth_ratio([0.5, 4.0]) == pytest.approx(0.25)
    assert forget_truth_ratio([0.0, math.inf]) == 0
    assert utility_truth_ratio([0.0, math.inf]) == 0.5


def test_probabilities_by_hand():
    """The right answer must be among those it is normalised over."""
    np.testing.assert_allclose(probability([0.0, math.log(2)]), [1, 0.5])
    np.testing.assert_allclose(
        normalised_probability(-np.log([0.2, 0.3]), -np.log([[0.1, 0.1], [0.3, 0.4]])), [0.5, 0.3]
    )
    np.testing.assert_allclose(normalised_probability([2000.0, 9000.0], [[2000.0], [0.0]]), [0.5, 0])


def test_ties_count_as_equal():
    """Equal samples, and equal values within one, must not move the distance."""
    assert forget_quality([1, 1, 1, 2], [1, 1, 2, 1]).statistic == 0
    assert forget_quality([1, 1, 1, 2], [1, 1, 2, 1]).pvalue == 1
    assert forget_quality([1, 1, 1, 2], [2, 2, 2, 2]).statistic == 0.75


def test_one_record_is_enough():
    """A single question has metrics, and a p-value that says nothing."""
    assert forget_quality([0.3], [0.7]).pvalue == 1
    assert forget_quality([0.3], [0.7]).n == 1
    assert truth_ratio([1.0], [[1.0, 1.0]]).tolist() == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: truth_ratio([], np.empty((0, 5))), "paraphrase_loss"),
        (lambda: truth_ratio([math.nan], [[1.0]]), "paraphrase_loss holds nan at index 0"),
        (lambda: truth_ratio([1.0, 1.0], [[1.0], [math.nan]]), r"perturbed_loss\[1\] holds nan"),
        (lambda: truth_ratio([1.0], [[math.inf]]), "holds inf"),
        (lambda: truth_ratio([1.0], [[]]), r"perturbed_loss\[0\]"),
        (lambda: truth_ratio([1.0, 2.0], [[1.0, 2.0]]), "about 1 questions, the right answers are about 2"),
        (lambda: truth_ratio([1.0, 2.0], [1.0, 2.0]), r"perturbed_loss\[0\] .* shape \(\)"),
        (lambda: truth_ratio([[1.0]], [[1.0]]), r"paraphrase_loss .* shape \(1, 1\)"),
        (lambda: forget_quality([], []), "ratios .* shape"),
        (lambda: forget_quality([1.0], [math.nan]), "retrained_ratios holds nan"),
        (lambda: forget_quality([-1.0], [1.0]), "ratios holds -1.0"),
        (lambda: logged_ratios({"forget": {"gold_loss": [1.0]}}), "neither losses nor truth ratios"),
        (lambda: logged_ratios({}), "neither losses nor truth ratios"),
        (lambda: forget_truth_ratio([math.nan]), "holds nan"),
        (lambda: utility_truth_ratio([]), "shape"),
        (lambda: probability([]), "shape"),
        (lambda: normalised_probability([1.0], [[math.nan]]), "holds nan"),
    ],
)
def test_what_has_no_value_is_an_error(call, message):
    """NaN compares false with every threshold, so a gate would let it pass."""
    with pytest.raises(ValueError, match=message):
        call()


def sets():
    """Three sets of two questions with easy numbers."""
    half = {
        "gold_loss": -np.log([0.5, 0.5]),
        "paraphrase_loss": -np.log([0.4, 0.4]),
        "perturbed_loss": -np.log([[0.1, 0.1], [0.1, 0.1]]),
        "rouge": np.array([0.5, 1.0]),
    }
    return {name: dict(half) for name in ("retain", "real_authors", "world_facts")}


def test_model_utility_by_hand():
    """Nine values: a set left out, or probability not normalised where it must be, would change them."""
    given = sets()
    del given["world_facts"]["paraphrase_loss"]
    result = model_utility(**given)
    expected = {
        "retain.probability": 0.5,
        "retain.rouge": 0.75,
        "retain.truth_ratio": 0.75,
        "real_authors.probability": 0.5 / 0.7,
        "real_authors.rouge": 0.75,
        "real_authors.truth_ratio": 0.75,
        "world_facts.probability": 0.5 / 0.7,
        "world_facts.rouge": 0.75,
        "world_facts.truth_ratio": 0.8,
    }
    assert result.parts == pytest.approx(expected, rel=1e-12)
    assert result.value == pytest.approx(9 / sum(1 / value for value in expected.values()), rel=1e-12)


def test_model_utility_is_zero_where_a_part_is():
    """The harmonic mean's limit, not a division by zero."""
    given = sets()
    given["real_authors"]["rouge"] = [0.0, 0.0]
    assert model_utility(**given).value == 0


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("retain", "rouge", [0.5], "retain: gold_loss, rouge and paraphrase_loss are about 2, 1 and 2"),
        ("retain", "rouge", [0.5, math.nan], "retain: rouge holds nan at index 1"),
        ("retain", "rouge", [50.0, 100.0], r"retain: rouge must lie in \[0, 1\]"),
        ("real_authors", "perturbed_loss", [[1.0]], "real_authors: perturbed_loss is about 1"),
        ("world_facts", "gold_loss", [], "world_facts: gold_loss"),
        ("retain", "paraphrase_loss", None, "retain: paraphrase_loss missing"),
        ("real_authors", "gold_loss", None, "real_authors: gold_loss missing"),
    ],
)
def test_model_utility_names_the_set_and_the_array_at_fault(name, field, value, message):
    """Twelve arrays go in: the error must say which one is wrong."""
    given = sets()
    if value is None:
        del given[name][field]
    else:
        given[name][field] = value
    with pytest.raises(ValueError, match=message):
        model_utility(**given)


def test_rouge_is_recall_with_stemming():
    """Precision or F1 would punish long answers; without stemming "paintings" would not match "painting"."""
    assert rouge_l_recall("He made many paintings, some say, in Oslo.", "painting in Oslo") == 1
    assert rouge_l_recall("Oslo", "painting in Oslo") == pytest.approx(1 / 3)
    assert rouge_l_recall("", "painting") == 0


def test_logs_are_read_by_question_number(tmp_path):
    """Questions of two fields in another order, or "10" before "2", would pair the wrong values."""
    task = {
        "avg_gt_loss": {"10": 3.0, "2": 2.0, "0": 1.0},
        "average_perturb_loss": {"0": [1.0, 2.0], "2": [3.0, 4.0], "10": [5.0, 6.0]},
    }
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"eval_log.json": task, "something else": {}}))
    logs = read_logs(path)
    assert list(logs) == ["retain"]
    assert logs["retain"]["gold_loss"].tolist() == [1, 2, 3]
    assert logs["retain"]["perturbed_loss"].tolist() == [[1, 2], [3, 4], [5, 6]]


# Questions 27 and 33 of the forget01 log that open-unlearning publishes for Llama-3.2-1B retain99.
OPEN_UNLEARNING = {
    "exact_memorization": {"agg_value": 0.64, "value_by_index": {"27": {"score": 0.5}}},
    "forget_Q_A_PARA_Prob": {
        "agg_value": 0.1,
        "value_by_index": {
            "27": {"prob": 0.01462970208376646, "avg_loss": 4.224701404571533},
            "33": {"prob": 0.06263478100299835, "avg_loss": 2.770434617996216},
        },
    },
    "forget_Q_A_PERT_Prob": {
        "agg_value": 0.049,
        "value_by_index": {
            "33": {"avg_loss": [2.4954960346, 2.6882126331, 3.3135890961, 2.9632868767, 3.7549397945]},
            "27": {"avg_loss": [5.3962783813, 5.2278165817, 5.2927069664, 5.7957839966, 5.5328478813]},
        },
    },
    "forget_Q_A_ROUGE": {
        "agg_value": 0.41,
        "value_by_index": {
            "27": {"rouge1_recall": 0.375, "rougeL_f1": 0.31884, "rougeL_recall": 0.34375, "input": "…"},
            "33": {"rouge1_recall": 0.375, "rougeL_f1": 0.22222, "rougeL_recall": 0.28125, "input": "…"},
        },
    },
    "forget_quality": {"agg_value": None},
    "forget_truth_ratio": {
        "agg_value": 0.65,
        "value_by_index": {"27": {"score": 0.2939383099571802}, "33": {"score": 0.761343783668399}},
    },
    "mia_loss": {"forget": {"agg_value": 1.0, "value_by_index": {"27": {"score": 1.0}}}, "agg_value": 0.48},
    "ra_Q_A_Prob": {"agg_value": 0.1, "value_by_index": {"0": {"prob": 0.5, "avg_loss": 0.6931}}},
    "wf_Truth_Ratio": {"agg_value": 0.6, "value_by_index": {"0": {"score": 13.6}}},
}


def test_results_of_open_unlearning_are_read(tmp_path):
    """A retrained model's log would be refused, its questions mixed up, or its truth ratio taken upside down."""
    path = tmp_path / "TOFU_EVAL.json"
    path.write_text(json.dumps(OPEN_UNLEARNING))
    logs = read_logs(path)
    assert list(logs) == ["forget", "real_authors", "world_facts"]
    assert logs["forget"]["rouge"].tolist() == [0.34375, 0.28125]
    assert logs["forget"]["perturbed_loss"].shape == (2, 5)
    assert logs["real_authors"]["gold_loss"].tolist() == [0.6931]
    np.testing.assert_allclose(logged_ratios(logs), [0.2939383099571802, 0.761343783668399], rtol=1e-6)
    for loss in ("paraphrase_loss", "perturbed_loss"):
        del logs["forget"][loss]
    np.testing.assert_allclose(logged_ratios(logs), [0.2939383099571802, 0.761343783668399], rtol=1e-6)


@pytest.mark.parametrize("form", ["tofu", "open-unlearning"])
@pytest.mark.parametrize("name", ["log.json", "log.json.gz"])
def test_what_is_written_is_read_again_as_the_same_numbers(tmp_path, form, name):
    """And open-unlearning's means are what its code would have made of them."""
    rng = np.random.default_rng(0)
    logs = {
        task: {
            "gold_loss": rng.uniform(0.1, 3, n),
            "paraphrase_loss": rng.uniform(0.1, 3, n),
            "perturbed_loss": rng.uniform(0.1, 3, (n, 5)),
            "rouge": rng.uniform(0, 1, n),
        }
        for task, n in {"forget": 11, "retain": 12, "real_authors": 3, "world_facts": 4}.items()
    }
    write_logs(tmp_path / name, {**logs, "forget": {**logs["forget"], "other": ["x"]}}, form)
    found = read_logs(tmp_path / name)
    for task, fields in logs.items():
        for field, values in fields.items():
            assert found[task][field].tolist() == values.tolist(), f"{task} {field}"
    assert utility(found).value == utility(logs).value
    np.testing.assert_allclose(logged_ratios(found), ratios(logs))
    if form == "open-unlearning" and name == "log.json":
        written = json.loads((tmp_path / name).read_text())
        forget = logs["forget"]
        assert written["forget_Q_A_Prob"]["agg_value"] == pytest.approx(np.exp(-forget["gold_loss"]).mean())
        assert (
            written["forget_Q_A_PERT_Prob"]["value_by_index"]["10"]["avg_loss"] == forget["perturbed_loss"][10].tolist()
        )
        r = np.exp(forget["paraphrase_loss"] - forget["perturbed_loss"].mean(1))
        assert written["forget_truth_ratio"]["agg_value"] == pytest.approx(np.minimum(r, 1 / r).mean())
        assert written["forget_truth_ratio"]["value_by_index"]["3"]["score"] == pytest.approx(r[3])
    with pytest.raises(ValueError, match="no results to write"):
        write_logs(tmp_path / name, {"forget": {"other": [1.0]}}, form)


@published
@pytest.mark.parametrize("form", ["tofu", "open-unlearning"])
def test_a_published_log_is_written_without_a_loss(tmp_path, form):
    logs = read_logs(LOGS / LLAMA2.format("full"))
    write_logs(tmp_path / "log.json", logs, form)
    assert utility(read_logs(tmp_path / "log.json")).value == pytest.approx(0.622677, abs=1e-6)


def test_unequal_numbers_of_questions_are_compared_and_reported():
    """Published logs stop at 300 of 400 questions; n of one side alone would hide that."""
    quality = forget_quality([1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert (quality.statistic, quality.n, quality.retrained_n) == (1.0, 6, 3)
    assert quality.pvalue == pytest.approx(2 / math.comb(9, 3), rel=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"forget_truth_ratio": {"value_by_index": {"0": {"score": null}}}}', "is damaged.*truth_ratio lacks"),
        ('{"forget_truth_ratio": {"value_by_index": {"0": {"prob": 1}}}}', "is damaged"),
        ('{"forget_quality": {"agg_value": 0.5}}', "is no evaluation log of TOFU"),
        (None, "Cannot read"),
        ("{", "Cannot read"),
        ("[]", "is no evaluation log of TOFU"),
        pytest.param("[" * 100_000, "Cannot read", id="deep"),
        pytest.param("1" * 5000, "Cannot read", id="long"),
        ('{"eval_log.json": {"avg_gt_loss": {"0": 1}, "rougeL_recall": {"1": 1}}}', "is damaged.*rouge"),
        ('{"eval_log.json": {"avg_gt_loss": {"0": "x"}}}', "is damaged"),
        ('{"eval_log.json": {"average_perturb_loss": {"0": [1], "1": [1, 2]}}}', "is damaged"),
        ('{"eval_log.json": {"avg_gt_loss": [1]}}', "is damaged"),
        ('{"eval_log.json": 3}', "is damaged"),
    ],
)
def test_a_file_that_is_no_log_gets_one_clear_message(content, message, tmp_path):
    """The user would see a traceback, or numbers from half a log."""
    path = tmp_path / "log.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_logs(path)


def test_a_damaged_gzip_file_is_a_user_error(tmp_path):
    """A download that broke off is the commonest damage."""
    path = tmp_path / "log.json.gz"
    path.write_bytes(gzip.compress(b'{"eval_log.json": {}}' * 9)[:-12])
    with pytest.raises(UserError, match="Cannot read"):
        read_logs(path)
