"""Gates: limits on figures, and the verdict over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def judge(kind: str, name: str, limit: float, named: Mapping[str, Any]) -> dict[str, Any]:
    """How one gate ended. ``established``: the whole interval lies on the right side, not the value alone.

    A value or an end that is None was not reached, however far one went: it counts as infinite.
    """
    gate = {"name": name, "kind": kind, "limit": limit}
    figure = named.get(name, {}).get("figures", {}).get("audited")
    if figure is None:
        return {**gate, "state": "skipped", "value": None, "established": False}
    sign = 1 if kind == "max" else -1
    value, end = (_number(figure[name]) for name in ("value", "high" if kind == "max" else "low"))
    held = sign * value <= sign * limit
    if held and figure.get("unmeasured") and sign * end > sign * limit:  # what was not measured may lie beyond it
        return {**gate, "state": "skipped", "value": None, "established": False}
    return {
        **gate,
        "state": "held" if held else "failed",
        "value": value,
        "established": held and sign * end <= sign * limit,
    }


def _number(found: float | None) -> float:
    return math.inf if found is None else found


def judge_all(gates: Sequence[Mapping[str, Any]], doubts: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Verdict and reasons: "fail" where a gate failed; "not established" where one was skipped, none was set, or there
    are ``doubts``, reasons why the figures can establish nothing; else "pass"."""
    if not gates:
        return "not established", [
            "no gate was set: give thresholds with --max NAME=VALUE and --min NAME=VALUE",
            *doubts,
        ]
    reasons = [
        f"{gate['name']} was not measured"
        if gate["state"] == "skipped"
        else f"{gate['name']} {_words(gate['value'])}, the limit is {gate['kind']} {gate['limit']:g}"
        for gate in gates
        if gate["state"] != "held"
    ]
    states = {gate["state"] for gate in gates}
    verdict = "fail" if "failed" in states else "not established" if "skipped" in states or doubts else "pass"
    return verdict, [*reasons, *doubts]


def _words(value: float) -> str:
    return "was never reached" if math.isinf(value) and value > 0 else f"is {value:.4g}"
