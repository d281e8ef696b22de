"""Plots, and the axis of forget quality."""

from __future__ import annotations

import sys

import pytest

from rkld.benching import plots
from rkld.benching.comparing import bench

pytestmark = pytest.mark.slow


def test_plots_are_drawn_and_their_absence_does_not_cost_the_tables(done, quick, four_people, monkeypatch):
    pytest.importorskip("matplotlib")
    for name in ("quality_people.png", "forgetting_people.png"):
        assert (done / name).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = bench(four_people, **quick, out=str(done))
    assert any("rkld[plots]" in note for note in found.notes)
    assert (done / "results.md") in found.files


def test_the_axis_is_linear_above_a_twentieth_and_logarithmic_below():
    assert plots._bend(0.05) == 0
    assert plots._bend(0.55) - plots._bend(0.3) == pytest.approx(plots._bend(0.3) - plots._bend(0.05))
    assert plots._bend(5e-4) - plots._bend(5e-5) == pytest.approx(plots._bend(5e-3) - plots._bend(5e-4))
    for value in (1.0, 0.2, 0.05, 1e-3, 1e-10):
        assert plots._unbend(plots._bend(value)) == pytest.approx(value)
