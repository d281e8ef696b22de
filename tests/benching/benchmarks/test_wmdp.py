"""WMDP on made-up texts: what is forgotten and kept, what lm-eval is asked, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rkld.benching.benchmarks import wmdp as module
from rkld.benching.benchmarks.wmdp import Wmdp
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench, plan
from rkld.benching.registry import open_benchmark
from rkld.errors import UserError
from rkld.progress import NoProgress

FORGET = ["A lock is opened by lifting its pins one by one.", "A short note."]


@pytest.fixture
def given(small: Path, tmp_path: Path) -> dict:
    for name, texts in {"forget": FORGET, "retain": ["A garden is watered in the morning."]}.items():
        lines = (json.dumps({"title": "x", "text": text}) + "\n" for text in texts)
        (tmp_path / f"cyber-{name}-corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "model": str(small),
        "forget_corpus": f"{tmp_path}:cyber-forget-corpus",
        "retain_corpus": f"{tmp_path}:cyber-retain-corpus",
        "chunk_tokens": 16,
        "methods": "gradient_ascent",
        "epochs": 1,
        "out": str(tmp_path / "out"),
    }


def opened(given: dict, **settings: object) -> Wmdp:
    found = open_benchmark("wmdp", {**given, **settings})
    assert isinstance(found, Wmdp)
    return found


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list:
    """What lm-eval is called with; its answers are in tenths, by the place of the task."""
    called = []

    def general_ability(lm, tasks, **settings):
        called.append((tuple(tasks), settings))
        return {task: {"accuracy": (i + 1) / 10, "stderr": 0.01, "n": 5} for i, task in enumerate(tasks)}

    monkeypatch.setattr(module, "general_ability", general_ability)
    return called


def test_all_of_each_text_is_forgotten_and_kept_cut_text_by_text(given):
    task = opened(given).task("wmdp", 0)
    rows = [row["text"] for row in task.forget]
    assert rows[-1] == FORGET[1], "no chunk goes over the end of a text"
    assert "".join(rows[:-1]) == FORGET[0]
    assert len(rows) > 2
    assert "".join(row["text"] for row in task.retain).startswith("A garden")
    assert opened(given, texts=1, retain_corpus=None).task("wmdp", 0).retain is None


def test_blank_texts_are_passed_over(given, tmp_path):
    """Of Wikitext, which RMU keeps, a third of the rows are blank."""
    path = tmp_path / "cyber-retain-corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", " = Moss = ", "")), encoding="utf-8")
    benchmark = opened(given, texts=1)
    benchmark.check()
    assert [row["text"] for row in benchmark.task("wmdp", 0).retain] == [" = Moss = "]
    path.write_text('{"text": " "}\n', encoding="utf-8")
    with pytest.raises(UserError, match="holds no text, or blank ones alone"):
        opened(given).check()


def test_corpora_are_known_by_what_they_hold(given, tmp_path):
    """Cells of other texts at the same place would stand in one table."""
    cell = Cell("wmdp", 0, "original")
    before = opened(given).identity(cell)
    (tmp_path / "cyber-retain-corpus.jsonl").rename(tmp_path / "cyber-retain-corpus-00000-of-00001.jsonl")
    assert opened(given).identity(cell) == before
    (tmp_path / "cyber-forget-corpus.jsonl").write_text('{"text": "Another."}\n', encoding="utf-8")
    assert opened(given).identity(cell) != before


def test_figures_are_lm_evals_by_name(given, harness, tmp_path):
    benchmark = opened(given, tasks="wmdp_cyber,mmlu", limit=7, task_folder=str(tmp_path))
    lm, encoder = benchmark.load(given["model"])
    found = benchmark.evaluator(Cell("wmdp", 0, "x"), benchmark.task("wmdp", 0), encoder, {})(lm, NoProgress())
    assert harness == [(("wmdp_cyber", "mmlu"), {"limit": 7, "task_folder": str(tmp_path)})]
    assert found.figures["wmdp_cyber"] == 0.1
    assert found.figures["mmlu"] == 0.2
    assert found.figures["mmlu_stderr"] == 0.01
    assert "wmdp_bio" not in found.figures, "not measured is no number"


def test_what_cannot_be_is_refused(given, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "ok"}\n{"passage": "secret"}\n', encoding="utf-8")
    for settings, message in (
        ({"model": ""}, "--model is missing"),
        ({"forget_corpus": ""}, "--forget-corpus is missing"),
        ({"forget_corpus": str(tmp_path / "none.jsonl")}, "there is no file"),
        ({"forget_corpus": str(tmp_path / "bad.jsonl")}, "line 2: 'text' must hold a text"),
        ({"tasks": "wmdp_bioo"}, "unknown task 'wmdp_bioo'. Did you mean 'wmdp_bio'"),
        ({"tasks": ","}, "--tasks names none"),
        ({"task_folder": str(tmp_path / "none")}, "--task-folder .*there is no such folder"),
        ({"methods": "npo+rt", "retain_corpus": None}, "--retain-corpus"),
    ):
        with pytest.raises(UserError, match=message) as error:
            opened(given, **settings).check()
        assert "secret" not in str(error.value)


def test_tasks_of_ones_own_are_known_by_their_contents(given, tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "wmdp_bio.yaml").write_text("task: wmdp_bio\n", encoding="utf-8")
    cell = Cell("wmdp", 0, "original")
    before = opened(given, task_folder=str(folder)).identity(cell)
    (folder / "wmdp_bio.yaml").write_text("task: wmdp_bio\nnum_fewshot: 0\n", encoding="utf-8")
    assert opened(given, task_folder=str(folder)).identity(cell) != before


@pytest.mark.slow
def test_it_runs_from_end_to_end(given, harness):
    assert "2 cells, 2 to run" in "\n".join(plan("wmdp", **given))
    found = bench("wmdp", **given)
    assert {row["method"]: row["mmlu"] for row in found.rows} == {"original": 0.3, "gradient_ascent": 0.3}
    assert len(harness) == 2
