"""An aim by which nothing can be steered is refused."""

from __future__ import annotations

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.records.record import Record
from rkld.stopping.calibration import calibrate
from rkld.stopping.comparison import Material
from rkld.stopping.rules.chance_rank import ChanceRank
from rkld.stopping.rules.control import Control
from rkld.stopping.rules.placebo import Placebo
from tests.stopping.person import FORGET, HOLDOUT, KNOWN, at


def material(lm: LanguageModel, holdout: list[Record]) -> Material:
    return Material(FORGET, holdout, [], KNOWN, Encoder(lm.tokenizer), "answer", 0)


def test_invented_names_that_change_nothing_are_no_placebo(lm: LanguageModel) -> None:
    """A model that gives the same answers about anybody would end the run at once, with the records still known."""
    made = Placebo.compare(material(lm, []))
    assert made is not None
    original = at(0, *[0.9] * len(made.records))
    assert "--holdout" in (Placebo(0.8).refusal(made, original) or "")
    assert Placebo(0.3).refusal(made, original) is None
    with_holdout = Placebo.compare(material(lm, HOLDOUT))
    assert with_holdout is not None
    assert Placebo(0.8).refusal(with_holdout, original) is None
    assert Placebo(0.95).refusal(with_holdout, original)


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
