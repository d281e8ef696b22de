"""The benchmark: cells run once and go on where they stopped, tables come out the same, three moments of one run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from rkld import UserError, cli
from rkld.benching import cell_runs
from rkld.benching.benchmark import weights_bytes
from rkld.benching.cell_runs import unlearning_call
from rkld.benching.comparing import bench, plan
from rkld.benching.fine_tuned import calibrated_watch
from rkld.benching.planning import rough_model_seconds
from rkld.benching.question_benchmark import QuestionEvaluator
from rkld.benching.question_figures import FIGURES
from rkld.benching.registry import open_benchmark
from rkld.benching.tables import Table, markdown
from rkld.errors import Diverged
from rkld.evaluation.tofu import model_utility, read_logs
from rkld.models import smollm2
from rkld.stopping.rules.placebo import Placebo
from rkld.training import strengthening

METHODS = "rkld,npo+rt,task_arithmetic"
TRAINED = {"last epoch", "calibrated stop", "oracle peak"}


def rows(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def texts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("results.csv", "results.md", "trajectories.csv")}


# Tables


def test_each_method_has_its_three_moments_and_every_figure(done):
    """A moment that is missing, or a model utility without ROUGE-L, would make methods incomparable."""
    found = {name: {r["moment"] for r in rows(done) if r["method"] == name} for name in METHODS.split(",")}
    assert found == {"rkld": TRAINED, "npo+rt": TRAINED, "task_arithmetic": {"no student"}}
    assert {r["method"] for r in rows(done) if r["moment"] == "as it is"} == {"original", "retrained"}
    assert all(row[figure] for row in rows(done) for figure in FIGURES)
    assert {row["n"] for row in rows(done)} == {"20"}
    retrained = next(row for row in rows(done) if row["method"] == "retrained")
    assert float(retrained["ks_distance"]) == 0
    assert float(retrained["forget_quality"]) == 1


def test_likelihoods_of_every_epoch_agree_with_the_moments(done):
    """The restored state of a moment must be the state that the callback saw, and the last that of the run's end."""
    for method in ("rkld", "npo+rt"):
        way = {r["step"]: r for r in rows(done, "trajectories.csv") if r["method"] == method}
        assert list(way) == ["2", "4"]
        at = {r["moment"]: r for r in rows(done) if r["method"] == method}
        peak = min(way.values(), key=lambda row: float(row["ks_distance"]))
        assert at["oracle peak"]["step"] == peak["step"]
        assert at["last epoch"]["step"] == "4"
        for moment in ("oracle peak", "last epoch"):
            for figure in ("ks_distance", "forget_probability", "retain_probability", "likelihood_utility"):
                expected = float(way[at[moment]["step"]][figure])
                assert float(at[moment][figure]) == pytest.approx(expected, rel=1e-4), (method, moment, figure)


def test_an_epoch_of_reworded_records_has_as_many_steps_as_the_run_took(quick, four_people, tmp_path):
    """Each record counts twice there; counted once, the last epoch was the tenth of five, and a stop at the step that
    was taken for the last one got the figures of the end."""
    bench(four_people, **{**quick, "methods": "rkld@reword=1", "keep_models": True}, out=str(tmp_path))
    cell = tmp_path / "cells/people/seed0/rkld@reword=1"
    taken = json.loads((cell / "run/manifest.json").read_text())["phases"]["distillation"]["steps"]
    way = [
        (row["step"], float(row["epoch"])) for row in rows(tmp_path, "trajectories.csv") if "reword" in row["method"]
    ]
    assert taken == 8 and way == [("4", 1.0), ("8", 2.0)]
    last = next(row for row in rows(tmp_path) if row["moment"] == "last epoch")
    assert (last["step"], float(last["epoch"])) == ("8", 2.0)


def test_the_last_step_is_the_one_that_the_run_took(quick, four_people, tmp_path, monkeypatch):
    """Where some records cannot be reworded an epoch is shorter than the benchmark had thought."""
    monkeypatch.setattr(cell_runs, "steps_per_epoch", lambda *_: 3)
    bench(four_people, **{**quick, "methods": "rkld"}, out=str(tmp_path))
    last = next(row for row in rows(tmp_path) if row["moment"] == "last epoch")
    assert (last["step"], float(last["epoch"])) == ("4", 2.0)


def test_every_cell_leaves_results_that_open_unlearnings_readers_take(done):
    """The table's figures come out of them again, and the folder says how it was made."""
    short = {"last epoch": "last", "calibrated stop": "stop", "oracle peak": "oracle", "no student": "single"}
    for row in rows(done):
        moment = short.get(row["moment"], "model")
        logs = read_logs(done / "cells/people/seed0" / row["method"] / f"TOFU_EVAL.{moment}.json")
        utility = model_utility(**{name: logs[name] for name in ("retain", "real_authors", "world_facts")})
        assert utility.value == pytest.approx(float(row["model_utility"]), rel=1e-5)
        assert logs["forget"]["gold_loss"].shape == (20,)
    made = json.loads((done / "bench.json").read_text(encoding="utf-8"))
    assert made["forgotten"] == ["ks_distance"]
    assert "--questions 3" in " ".join(made["command"])
    assert "--methods" not in made["command"]


def test_finished_cells_are_not_run_again_and_give_the_same_tables(done, quick, four_people, monkeypatch):
    before = texts(done)
    monkeypatch.setattr(cell_runs, "run_cell", None)
    monkeypatch.setattr(cell_runs, "run_reference", None)
    bench(four_people, **quick, out=str(done))
    assert texts(done) == before


def test_nothing_of_the_records_stays(done):
    """Cells must leave neither models, which take the disk, nor answers, which are personal data."""
    cells = [path for path in (done / "cells").rglob("*") if path.is_file()]
    logs = [path for path in cells if path.name.startswith("TOFU_EVAL.")]
    assert {path.name for path in cells} - {path.name for path in logs} == {"cell.json"}
    assert not any(': "' in path.read_text(encoding="utf-8") for path in logs), "numbers alone"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", pytest.param("measuring", marks=pytest.mark.slow)])
def test_an_interrupted_cell_goes_on_and_comes_out_the_same(done, quick, four_people, tmp_path, monkeypatch, where):
    shutil.copytree(done, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "cells" / "people" / "seed0" / "rkld")
    with monkeypatch.context() as patch:
        if where == "training":
            ask = QuestionEvaluator.losses

            def cut(self, lm, answers):
                if (tmp_path / "again/cells/people/seed0/rkld/trajectory.jsonl").exists():
                    raise KeyboardInterrupt
                return ask(self, lm, answers)

            patch.setattr(QuestionEvaluator, "losses", cut)  # at the second epoch's check
        else:

            def stop(*_, **__):
                raise KeyboardInterrupt

            patch.setattr(cell_runs, "_moments", stop)
        with pytest.raises(KeyboardInterrupt):
            bench(four_people, **quick, out=str(tmp_path / "again"))
    left = tmp_path / "again/cells/people/seed0/rkld"
    assert (left / "oracle/evidence.jsonl").read_text().count("\n") == (1 if where == "training" else 2)
    bench(four_people, **quick, out=str(tmp_path / "again"))
    assert texts(tmp_path / "again") == texts(done)


def test_other_settings_in_the_same_folder_are_refused(done, quick, four_people):
    """Rows of two settings in one table would be compared as if they were one."""
    with pytest.raises(UserError, match=r"epochs: 2 then, 3 now"):
        bench(four_people, **{**quick, "epochs": 3}, out=str(done))


def test_an_interrupted_cell_is_gone_on_with_by_its_own_settings_alone(quick, four_people, tmp_path, monkeypatch):
    """A run does not know by which rule states were kept: another would look among them for what was deleted."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    settings = {**quick, "methods": "npo", "out": str(tmp_path)}
    monkeypatch.setattr(cell_runs, "run_unlearning", stop)
    with pytest.raises(KeyboardInterrupt):
        bench(four_people, **settings)
    for go in (bench, plan):
        with pytest.raises(UserError, match=r"stop: 'placebo' then, 'chance_rank' now"):
            go(four_people, **settings, stop="chance_rank")
    with pytest.raises(KeyboardInterrupt):  # by the same settings it goes on
        bench(four_people, **settings)


@pytest.mark.slow
def test_one_teacher_serves_every_alpha_and_changes_nothing(done, quick, four_people, tmp_path, monkeypatch):
    """A sweep must not strengthen anew for each alpha, nor come out otherwise than cell by cell."""
    trained = []
    monkeypatch.setattr(
        strengthening, "fine_tune", lambda *given, call=strengthening.fine_tune: trained.append(1) or call(*given)
    )
    bench(four_people, **{**quick, "methods": "rkld@alpha=4,rkld@alpha=8,forward_kl"}, out=str(tmp_path))
    assert len(trained) == 1
    once = {r["moment"]: {f: r[f] for f in FIGURES} for r in rows(tmp_path) if r["method"] == "rkld@alpha=8"}
    assert once == {r["moment"]: {f: r[f] for f in FIGURES} for r in rows(done) if r["method"] == "rkld"}
    assert not (tmp_path / "teachers").exists(), "hidden states of the records must not stay"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", "after"])
def test_a_training_that_diverges_is_a_row_without_figures(quick, four_people, tmp_path, monkeypatch, where):
    """One ruined model must not end a benchmark of hours, nor pass for one that forgot."""
    settings = {**quick, "methods": "npo,gradient_ascent"}
    if where == "training":

        def unlearn(data, values, call=cell_runs.run_unlearning, **how):
            if values["method"] == "npo":
                raise Diverged("at step 2 the loss is no number")
            return call(data, values, **how)

        monkeypatch.setattr(cell_runs, "run_unlearning", unlearn)
    else:
        asked = QuestionEvaluator.losses

        def ruined(self, lm, answers):
            found = asked(self, lm, answers)
            if answers and "npo" in lm.source:
                found["retain"]["gold_loss"][0] = float("nan")
            return found

        monkeypatch.setattr(QuestionEvaluator, "losses", ruined)
    found = bench(four_people, **settings, out=str(tmp_path))
    of_npo = [row for row in found.rows if row["method"].startswith("npo")]
    assert [row["note"] for row in of_npo] == ["diverged"] * 3
    assert not any("ks_distance" in row for row in of_npo)
    assert all("ks_distance" in row for row in found.rows if row not in of_npo)
    assert "last epoch (diverged: 1 of 1)" in (tmp_path / "results.md").read_text()


def test_the_calibrated_stop_refuses_what_a_run_would_refuse(quick, four_people, tmp_path, monkeypatch):
    """The row says where ``rkld unlearn`` would have stopped: it must not steer by a useless aim."""
    benchmark = open_benchmark(four_people, {**quick, "methods": "npo", "out": str(tmp_path)})
    (cell,) = [cell for cell in benchmark.cells() if cell.variant]
    lm, encoder = benchmark.load(quick["original"])
    call = unlearning_call(benchmark, cell, benchmark.task(cell.split, cell.seed))

    def watch() -> object:
        return calibrated_watch("placebo", call, lm, encoder, tmp_path / "stop")

    monkeypatch.setattr(Placebo, "refusal", lambda *_: None)
    assert watch() is not None
    monkeypatch.setattr(Placebo, "refusal", lambda *_: "it cannot steer")
    assert watch() is None


@pytest.mark.parametrize(("stop", "why"), [("exposure", "unknown stopping rule"), ("control", "needs --control")])
def test_a_stop_that_no_cell_could_follow_is_refused_first(tmp_path, stop, why):
    """Not after hours in which models are made."""
    for go in (bench, plan):
        with pytest.raises(UserError, match=why):
            go("people", stop=stop, out=str(tmp_path / "bench"))
    assert not (tmp_path / "bench").exists()


def test_numbers_below_0_and_beyond_reading_are_shown_with_their_digits():
    """PrivLeak of a model that remembers is −54, which is not −50; a perplexity may have three hundred digits."""
    rows = [
        {"split": "s", "method": "npo", "settings": "default", "moment": "last epoch", "seed": 0, "leak": leak}
        for leak in (-54.25, 1.0125e304, -2e-5)
    ]
    found = [markdown("t", Table(("leak",), (), {"leak": "leak"}, ""), [row]) for row in rows]
    assert [text.splitlines()[-1 - 2].split("|")[-2].strip() for text in found] == ["-54.250", "1.01e+304", "-2e-05"]


# The plan


def test_the_plan_runs_nothing_and_knows_what_is_done(done, quick, four_people, tmp_path):
    lines = plan(four_people, **{**quick, "methods": f"{METHODS},rkld+replay"}, out=str(done))
    assert sum("finished" in line for line in lines) == 5
    assert any("rkld+replay" in line and "as other methods here" in line for line in lines)
    lines = plan("people", out=str(tmp_path / "new"))
    assert "2 models" not in lines[-2]
    assert "and 6 models to make" in "".join(lines)
    assert "rough" in lines[0]
    assert not (tmp_path / "new").exists()


def test_the_alias_has_the_size_of_the_folder_that_it_was_fetched_to(tmp_path, monkeypatch):
    monkeypatch.setenv("RKLD_CACHE", str(tmp_path))
    assert weights_bytes(None, smollm2.ALIAS) is None
    smollm2.model_folder().mkdir()
    (smollm2.model_folder() / "model.safetensors").write_bytes(b"weights")
    assert weights_bytes(None, smollm2.ALIAS) == 7


def test_a_plan_counts_the_cores_that_it_may_use(monkeypatch, tmp_path):
    seconds = []
    for cores in ({0}, {0, 1, 2, 3}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        benchmark = open_benchmark("people", {"out": str(tmp_path / "new")})
        seconds.append(rough_model_seconds(benchmark))
    assert seconds[0] == pytest.approx(4 * seconds[1])


def test_the_command_plans_and_refuses_what_it_does_not_know(tmp_path):
    called = ["bench", "people", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, [*called, "--methods", "rkld", "--plan"])
    assert result.exit_code == 0
    assert "rkld" in result.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(cli.main, [*called, "--methods", "rkdl"])
    assert result.exit_code == 2
    assert "Did you mean 'rkld'?" in result.output
