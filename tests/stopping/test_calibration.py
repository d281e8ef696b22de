"""An aim by which nothing can be steered is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.records.record import Record
from rkld.stopping.calibration import calibrate
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.rules import placebo
from rkld.stopping.rules.chance_rank import ChanceRank
from rkld.stopping.rules.control import Control
from rkld.stopping.rules.placebo import Placebo
from tests.stopping.person import FORGET, HOLDOUT, KNOWN, at


def material(lm: LanguageModel, holdout: list[Record]) -> Material:
    return Material(FORGET, holdout, [], KNOWN, Encoder(lm.tokenizer), "answer", 0)


def test_an_original_without_anything_else_to_say_is_no_placebo(lm: LanguageModel) -> None:
    """Of whom it says only what is recorded of the person it would end the run at once, with the records known."""
    made = Placebo.compare(material(lm, []))
    assert made is not None
    original = at(0, *[0.9] * len(made.records))
    assert "--holdout" in (Placebo(0.0).refusal(made, original) or "")
    everyone = tuple(range(len(made.records)))
    assert Placebo(0.8, (everyone,)).refusal(made, original) is None
    assert Placebo(0.95, (everyone,)).refusal(made, original)


def test_the_worst_wording_is_judged_by_the_strangers_worst(lm: LanguageModel) -> None:
    """By hand: two kinds of wording and a record without strangers; a state goes through JSON and back."""
    known = Placebo.compare(material(lm, HOLDOUT))
    assert known is not None and known.matched is not None
    n = len(known.records)
    reworded = {"short": {r.key: [replace(r, key=f"{r.key}.short")] for r in FORGET}}
    both = Placebo.compare(replace(material(lm, HOLDOUT), reworded=reworded))
    assert both is not None and list(both.kinds) == ["recorded"] * n + ["short"] * n
    rule = calibrate(Placebo, both, lm).rule
    assert rule == Placebo(rule.aim, (tuple(range(n)), tuple(range(n, 2 * n))))
    assert rule.aim == pytest.approx(known.matched.probability(lm), rel=1e-6)
    rule = Placebo(0.3, ((0, 1), (3, 4)))
    assert rule.gap(at(1, 0.2, 0.4, 0.9, 0.5, 0.6)) == pytest.approx(0.55 - 0.3)
    assert Placebo.of_state(json.loads(json.dumps(rule.state()))) == rule


def test_a_record_without_strangers_is_judged_by_those_of_its_kind(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would break if it were left out: a run would end while the model still says what it says of anybody."""
    levels = [0.1, None, 0.3, None, None]
    monkeypatch.setattr(placebo, "_strangers", lambda comparison, original: [])
    monkeypatch.setattr(placebo, "strangers_probabilities", lambda original, matches: levels)
    compared = Comparison(material(lm, []), placebo.INVENTED, [], ["recorded"] * 3 + ["short"] * 2)
    rule = Placebo.aimed(compared, lm, None)
    assert rule == Placebo(pytest.approx(0.2), ((0, 1, 2),)), "of a kind of which none has strangers nothing is known"
    assert rule.gap(at(1, 0.1, 0.8, 0.3, 0.9, 0.9)) == pytest.approx(0.4 - 0.2)


def test_a_rule_is_aimed_by_what_it_is_compared_with(lm: LanguageModel) -> None:
    """The control's aim is read of the control, with its own encoder; the model itself as its control cannot steer."""
    compared = Control.compare(material(lm, []))
    assert compared is not None
    asked: list[str] = []

    def control() -> tuple[LanguageModel, Encoder]:
        asked.append("control")
        return lm, Encoder(lm.tokenizer)

    found = calibrate(Control, compared, lm, control)
    assert asked
    assert found.rule.aim == compared.read(lm, 0).probability
    assert found.original_gap == 0
    assert "forgotten the records already" in (found.refusal or "")
    ranked = ChanceRank.compare(material(lm, HOLDOUT))
    assert ranked is not None
    assert calibrate(ChanceRank, ranked, lm).rule == ChanceRank(0.5)
