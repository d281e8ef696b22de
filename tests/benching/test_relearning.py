"""What relearning brings back, as a figure of every benchmark: the audit's attack, on the state that was measured."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

from rkld import UserError
from rkld.auditing.attacks.relearning import relearn
from rkld.benching import cell_runs, relearning
from rkld.benching.benchmark import Measured
from rkld.benching.benchmarks.book import Book, BookSettings
from rkld.benching.benchmarks.lume import Lume, LumeSettings
from rkld.benching.benchmarks.people import People
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench
from rkld.benching.leaderboard import read_groups
from rkld.benching.leaderboard_page import leaderboard
from rkld.benching.registry import open_benchmark
from rkld.errors import Diverged
from rkld.evaluation.likelihood import probability
from rkld.models.adapters import new_adapter
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


def test_a_record_that_stands_twice_is_one(quick, four_people):
    """Else one copy would be taught and the other asked for."""
    task = open_benchmark(four_people, quick).task("people", 0)
    twice = dataclasses.replace(task, forget=[*task.forget, *task.forget])
    assert [record.question for record in twice.forgotten] == [record.question for record in task.forgotten]


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


def test_the_state_that_was_measured_is_the_one_that_is_attacked(quick, four_people, tmp_path, monkeypatch):
    """At every moment, with the seed of the cell; seconds of the attack are not the method's."""
    given: list[int] = []

    def attack(lm: Any, encoder: Any, task: Any, lr: float, seed: int, progress: Any) -> dict[str, float]:
        given.append(seed)
        time.sleep(0.2)
        found = probability(lm, [encoder.encode(record) for record in task.asked["forget"]])
        return {TWO[0]: float(found.mean()), TWO[1]: 0.0}

    monkeypatch.setattr(cell_runs, "relearning_figures", attack)
    settings = {**quick, "methods": "rkld", "relearning": True, "lr": 2e-3, "out": str(tmp_path)}
    bench(four_people, **settings)
    found = rows(tmp_path)
    assert len(found) == 5
    for key, row in found.items():
        assert float(row[TWO[0]]) == pytest.approx(float(row["forget_probability"]), rel=1e-4), key
    assert len({row[TWO[0]] for row in found.values()}) >= 4, "else one state's figures could stand for another's"
    opened = open_benchmark(four_people, settings)
    cell = dataclasses.replace(opened.cells()[0], seed=3)
    lm, encoder = opened.load(quick["retrained"])
    look = cell_runs._Look(opened, cell, opened.task("people", 0), encoder, lambda *_: Measured({}), NoProgress())
    look(lm)
    assert given[-1] == 3 and look.attacked >= 0.2


def test_an_adapter_is_attacked_in_all_weights_of_the_merged_model(quick, four_people):
    """By the few weights of its own it hardly relearns, and would look safer than a model that has none."""
    opened = open_benchmark(four_people, quick)
    lm, encoder = opened.load(quick["original"])
    task = opened.task("people", 0)
    plain = relearning.relearning_figures(lm, encoder, task, 2e-3, 0, NoProgress())
    adapter = new_adapter(lm, rank=2)  # changes nothing as it comes
    found = relearning.relearning_figures(adapter, encoder, task, 2e-3, 0, NoProgress())
    assert found == pytest.approx(plain, abs=1e-5)
    assert all((weight == 0).all() for name, weight in trainable_state(adapter).items() if "lora_B" in name)


def test_tables_that_a_benchmark_writes_itself_have_it(tmp_path):
    """Of LUME, whose aggregate is partial, and of a book: the attack was paid for and its figure dropped."""
    for name in ("lume", "book"):
        (tmp_path / name).mkdir()
    lume = Lume(LumeSettings(relearning=True, data="d", out=str(tmp_path / "lume")), Lume, "lume")
    lume.write({Cell("lume", 0, "original"): CONTENT}, {})
    book = Book(BookSettings(relearning=True, book="b.txt", model="m", out=str(tmp_path / "book")), Book, "book")
    book.write({Cell("book", 0, "original"): CONTENT}, {})
    for path in (tmp_path / "lume/results.md", tmp_path / "lume/results.csv", tmp_path / "book/book.csv",
                 tmp_path / "book/book.md"):  # fmt: skip
        assert "0.3125" in path.read_text(encoding="utf-8").replace("0.312 ", "0.3125 "), path


CONTENT: dict[str, Any] = {"moments": {"model": {"n": 2, TWO[0]: 0.3125, TWO[1]: 0.125}}, "trajectory": [],
                           "warnings": [], "seconds": 1.0, "device": "CPU"}  # fmt: skip


def test_seeds_without_it_and_infinite_figures_are_told_to_the_reader_and_the_sorting(tmp_path):
    """A mean over two of three seeds read as one of three; an infinite one sorted as the smallest."""
    head = "split,method,settings,moment,seed,step,epoch,n,left,kept,relearned_probability,note\n"
    lines = [f"s,{name},default,last epoch,{seed},4,2,5,0.2,0.8,{value},"
             for name, values in {"npo": (0.3, "", 0.5), "dpo": ("inf", 0.1, 0.2), "ga": (0.1, 0.1, 0.1)}.items()
             for seed, value in enumerate(values)]  # fmt: skip
    retrained = [f"s,retrained,,as it is,{seed},,,5,0.1,0.9,0.25," for seed in range(3)]
    (tmp_path / "results.csv").write_text(head + "\n".join([*retrained, *lines]) + "\n", encoding="utf-8")
    page = leaderboard(read_groups(str(tmp_path)), "made")
    assert "(2 of 3 seeds)" in page and page.count("of 3 seeds)") == 1
    after = re.findall(r'data-method="(\w+)".*?data-after="([^"]*)"', page)
    assert [name for name, _ in after] == ["retrained", "npo", "dpo", "ga"]
    assert [float(value) for _, value in after] == pytest.approx([0, 0.15, math.inf, 0.15])
    assert 'data-after="Infinity"' in page
    assert '<option value="after">' in page
    (tmp_path / "results.csv").write_text((head + "\n".join(retrained)).replace("relearned_", "other_"))
    assert '<option value="after">' not in leaderboard(read_groups(str(tmp_path)), "made")


def test_the_page_has_a_column_of_it_that_can_be_sorted(attacked):
    (group,) = read_groups(str(attacked))
    page = leaderboard([group], "made")
    assert "After relearning" in page
    shown = rows(attacked)["retrained", "as it is"][TWO[0]]
    assert f'<td class="num">{float(shown):.3g}</td>' in page
    assert 'data-after="0.0"' in page
    made = json.loads((attacked / "bench.json").read_text(encoding="utf-8"))
    assert "--relearning" in made["command"]
    assert made["titles"][TWO[0]] == "p after relearning"
    bare = [dataclasses.replace(e, values={k: v for k, v in e.values.items() if k not in TWO}) for e in group.entries]
    assert "After relearning <" not in leaderboard([dataclasses.replace(group, entries=bare)], "made")
