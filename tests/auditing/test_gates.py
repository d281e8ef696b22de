"""Gates: what keeps to a limit, what is established, and what was never reached."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rkld.auditing.evidence import plain
from rkld.auditing.gates import judge, judge_all

HARD = {"value": None, "low": 30.0, "high": None, "n": 4, "method": "bootstrap"}
"""Never back within the budget, or after 30 steps at least."""


@pytest.mark.parametrize(
    ("kind", "limit", "low", "state", "established"),
    [
        ("min", 20, 30.0, "held", True),
        ("min", 40, 30.0, "held", False),
        ("min", 40, None, "held", True),
        ("max", 40, 30.0, "failed", False),
    ],
)
def test_what_was_never_reached_is_above_every_limit(
    kind: str, limit: float, low: float | None, state: str, established: bool
):
    """As ``--min relearning_effort=20``: it is the best that can be found, and was a crash after hours."""
    gate = judge(
        kind, "relearning_effort", limit, {"relearning_effort": {"figures": {"audited": {**HARD, "low": low}}}}
    )
    assert (gate["state"], gate["value"], gate["established"]) == (state, math.inf, established)
    assert plain(gate)["value"] is None
    verdict, reasons = judge_all([gate])
    assert verdict == ("pass" if state == "held" else "fail")
    assert all("never reached" in reason for reason in reasons)


def judged(kind: str, limit: float, **figure: Any) -> tuple[str, bool]:
    gate = judge(kind, "f", limit, {"f": {"figures": {"audited": figure}}})
    return gate["state"], gate["established"]


def test_the_whole_interval_must_keep_to_the_limit():
    assert judged("max", 0.2, value=0.1, low=0.0, high=0.2) == ("held", True)
    assert judged("max", 0.2, value=0.1, low=0.0, high=0.3) == ("held", False)
    assert judged("min", 0.2, value=0.3, low=-math.inf, high=0.3) == ("held", False)
    assert judged("min", 0.2, value=0.1, low=0.0, high=0.3) == ("failed", False)


def test_a_gate_on_what_was_not_measured_is_skipped():
    gate = judge("max", "loss_auc", 0.5, {})
    assert (gate["state"], gate["value"]) == ("skipped", None)
    assert judge_all([gate])[0] == "not established"
