"""Decisions: pure functions of hand-made evidence."""

from __future__ import annotations

import math

import pytest

from rkld.stopping.evidence import Evidence
from rkld.stopping.rule import decide, simulate
from rkld.stopping.rules.chance_rank import ChanceRank
from rkld.stopping.rules.last import Last
from rkld.stopping.rules.oracle import Oracle
from rkld.stopping.rules.placebo import Placebo
from tests.stopping.person import at


def test_level_stops_at_the_first_check_within_its_margin_and_keeps_the_nearest():
    """Mean probabilities .9, .5, .35, .2 and an aim of .3: it ends at .2, and the state of .35 is nearer."""
    rows = [at(2, 0.9, 0.9), at(4, 0.7, 0.3), at(6, 0.35, 0.35), at(8, 0.2, 0.2), at(10, 0.3, 0.3)]
    assert decide(Placebo(0.3), [at(2, 0.315)]).stop
    assert not decide(Placebo(0.3), [at(2, 0.325)]).stop
    decision = simulate(Placebo(0.3), rows)
    assert decision.stop
    assert decision.step == 6
    assert decision.gap == pytest.approx(0.05)
    assert not decide(Placebo(0.3), rows[:3]).stop, "the run must go on above the margin"


def test_a_rule_that_is_never_satisfied_gives_the_nearest_check():
    """Neither the last nor the first by habit; of two equally near the earlier one."""
    rows = [at(2, 0.9), at(4, 0.6), at(6, 0.7), at(8, 0.6)]
    decision = simulate(Placebo(0.3), rows)
    assert not decision.stop
    assert decision.step == 4


def test_one_record_and_one_check_are_enough():
    assert decide(Placebo(0.5), [at(1, 0.5)]).stop


@pytest.mark.parametrize("rows", [[], [Evidence(1, ())], [Evidence(1, (math.nan,))], [Evidence(1, (1.0, math.inf))]])
def test_nothing_and_nan_are_errors(rows):
    """A decision made of NaN would look like one: NaN compares as false."""
    with pytest.raises(ValueError, match=r"\w"):
        decide(Placebo(0.5), rows)


def test_chance_rank_counts_ties_by_half_and_needs_alternatives():
    """Losses 1 (true) against 2, 1, .5: one beaten, one tie, one not: ½, by chance."""
    tied = Evidence(1, (1.0,), (1.0,), ((2.0, 1.0, 0.5),))
    assert ChanceRank().gap(tied) == 0
    assert ChanceRank().gap(Evidence(1, (1.0,), (1.0,), ((2.0, 3.0, 4.0),))) == 0.5, "known: above all others"
    assert ChanceRank().gap(Evidence(1, (1.0,), (1.0,), ((0.1, 0.2, 0.3),))) == -0.5, "forgotten too much: below all"
    with pytest.raises(ValueError, match=r"\w"):
        ChanceRank().gap(at(1, 0.5))
    with pytest.raises(ValueError, match=r"\w"):
        ChanceRank().gap(Evidence(1, (1.0,), (float("nan"),), ((2.0,),)))


def test_last_and_oracle():
    """The last step however the student fares; the oracle looks at the whole run and takes the first peak."""
    ratios = (0.5, 1.0, 2.0)
    same = Evidence(3, (1.0,) * 3, tuple(map(math.log, ratios)), ((0.0,),) * 3)
    other = Evidence(1, (1.0,) * 3, (-5.0,) * 3, ((0.0,),) * 3)
    rows = [other, same, Evidence(4, same.gold_loss, same.paraphrase_loss, same.perturbed_loss), other]
    assert simulate(Oracle(retrained=ratios), rows).step == 3
    assert simulate(Last(9), [at(3, 0.9), at(6, 0.1), at(9, 0.5)]).step == 9
