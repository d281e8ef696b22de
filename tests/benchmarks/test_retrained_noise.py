"""Models that never saw the records: every two once, also a control that stands in two audits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.retrained_noise import main


def audit(path: Path, **figures: dict[str, float | None]) -> str:
    metrics = {
        name: {"figures": {role: {"value": v} for role, v in values.items()}} for name, values in figures.items()
    }
    path.write_text(json.dumps({"metrics": metrics}), encoding="utf-8")
    return str(path)


def test_differences_are_of_every_two_models(tmp_path):
    one = audit(tmp_path / "1.json", p={"audited": 0.1, "control": 0.4}, trace_auc={"audited": 0.6})
    two = audit(tmp_path / "2.json", p={"audited": 0.2, "control": 0.4}, trace_auc={"audited": None})
    other = [audit(tmp_path / f"{n}.json", p={"audited": value}) for n, value in ((3, 1.0), (4, 0.0))]
    arguments = [f"{one},{two}", ",".join(other), "--results", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads((tmp_path / "out" / "retrained_noise.json").read_text())["results"]
    assert list(found) == ["p"], "a figure of one model has no difference"
    pairs = [0.3, 0.1, 0.2, 1.0]  # the first and the control, both audited, the second and the control; the others
    assert found["p"]["largest"] == 1.0
    assert found["p"]["pairs"] == len(pairs)
    assert found["p"]["mean"] == pytest.approx(sum(pairs) / len(pairs))
