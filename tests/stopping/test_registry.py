"""Rules by name, and one of the user's own in one file."""

from __future__ import annotations

import pytest

from rkld.errors import UserError
from rkld.stopping.evidence import Evidence
from rkld.stopping.registry import STOPPING_RULES, get_rule, selectable_rules
from rkld.stopping.rule import StoppingRule


def test_every_rule_says_what_it_is() -> None:
    """The command line's help and the documents are made of it."""
    assert selectable_rules() == ["chance_rank", "control", "last", "placebo"]
    for name, rule in STOPPING_RULES.items():
        assert rule.help, name
        assert "\n" not in rule.help, name


def test_the_oracle_cannot_be_chosen_and_a_mistyped_rule_is_named() -> None:
    with pytest.raises(UserError, match="for benchmarks"):
        get_rule("oracle")
    with pytest.raises(UserError, match="Did you mean 'placebo'"):
        get_rule("placbo")
    with pytest.raises(UserError, match="unknown stopping rule 'exposure'"):
        get_rule("exposure")


def test_a_rule_registers_by_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    get_rule("last")  # the shipped ones are there
    monkeypatch.setattr(STOPPING_RULES, "_entries", dict(STOPPING_RULES._entries))

    @STOPPING_RULES.register("mine")
    class Mine(StoppingRule):
        help = "half as probable"

        def gap(self, evidence: Evidence) -> float:
            return evidence.probability - self.aim

    assert get_rule("mine") is Mine
    assert "mine" in selectable_rules()
