"""What relearning brings back, as a figure of every benchmark: the audit's attack, on the state that was measured."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rkld import UserError
from rkld.auditing.attacks.relearning import relearn
from rkld.benching import relearning
from rkld.benching.benchmarks.people import People
from rkld.benching.comparing import bench
from rkld.benching.leaderboard import read_groups
from rkld.benching.leaderboard_page import leaderboard
from rkld.benching.registry import open_benchmark
from rkld.errors import Diverged
from rkld.models.state import trainable_state
from rkld.progress import NoProgress
from rkld.records.reading import read_records

TWO = "relearned_probability", "relearning_gain"


@pytest.fixture(scope="module")
def attacked(quick: dict[str, Any], four_people: type[People], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small benchmark, finished with relearning, models kept."""
    folder = tmp_path_factory.mktemp("attacked")
    given = {**quick, "methods": "rkld,uld"}
    bench(four_people, **given, relearning=True, keep_models=True, lr=2e-3, out=str(folder))
    return folder


def rows(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8") as file:
        return {(row["method"], row["moment"]): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("who", ["retrained", "original", "rkld"])
def test_it_is_the_audits_attack_at_the_benchmarks_rate(attacked, quick, four_people, who):
    opened = open_benchmark(four_people, quick)
    where = attacked / "cells/people/seed0/rkld/run/model" if who == "rkld" else quick[who]
    lm, encoder = opened.load(where)
    records = read_records(opened.task("people", 0).forget, "forget")
    curve = relearn(lm, encoder, records, share=0.2, epochs=10, lr=2e-3, seed=0).curve
    found = rows(attacked)[who, "last epoch" if who == "rkld" else "as it is"]
    assert float(found[TWO[0]]) == pytest.approx(curve[-1], rel=1e-4)
    assert float(found[TWO[1]]) == pytest.approx(curve[-1] - curve[0], abs=1e-5)
    assert abs(curve[-1] - curve[0]) > 5e-4, "else it shows nothing"


def test_every_moment_of_a_student_has_it_and_two_models_have_none(attacked):
    found = rows(attacked)
    for (method, moment), row in found.items():
        assert all(bool(row[name]) == (method != "uld") for name in TWO), (method, moment)
    assert {moment for method, moment in found if method == "rkld"} == {"last epoch", "calibrated stop", "oracle peak"}


def test_other_figures_and_models_are_what_they_are_without_it(attacked, quick, four_people, tmp_path):
    bench(four_people, **{**quick, "methods": "rkld"}, lr=2e-3, out=str(tmp_path))
    plain, with_it = rows(tmp_path), rows(attacked)
    for key, row in plain.items():
        assert {name: value for name, value in with_it[key].items() if name not in TWO} == row
    text = (attacked / "results.md").read_text(encoding="utf-8")
    assert "p after relearning" in text and "a fine-tuning on this fifth" in text
    assert "relearning" not in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_it_is_part_of_a_cell_but_not_of_its_models_nor_of_the_tuning(quick, four_people):
    opened = {on: open_benchmark(four_people, {**quick, "relearning": on}) for on in (True, False)}
    (cell, *_) = (one for one in opened[True].cells() if one.variant)
    assert opened[True].identity(cell) == {**opened[False].identity(cell), "relearning": True}
    tuned = dataclasses.replace(cell, tuning=True)
    assert opened[True].identity(tuned) == opened[False].identity(tuned)
    assert not opened[True].relearns(tuned)
    base = super(People, opened[True])
    assert "relearning" not in base.model_identity("original", "people", 0)


def test_one_record_is_refused_before_anything_is_made(quick, four_people, tmp_path):
    class OneRecord(four_people):
        """One record to forget."""

        def task(self, split: str, seed: int) -> Any:
            found = super().task(split, seed)
            return dataclasses.replace(found, forget=found.forget[:1])

    with pytest.raises(UserError, match=r"--relearning, people: .* of 1 records trains on 1 and leaves 0"):
        bench(OneRecord, **quick, relearning=True, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_processes_that_cannot_share_a_step_are_refused(quick, four_people, monkeypatch):
    monkeypatch.setattr(relearning.processes, "count", lambda: 3)
    with pytest.raises(UserError, match="--relearning: a step's 4 records cannot be split evenly over 3 processes"):
        relearning.check_relearning(open_benchmark(four_people, quick).task("people", 0), "people")


@pytest.mark.parametrize("how", ["raises", "no number"])
def test_a_fine_tuning_that_diverges_leaves_the_other_figures(quick, four_people, monkeypatch, how):
    opened = open_benchmark(four_people, quick)
    lm, encoder = opened.load(quick["original"])
    before = {name: weight.clone() for name, weight in trainable_state(lm).items()}

    def diverges(*_: Any, **__: Any) -> Any:
        if how == "raises":
            raise Diverged("so")
        found = relearn(lm, encoder, read_records(opened.task("people", 0).forget, "forget"), epochs=1, lr=1e-3)
        return dataclasses.replace(found, probabilities=tuple((float("nan"),) for _ in found.probabilities))

    monkeypatch.setattr(relearning, "relearn", diverges)
    task = opened.task("people", 0)
    found = relearning.relearning_figures(lm, encoder, task, 1e-3, 0, NoProgress())
    assert found == dict.fromkeys(TWO)
    assert all((before[name] == weight).all() for name, weight in trainable_state(lm).items())


def test_the_page_has_a_column_of_it_that_can_be_sorted(attacked):
    (group,) = read_groups(str(attacked))
    page = leaderboard([group], "made")
    assert "After relearning" in page
    shown = rows(attacked)["retrained", "as it is"][TWO[0]]
    assert f'<td class="num">{float(shown):.3g}</td>' in page
    assert f'data-relearned="{float(shown)}"' in page
    made = json.loads((attacked / "bench.json").read_text(encoding="utf-8"))
    assert "--relearning" in made["command"]
    assert made["titles"][TWO[0]] == "p after relearning"
    bare = [dataclasses.replace(e, values={k: v for k, v in e.values.items() if k not in TWO}) for e in group.entries]
    assert "After relearning <" not in leaderboard([dataclasses.replace(group, entries=bare)], "made")
