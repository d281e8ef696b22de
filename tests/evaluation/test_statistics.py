"""Intervals by hand, by known tables, and by how often they hold the truth."""

import math

import numpy as np
import pytest

from rkld.evaluation import statistics
from rkld.evaluation.statistics import Figure, bootstrap, clopper_pearson, equivalence, mean, paired_difference, share


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (1, 1, 0.025, 1.0),
        (3, 10, 0.06674, 0.65245),  # as tabulated
        (5, 100, 0.01643, 0.11283),
    ],
)
def test_exact_intervals_of_shares(successes, n, low, high):
    """Zero leaks with the interval [0, 0] would claim that there never is one."""
    assert clopper_pearson(successes, n) == pytest.approx((low, high), abs=1e-5)
    figure = share([1] * successes + [0] * (n - successes))
    assert (figure.value, figure.n) == (successes / n, n)
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-5)


def test_shares_by_person_are_less_certain():
    """Forty questions about four people who leak all or nothing are four observations."""
    flags, persons = [1] * 20 + [0] * 20, [p for p in "abcd" for _ in range(10)]
    alone, clustered = share(flags), share(flags, persons)
    assert clustered.value == alone.value == 0.5 and clustered.n == 40
    assert clustered.low < 0.1 < 0.3 < alone.low and "4 persons" in clustered.method
    even = share([1, 0] * 20, persons)
    assert (even.low, even.high) == (alone.low, alone.high), "no more is known than independent records would say"
    none = share([0] * 40, persons)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))


def test_the_effective_number_by_hand():
    """Three persons with 1, 2 and 3 of 4: variance between them 3/2 · (1 + 0 + 1)/144, then Student's t."""
    flags = [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    effective = 0.25 / (3 / 2 * 2 / 144) * (2.200985 / 4.302653) ** 2
    figure = share(flags, [i // 4 for i in range(12)])
    assert (figure.low, figure.high) == pytest.approx(clopper_pearson(effective / 2, effective), abs=1e-5)


def test_one_person_and_two_are_named_as_such():
    """An interval about this person's records would be read as one about people."""
    assert share([0, 1], ["a", "a"]).method == "Clopper–Pearson, conditional on this person"
    assert share([0, 1], ["a", "b"]).method == "Clopper–Pearson, conditional on these 2 persons"
    assert mean([0.1, 0.2], ["a", "a"]).method == "bootstrap, conditional on this person"
    assert mean([0.1, 0.2, 0.4], ["a", "a", "a"]).low == mean([0.1, 0.2, 0.4]).low
    assert mean([0.1, 0.2, 0.4], "abc").method == "bootstrap, 3 persons"
    several = bootstrap(lambda i, j: 0.0, (2, 3), ("ab", "cde"))
    assert several.method == "bootstrap, conditional on these 2 persons, 3 persons"


def test_a_mean_is_repeatable_and_within_its_values():
    """A run repeated with the same seed must give the same audit."""
    values = np.random.default_rng(0).random(40)
    figure = mean(values, bounds=(0, 1))
    assert figure == mean(values, bounds=(0, 1)) != mean(values, bounds=(0, 1), seed=1)
    assert figure.value == pytest.approx(values.mean())
    assert values.min() < figure.low < figure.value < figure.high < values.max()
    assert figure.high - figure.low == pytest.approx(2 * 2.02 * values.std(ddof=1) / 40**0.5, rel=0.1)


@pytest.mark.parametrize("n", [2, 41, 1271])
def test_means_drawn_at_once_are_those_drawn_one_by_one(monkeypatch, n):
    """The fast path of mean() against bootstrap() itself, blocks and all."""
    values = np.random.default_rng(n).random(n)
    one_by_one = bootstrap(lambda rows: float(values[rows].mean()), n, bounds=(0, 1), seed=3)
    for block in (1 << 22, 3 * n, 1):
        monkeypatch.setattr(statistics, "BLOCK", block)
        assert mean(values, bounds=(0, 1), seed=3) == one_by_one


def test_means_by_person_are_less_certain():
    """Ten alike answers about a person are not ten observations."""
    values = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9, 0.5], 10) + np.tile([-0.01, 0.01], 30)
    alone, clustered = mean(values), mean(values, np.repeat(np.arange(6), 10).tolist())
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Plain percentiles at n = 6 hold it in 86% of cases."""
    rng = np.random.default_rng(0)
    hits = [(f := mean(rng.normal(size=6))).low <= 0 <= f.high for _ in range(150)]
    assert np.mean(hits) >= 0.9


def test_values_all_alike_are_not_certain():
    """A bootstrap of forty zeros gives [0, 0]."""
    bound = 1 - 0.025 ** (1 / 40)
    figure = mean([0.0] * 40, bounds=(0, 1))
    assert (figure.low, figure.high) == pytest.approx((0, bound))
    same = paired_difference([0.5] * 40, [0.5] * 40, bounds=(0, 1))
    assert (same.value, same.low, same.high) == pytest.approx((0, -bound, bound))
    assert mean([3.0] * 40).high == math.inf
    assert (mean([0.4], bounds=(0, 1)).low, mean([0.4], bounds=(0, 1)).high) == pytest.approx((0.01, 0.985))


def test_comparisons_are_paired():
    """Two models differ on the same questions by far less than two sets of questions do."""
    theirs = np.linspace(0, 1, 40)
    ours = theirs + np.tile([0.01, 0.03], 20)
    figure = paired_difference(ours, theirs)
    assert figure.value == pytest.approx(0.02) and 0.01 < figure.low < figure.high < 0.03
    with pytest.raises(ValueError, match="ours is about 2 questions, theirs about 1"):
        paired_difference([1, 2], [1])


def test_equivalence_needs_the_whole_interval_inside_the_margin():
    """ "No significant difference" on few records would pass for "the same"."""
    narrow, wide = Figure(0.01, -0.02, 0.04, 40, ""), Figure(0.0, -0.2, 0.2, 5, "")
    assert equivalence(narrow, 0.05).established
    assert not equivalence(narrow, 0.04).established, "its end is the margin itself"
    assert not equivalence(wide, 0.05).established
    assert not equivalence(Figure(0.0, -math.inf, math.inf, 1, ""), 0.05).established
    for margin in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="margin is"):
            equivalence(narrow, margin)


def test_any_statistic_of_several_samples():
    """Both samples must be drawn anew: with one fixed the interval is too narrow."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(size=50)
    figure = bootstrap(lambda i, j: a[i].mean() - b[j].mean(), (30, 50))
    assert figure.n == 80 and figure.value == pytest.approx(a.mean() - b.mean())
    spread = (a.var(ddof=1) / 30 + b.var(ddof=1) / 50) ** 0.5
    assert figure.high - figure.low == pytest.approx(2 * 2.045 * spread, rel=0.1)
    single = bootstrap(lambda i, j: 0.5, (1, 50), bounds=(0.0, 1.0))
    assert (single.low, single.high) == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share([]), "flags must be"),
        (lambda: share([0.5]), "flags holds 0.5"),
        (lambda: share([math.nan]), "flags holds nan"),
        (lambda: mean([]), "values must be"),
        (lambda: mean([1.0, math.nan], name="losses"), "losses holds nan at index 1"),
        (lambda: mean([0.5, 1.5], bounds=(0, 1)), "values holds 1.5"),
        (lambda: mean([1.0, 2.0], ["a"]), "1 persons' labels for 2 records"),
        (lambda: clopper_pearson(2, 1), "2 successes of 1"),
        (lambda: clopper_pearson(0, 0), "0 successes of 0"),
        (lambda: bootstrap(lambda rows: math.nan, 3), "NaN|no figure"),
        (lambda: Figure(math.nan, 0, 1, 3, ""), "no figure: nan"),
        (lambda: Figure(0.5, math.nan, 1, 3, ""), "no figure"),
        (lambda: Figure(0.5, 0, 1, 0, ""), "n = 0"),
    ],
)
def test_what_has_no_value_is_an_error(call, message):
    """NaN compares false with every threshold, so a gate would let it pass."""
    with pytest.raises(ValueError, match=message):
        call()
