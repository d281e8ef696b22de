"""The benchmark for a GPU, which is rare: that all of it runs, in its time, and that its bars are judged."""

from __future__ import annotations

import itertools
import json
import time

import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu

CUDA = torch.cuda.is_available()


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(gpu.main, ["--json", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1 and "this needs a GPU" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("cases", [3, None], ids=["the first", "all"])
def test_a_dry_run(tmp_path, monkeypatch, cases):
    """Every loss and every step once; libraries that are not there are said to be not run, and hold no bar."""
    every = gpu.comparisons
    monkeypatch.setattr(gpu, "comparisons", lambda *given: itertools.islice(every(*given), cases))
    done = CliRunner().invoke(gpu.main, ["--dry-run", "--json", str(tmp_path / "gpu.json")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "gpu.json").read_text())
    for key, variants in found["results"]["measured"].items():
        for name, figures in variants.items():
            missing = name in ("liger_jsd", "trl_jsd") and figures.startswith("not run: ") and "time" not in figures
            assert isinstance(figures, dict) or missing, (key, name, figures)
    bars = found["results"]["bars"]
    if not CUDA and cases is None:  # a CPU's memory is not measured, so it holds no bar
        assert bars["7B.lora.batch8.peak_gb"]["stands"] == "not run"
    assert bars["1B.full.batch8.time.vs_answer_only_sft"]["stands"] in ("holds", "missed")
    assert "| 1B.full.batch8.time.vs_answer_only_sft | 1.1 |" in (tmp_path / "gpu.md").read_text()


def test_what_no_time_is_left_for_is_listed_as_not_run(monkeypatch):
    """Also where a case takes longer than all the time there is."""

    def endless() -> None:
        time.sleep(60)

    planned = [gpu.Comparison("slow", {"ours": lambda: endless}, "extra_bytes", {"time.vs_naive": 1.0}),
               gpu.Comparison("later", {"ours": lambda: endless, "sft": lambda: endless}, "extra_bytes"),
               gpu.Comparison("later", {"ours": lambda: endless, "naive": lambda: endless}, "extra_bytes")]  # fmt: skip
    monkeypatch.setattr(gpu, "comparisons", lambda sizes, folder: iter(planned))
    monkeypatch.setattr(gpu, "RESERVE", 0.0)
    shown: list[dict] = []
    found = gpu.run(gpu.TINY, 0.5 / 60, shown.append)
    assert {key: list(figures) for key, figures in found["measured"].items()} == {
        "slow": ["ours"], "later": ["ours", "sft", "naive"]
    }  # fmt: skip
    assert {value for figures in found["measured"].values() for value in figures.values()} == {gpu.NOT_RUN}
    assert found["bars"]["slow.time.vs_naive"]["stands"] == "not run"
    assert shown


def test_cases_that_several_comparisons_share_are_measured_once(monkeypatch):
    """GPU time is short, and a bar must be of the same figure as the ratio beside it."""
    made: list[str] = []

    def variant(name):
        return lambda: made.append(name) or (lambda: None)

    planned = [gpu.Comparison("it", {"ours": variant("ours"), name: variant(name)}, "extra_bytes")
               for name in ("sft", "naive")]  # fmt: skip
    monkeypatch.setattr(gpu, "comparisons", lambda sizes, folder: iter(planned))
    found = gpu.run(gpu.TINY, 1.0, lambda found: None)
    assert made == ["ours", "sft", "naive"]
    assert set(found["ratios"]) == {"it.time.vs_sft", "it.time.vs_naive"}


@pytest.mark.parametrize("mine, stands", [(1.0, "holds"), (1.2, "missed")])
def test_bars(mine, stands):
    comparison = gpu.Comparison("it", {}, "extra_bytes", {"time.vs_naive": 1.1, "peak_gb": 2.0})
    figures = {"ours": {"seconds": mine, "peak_bytes": 1e9 * mine + 1e9, "extra_bytes": 5},
               "naive": {"seconds": 1.0, "peak_bytes": 9e9, "extra_bytes": 10}}  # fmt: skip
    ratios, bars = gpu.judge(comparison, figures)
    assert ratios == {"it.time.vs_naive": mine, "it.memory.vs_naive": 0.5}
    assert bars["it.time.vs_naive"] == {"most": 1.1, "found": mine, "stands": stands}
    assert bars["it.peak_gb"]["stands"] == stands
