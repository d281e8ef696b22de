"""What a benchmark's cells cannot do is refused before a model is made or a cell is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rkld import UserError
from rkld.benching import comparing
from rkld.benching.benchmarks.people import People
from rkld.benching.cell_runs import unlearning_call
from rkld.benching.comparing import bench, plan
from rkld.benching.registry import open_benchmark

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weight arithmetic with LoRA": ({"methods": "npo+rt,task_arithmetic", "lora": True}, "changes all weights"),
    "nothing to merge": ({"methods": "npo+rt@merge=true"}, "nothing to merge"),
    "no such optimizer": ({"methods": "npo+rt@optim=adamm"}, "unknown optimizer"),
    "no refusals": ({"methods": "npo+rt,idk@refusals=nowhere.txt"}, "nowhere.txt"),
    "no untrue answers": ({"methods": "npo+rt,altpo"}, "altpo: it teaches untrue answers. forget record 1"),
    "too long for the model": ({"methods": "npo+rt@max_length=8"}, "8"),
}
WITHOUT_MODEL = ("no such optimizer", "no refusals")


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("a model was made or a cell run")

    for name in ("make_shared_model", "run_cells"):
        monkeypatch.setattr(comparing, name, run)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_first_cell(
    quick: dict[str, Any], four_people: type[People], tmp_path: Path, nothing_runs: None, case: str
):
    given, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        bench(four_people, **{**quick, **given}, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"data": "./nowhere", "model": "some/model"}, "nowhere: there is no such folder"),
        ({"data": "runs/nowhere/data", "splits": "mine", "model": "some/model"}, "there is no such folder"),
        ({"model": "./nowhere"}, "no model folder './nowhere'"),
        ({"original": "some/model", "retrained": "./nowhere/{split}"}, "no model folder './nowhere/forget01'"),
    ],
)
def test_a_plan_finds_folders_that_are_not_there(given: dict[str, Any], reason: str):
    """It planned 105 cells in 103 hours."""
    with pytest.raises(UserError, match=reason):
        plan("tofu", methods="rkld", **given)


def test_a_run_is_not_told_of_an_alpha_that_nobody_gave(quick: dict[str, Any], four_people: type[People]):
    opened = open_benchmark(four_people, {**quick, "methods": "npo+rt,npo+rt@alpha=3,rkld"})
    given = {}
    for cell in opened.cells():
        if cell.variant:
            given[cell.name] = unlearning_call(opened, cell, opened.task(cell.split, cell.seed)).settings.get("alpha")
    assert given == {"npo+rt": None, "npo+rt@alpha=3": 3, "rkld": 8.0}


def test_all_leaves_out_what_has_no_untrue_answers(quick: dict[str, Any], four_people: type[People]):
    """The first cell of it ended the whole comparison."""
    opened = open_benchmark(four_people, {**quick, "methods": "all"})
    assert "altpo" not in [cell.name for cell in opened.cells()]
    assert [why.split(".")[0] for why in opened.left_out] == ["altpo: it teaches untrue answers"]


@pytest.mark.parametrize("case", WITHOUT_MODEL)
def test_refused_before_the_original_is_made(four_people: type[People], tmp_path: Path, nothing_runs: None, case: str):
    given, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        bench(four_people, seeds=1, **given, out=str(tmp_path / "out"))


def test_a_folder_that_cannot_be_is_refused(four_people: type[People], tmp_path: Path, nothing_runs: None):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be made"):
        bench(four_people, seeds=1, methods="npo+rt", out=str(tmp_path / "file" / "out"))
