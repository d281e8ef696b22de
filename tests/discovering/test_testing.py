"""The rank test on made-up log-probabilities: what is particular is found, what is made up for anybody is not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from rkld.discovering import testing
from rkld.discovering.asking import Wording
from rkld.discovering.testing import ENOUGH, Case, Trial, associated, benjamini_hochberg, run_trials, together

OTHERS = [f"Other{n} Name{n}" for n in range(400)]
WORDINGS = [Wording("Where was {name} born?"), Wording("Of what place is {name}?")]


class Table:
    """An asker that looks log-probabilities up, and what is said of whom."""

    def __init__(self, log_p, said=lambda name: ""):
        self.log_p, self.says, self.read, self.generated = log_p, said, 0, 0

    def log_probabilities(self, asked):
        self.read += len(asked)
        return np.array([self.log_p(name, value) for _, name, value in asked])

    def said(self, asked):
        self.generated += len(asked)
        return [self.says(name) for _, name, _ in asked]


def rank_test(asker, case, names):
    """To the end of each value, whatever the others."""
    trial = Trial(case, names)
    while trial.active:
        together(asker, [trial.look()])
    return (trial.tested,)


def case(values, others=OTHERS):
    return Case("Jane Doe", WORDINGS, values, lambda name, asked, said: (asked, [*filter(None, {*said})]), others)


def test_a_value_of_this_name_alone_is_as_rare_as_the_names_allow():
    asker = Table(lambda name, value: -0.5 if name == "Jane Doe" else -6.0, said=lambda name: "London")
    (found,) = rank_test(asker, case(["Cork"]), 199)
    assert (found.strong, found.likely, found.names) == (0, 0, 199)
    assert found.p == pytest.approx(1 / 200)
    assert found.score == pytest.approx(5.5)


def test_a_value_that_all_names_share_is_given_up_early():
    asker = Table(lambda name, value: -0.5)
    (found,) = rank_test(asker, case(["teacher"]), 199)
    assert (found.strong, found.likely, found.names, found.p) == (ENOUGH, ENOUGH, ENOUGH, 1.0)
    assert found.score == pytest.approx(0.0)
    assert asker.read < 50  # 199 names in two wordings would be 400


def test_what_is_made_up_for_every_name_is_not_associated_with_one():
    """Each name has a birthday of its own that no other name has: as particular, and as sure, as Jane's."""

    def log_p(name, value):
        return -1.0 if value == f"day of {name}" else -9.0

    (found,) = rank_test(Table(log_p, said=lambda name: f"day of {name}"), case(["day of Jane Doe"]), 199)
    assert found.likely == 0  # the same value is no other name's
    assert found.p == 1.0


def test_a_rare_value_is_not_found_because_it_is_rare():
    """Jane's is 18 nats more particular than any other name's own, and a third as probable."""

    def log_p(name, value):
        if value == "Glenlow":
            return -2.0 if name == "Jane Doe" else -22.0
        return -0.9 if name != "Jane Doe" else -5.0

    (found,) = rank_test(Table(log_p, said=lambda name: f"{name[-1]}ork"), case(["Glenlow"]), 199)
    assert found.score == pytest.approx(20.0)
    assert found.p == pytest.approx(1 / 200), "what others say is as likely for every other name, so nobody's own"

    def own(name, value):
        return log_p(name, value) if value in ("Glenlow", f"{name[-3:]}ork") else -4.0

    (found,) = rank_test(Table(own, said=lambda name: f"{name[-3:]}ork"), case(["Glenlow"]), 199)
    assert found.score == pytest.approx(20.0)
    assert found.p == 1.0


def test_others_that_are_less_sure_of_what_is_made_up_do_not_count():
    def log_p(name, value):
        sure = -0.1 if name == "Jane Doe" else -2.0
        return sure if value == f"day of {name}" else -9.0

    (found,) = rank_test(Table(log_p, said=lambda name: f"day of {name}"), case(["day of Jane Doe"]), 199)
    assert found.p == pytest.approx(1 / 200)


def test_p_is_no_smaller_than_chance_where_the_name_is_one_of_many():
    """Under the null hypothesis p ≤ t in at most a share t of cases (here with made-up values of random sureness)."""
    found = []
    for trial in range(300):
        draw = np.random.default_rng(trial)
        sureness = {name: -draw.exponential() for name in ("Jane Doe", *OTHERS)}

        def log_p(name, value, sureness=sureness):
            return sureness[name] if value == f"day of {name}" else -9.0

        found.append(rank_test(Table(log_p, said=lambda name: f"day of {name}"), case(["day of Jane Doe"]), 99)[0].p)
    for level in (0.05, 0.1, 0.25, 0.5):
        share = np.mean(np.array(found) <= level)
        assert share <= level + 3 * math.sqrt(level * (1 - level) / len(found))


def test_what_cannot_be_accepted_any_more_is_given_up_and_nothing_else_changes(monkeypatch):
    """Twenty values of which one is hers alone, one nearly so: decided as if each had been asked to the end."""
    monkeypatch.setattr(testing, "ENOUGH", 60)
    draw = np.random.default_rng(0)
    noise = {(name, f"v{n}"): draw.normal() for n in range(20) for name in ("Jane Doe", *OTHERS)}

    def log_p(name, value):
        lead = {"v0": 9.0, "v1": 2.2}.get(value, 0.0) if name == "Jane Doe" else 0.0
        return (noise[name, value] + lead - 14.0) / 5  # none is given up as hardly said

    whole = [rank_test(Table(log_p), case([f"v{n}"]), 229)[0] for n in range(20)]
    trials = [Trial(case([f"v{n}"]), 229) for n in range(20)]
    run_trials(Table(log_p), trials, 0.1, lambda n: None)
    asked = [trial.tested for trial in trials]
    decided = associated([one.p for one in asked], 0.1)
    assert decided == associated([one.p for one in whole], 0.1)
    assert decided[0] and sum(decided) < 4
    assert sum(one.names for one in asked) < sum(one.names for one in whole)


def test_the_likeliest_value_of_a_topic_is_tested_alone():
    def log_p(name, value):
        return {"Cork": -0.5, "London": -2.0, "Paris": -1.0}[value] if name == "Jane Doe" else -7.0

    (found,) = rank_test(Table(log_p), case(["London", "Cork", "Paris"]), 50)
    assert (found.value, found.names, found.p) == ("Cork", 50, pytest.approx(1 / 51))


def test_a_value_counts_where_it_is_likeliest():
    """Known in one wording alone: the other wording takes nothing from it, as it takes nothing from other names."""

    class OneWording(Table):
        def log_probabilities(self, asked):
            known = [name == "Jane Doe" and wording == WORDINGS[1] for wording, name, _ in asked]
            return np.where(known, -0.1, -6.0)

    (found,) = rank_test(OneWording(None), case(["Cork"]), 199)
    assert found.log_probability == pytest.approx(-0.1) and found.score == pytest.approx(5.9)
    assert found.p == pytest.approx(1 / 200)


def test_other_names_are_asked_in_the_likeliest_wordings_alone():
    """Would break if their answers, most of the cost, were asked for in every wording of the topic."""
    wordings = [Wording(f"Question {n} about {{name}}?") for n in range(4)]
    seen = set()

    class Four(Table):
        def log_probabilities(self, asked):
            seen.update((wording.question, name == "Jane Doe") for wording, name, _ in asked)
            return np.array(
                [-0.1 - wordings.index(wording) % 3 - 6 * (name != "Jane Doe") for wording, name, _ in asked]
            )

        def said(self, asked):
            assert {wording for wording, _, _ in asked} == {wordings[0], wordings[3]}
            return super().said(asked)

    one = Case("Jane Doe", wordings, ["Cork"], lambda name, asked, said: (asked, []), OTHERS)
    (found,) = rank_test(Four(None), one, 99)
    assert found.p == pytest.approx(1 / 100)
    assert {question for question, hers in seen if not hers} == {wordings[n].question for n in (0, 3)}
    assert {question for question, hers in seen if hers} == {wording.question for wording in wordings}


def test_what_is_found_after_some_names_is_compared_with_all_others_in_its_own_wording():
    late = set(OTHERS[60:90])

    def log_p(name, value):
        return -0.5 if name == "Jane Doe" or (value == "v0" and name in late) else -6.0

    trials = [Trial(case([f"v{n}"]), 199) for n in range(4)]
    run_trials(Table(log_p), trials, 0.1, lambda n: None)
    v0, v1 = trials[0].tested, trials[1].tested
    assert (v1.names, v1.compared, v1.likely, v1.p) == (testing.SURE, 199, 0, pytest.approx(1 / (testing.SURE + 1)))
    assert (v0.names, v0.likely, v0.p) == (testing.SURE, 30, pytest.approx(31 / 200))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_benjamini_hochberg_is_that_of_scipy(rate):
    p = np.random.default_rng(0).beta(0.4, 2, size=40)
    assert benjamini_hochberg(list(p), rate) == list(false_discovery_control(p) <= rate)
    assert benjamini_hochberg([], rate) == []


def test_where_most_are_found_the_few_others_are_judged_more_mildly():
    """20 values, 15 with p .004: two above ½ say that 6 may be true, so that .1 of 20 is shared by six; of a name of
    whom nothing is found it is shared by all."""
    known = [0.004] * 15 + [0.1, 0.25, 0.26, 0.6, 0.9]  # .26 is more names than any may have
    assert sum(benjamini_hochberg(known, 0.1)) == 15
    assert associated(known, 0.1) == [True] * 17 + [False] * 3
    assert benjamini_hochberg(known, 0.1 / 0.3)[17], "but for that it would be found"
    unknown = [0.006, 0.1, 0.14, *[0.6] * 17]
    assert associated(unknown, 0.1) == [False] * 20
    assert associated([0.0045, *unknown[1:]], 0.1) == [True] + [False] * 19
    assert associated([], 0.1) == [] and associated([0.01, 0.02], 0.1) == [True, True]


@pytest.mark.parametrize("true", [2, 10, 20])
def test_the_share_of_false_ones_is_the_rate_at_most(true):
    draw, shares = np.random.default_rng(true), []
    for _ in range(2000):
        p = np.concatenate([draw.uniform(size=true), draw.beta(0.05, 5, size=20 - true)])
        found = np.array(associated(list(p), 0.1))
        shares.append(found[:true].sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(len(shares))


def test_what_the_model_hardly_says_costs_nothing_and_is_not_found():
    """However rare it is among other names: less than one answer in fifty says it, asked as it is likeliest."""
    asker = Table(lambda name, value: math.log(0.019) if name == "Jane Doe" else -30.0)
    trial = Trial(case(["Cork"]), 199)
    run_trials(asker, [trial], 0.1, lambda n: None)
    assert (trial.tested.p, trial.tested.names, trial.tested.compared) == (1.0, 0, 0)
    assert asker.read == len(WORDINGS)
    said = Table(lambda name, value: math.log(0.021) if name == "Jane Doe" else -30.0)
    (found,) = rank_test(said, case(["Cork"]), 199)
    assert found.p == pytest.approx(1 / 200)
    given = Trial(replace(case(["Cork"]), given=True), 199)  # in the user's documents
    run_trials(asker, [given], 0.1, lambda n: None)
    assert given.tested.p == pytest.approx(1 / (1 + testing.SURE))


def test_what_is_only_compared_is_read_for_the_first_names_and_not_found():
    said = {"Jane Doe": -0.5, OTHERS[1]: -0.4, OTHERS[5]: -0.1}
    asker = Table(lambda name, value: said.get(name, -6.0))
    trial = Trial(case(["Cork"]), 199)
    together(asker, [trial.compare()])
    assert (trial.tested.likely, trial.tested.compared, trial.tested.names, trial.tested.p) == (1, 4, 0, 1.0)
    assert trial.tested.score == pytest.approx(-0.5 - math.log((math.exp(-0.4) + 3 * math.exp(-6)) / 4))
    assert asker.generated == 0, "what they say of themselves is most of what a name costs"
    hardly = Trial(case(["Cork"]), 199)
    together(Table(lambda name, value: math.log(0.019)), [hardly.compare()])
    assert hardly.tested.compared == 0


def test_what_is_found_early_is_compared_with_as_many_as_were_asked_for():
    """More names than that are drawn where there are many values; each costs a reading of every value that is found."""
    late = set(OTHERS[150:180])
    asker = Table(lambda name, value: -0.5 if name == "Jane Doe" or name in late else -6.0)
    trials = [Trial(case([f"v{n}"]), 229, 99) for n in range(4)]
    run_trials(asker, trials, 0.1, lambda n: None)
    assert {(one.tested.names, one.tested.compared, one.tested.likely) for one in trials} == {(testing.SURE, 99, 0)}
    (alone,) = [Trial(case(["v"]), 149, 19)]
    run_trials(asker, [alone], 0.007, lambda n: None)
    assert (alone.tested.names, alone.tested.compared) == (149, 149), "that needs them all"
