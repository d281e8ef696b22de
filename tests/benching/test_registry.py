"""A fourth benchmark from outside the package, in one file: found by decorator, entry point or FILE.py:NAME."""

from __future__ import annotations

import csv
import importlib.metadata
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from rkld import UserError, cli
from rkld.benching.comparing import bench
from rkld.benching.registry import BENCHMARKS, titles
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.models.loading import load_model
from rkld.models.saving import save_model

FILE = '''
"""Forget what a colour is."""

from dataclasses import dataclass

from rkld.benching.benchmark import Benchmark, Evaluator, Measured, Task, Tuning, Workload
from rkld.benching.registry import BENCHMARKS
from rkld.benching.tables import Table
from rkld.evaluation.summary import measure
from rkld.records.reading import read_records
from rkld.settings.benching import BenchSettings
from rkld.settings.specification import setting

COLOURS = {"forget": {"amber": "yellow", "teal": "green"}, "retain": {"ruby": "red", "coal": "black"}}


@dataclass(frozen=True)
class ColourSettings(BenchSettings):
    model: str = setting("", "The model.", affects="figures")
    tune: bool = setting(False, "Choose learning rates.", affects="nothing")


@BENCHMARKS.register("colours")
class Colours(Benchmark):
    """Forget what a colour is."""

    settings_class = ColourSettings
    table = Table(("forget_probability", "retain_probability"), (), {"forget_probability": "forget p"}, "- p: mean.")

    def splits(self):
        return ["colours"]

    def tuning(self):
        rates = [self.settings.lr, 2 * self.settings.lr]
        tuning = Tuning("others", 0, rates, lambda figures: (figures["forget_probability"],))
        return tuning if self.settings.tune else None

    def task(self, split, seed):
        rows = {
            name: [{"question": f"What is {a}?", "answer": f"It is {b}."} for a, b in pairs.items()]
            for name, pairs in COLOURS.items()
        }
        asked = {name: read_records(some, name) for name, some in rows.items()}
        return Task(rows["forget"], asked, retain=rows["retain"])

    def given_model(self, role, split, seed):
        return self.settings.model

    def train_model(self, role, split, seed, folder, progress):
        raise NotImplementedError

    def evaluator(self, cell, task, encoder, references):
        return ColourEvaluator(task, encoder)

    def workload(self):
        return Workload(forget=2, answers=4, tokens=20, model_bytes=10_000_000)


class ColourEvaluator(Evaluator):
    def __init__(self, task, encoder):
        self.task, self.encoder = task, encoder

    def __call__(self, lm, progress):
        found = {
            f"{name}_probability": measure(lm, self.encoder, records, answers=False).probability
            for name, records in self.task.asked.items()
        }
        return Measured({"n": 2, **found})
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "colours.py").write_text(FILE, encoding="utf-8")
    save_model(load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer()), folder / "model")
    return str(folder / "colours.py")


@pytest.fixture
def given(file) -> dict:
    return {"model": str(Path(file).parent / "model"), "methods": "npo,gradient_ascent", "epochs": 1, "lr": 1e-3}


def run(*arguments: object):
    return CliRunner().invoke(cli.main, ["bench", *map(str, arguments)])


@pytest.mark.slow
def test_a_file_of_ones_own_runs_through_cells_tuning_tables_and_resume(file, given, tmp_path):
    """And its settings are options of the command line, as those of the shipped ones."""
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    called = (f"{file}:Colours", *flags, "--tune", "--out", tmp_path)
    planned = run(*called, "--plan")
    assert planned.exit_code == 0
    assert "10 cells, 10 to run" in planned.output
    assert "gradient_ascent" in planned.output
    result = run(*called)
    assert result.exit_code == 0, result.output
    with open(tmp_path / "results.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["method"] for row in rows][:3] == ["original", "npo", "gradient_ascent"]
    assert {row["settings"] for row in rows} >= {"tuned", "default"} or {"default = tuned"} <= {
        r["settings"] for r in rows
    }
    probability = {row["method"]: float(row["forget_probability"]) for row in rows}
    assert probability["gradient_ascent"] < probability["original"]
    before = (tmp_path / "results.csv").read_bytes(), sorted(tmp_path.rglob("cell.json"))
    stamps = [path.stat().st_mtime_ns for path in before[1]]
    assert run(*called).exit_code == 0
    assert (tmp_path / "results.csv").read_bytes() == before[0]
    assert [path.stat().st_mtime_ns for path in before[1]] == stamps, "finished cells are not run again"
    result = run(*called, "--epochs", 2)
    assert result.exit_code == 2
    assert "epochs: 1 then, 2 now" in result.output
    Path(file).write_text(FILE.replace('"yellow"', '"orange"'), encoding="utf-8")
    result = run(*called)
    Path(file).write_text(FILE, encoding="utf-8")
    assert result.exit_code == 2
    assert "benchmark's file" in result.output, "an edited benchmark is another one"


@pytest.mark.slow
def test_several_processes_find_a_benchmark_of_ones_own_file(file, given, tmp_path):
    """Its class cannot be sent to another process, which does not know the file's module."""
    found = bench(f"{file}:Colours", **given, jobs=2, out=str(tmp_path))
    assert [row["method"] for row in found.rows] == ["original", "npo", "gradient_ascent"]


def test_the_shipped_ones_are_found_with_a_line_each_and_the_nearest_name_is_shown():
    assert titles().keys() >= {"tofu", "people", "book"}
    assert all(titles().values())
    assert {name for name, _ in BENCHMARKS.items()} >= titles().keys()
    assert all(name in run("--help").output for name in titles())
    result = run("toffu", "--plan")
    assert result.exit_code == 2
    assert "Did you mean 'tofu'?" in result.output


def test_every_shipped_benchmark_stands_in_the_documentation_and_names_figures_of_its_own():
    """A row of the table, a test file, and figures for the page that compares."""
    root = Path(__file__).resolve().parents[2]
    table = re.findall(r"^\| `(\w+)` \|", (root / "docs/benchmarks.md").read_text(encoding="utf-8"), re.M)
    assert sorted(table) == sorted(titles())
    for name in titles():
        assert (root / f"tests/benching/benchmarks/test_{name}.py").is_file()
        shown = BENCHMARKS.get(name).table
        named = {*shown.forgotten, *shown.utility, *([shown.remaining] if shown.remaining else [])}
        assert named <= set(shown.figures), name
        assert set(shown.titles) <= {*shown.figures, "epoch", "n"}, name


def test_another_packages_benchmark_is_found_by_its_entry_point(monkeypatch):
    point = importlib.metadata.EntryPoint("others", "rkld.benching.benchmarks.people:People", BENCHMARKS.group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == BENCHMARKS.group else [])
    monkeypatch.setattr(BENCHMARKS, "_loaded", False)
    monkeypatch.setattr(BENCHMARKS, "_entries", dict(BENCHMARKS._entries))
    assert BENCHMARKS.get("others") is BENCHMARKS.get("people")
    assert "others" in titles()


def test_a_setting_that_is_not_the_benchmarks_is_refused(file):
    with pytest.raises(UserError, match="unknown setting 'splits'"):
        bench(f"{file}:Colours", splits="x")
