"""The script for a GPU: what runs in which order, that it goes on, and that every command is one that can be run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from benchmarks import tofu_on_gpu as module
from rkld.benching.benchmarks.tofu import TofuSettings
from rkld.benching.variants import variants


def test_every_method_joins_every_table_and_ours_comes_first():
    found = list(module.steps(module.METHODS))
    assert Counter(part for part, _ in found) == dict.fromkeys(module.PARTS, len(module.METHODS))
    assert [part for part, methods in found if methods == "rkld"] == list(module.PARTS)
    first = [methods for part, methods in found if part == module.PARTS[0]]
    assert first == [",".join(module.METHODS[:n]) for n in range(1, len(module.METHODS) + 1)]
    others = next(i for i, (_, methods) in enumerate(found) if methods.count(",") > 1)
    assert {part for part, _ in found[:others]} == set(module.PARTS), "ours on every split before others' methods"


def test_the_settings_are_those_of_the_benchmark(tmp_path):
    for part in module.PARTS:
        made = TofuSettings(**module.settings(part, ",".join(module.METHODS), tmp_path, tmp_path, 1))
        assert made.split_names == [part.split]
        assert len(variants(made.methods)) == len(module.METHODS)


def test_a_page_is_written_after_each_step_over_what_is_there(tmp_path, monkeypatch):
    ran, pages = [], []

    def bench(name, progress, **settings):
        folder = Path(settings["out"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.csv").touch()
        ran.append((folder.name, settings["methods"]))

    monkeypatch.setattr(module, "bench", bench)
    monkeypatch.setattr(module, "write_leaderboard", lambda sources, out: pages.append(len(sources)) or out)
    monkeypatch.setattr(module, "METHODS", ("rkld", "rkld+replay", "npo+rt"))
    called = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    only = "llama3.2-1b_forget10,llama2_forget01"
    assert CliRunner().invoke(module.main, [*called, "--only", only]).exit_code == 0
    assert [methods for _, methods in ran] == ["rkld", "rkld,rkld+replay"] * 2 + ["rkld,rkld+replay,npo+rt"] * 2
    assert pages == [1, 1, 2, 2, 2, 2]
    assert CliRunner().invoke(module.main, [*called, "--only", "llama9"]).exit_code == 2
