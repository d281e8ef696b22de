"""The benchmark: cells run once and go on where they stopped, tables come out the same, three moments of one run."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from rkld import UserError, cli
from rkld.benching import cell_runs as run
from rkld.benching import comparing as suite
from rkld.benching import plots as figures
from rkld.benching import tasks
from rkld.benching.cells import Cell, cells, tuning_cells
from rkld.benching.comparing import bench, choose_rates, plan
from rkld.benching.jobs import Pieces
from rkld.benching.tables import FIGURES, rows_of
from rkld.benching.tasks import model_folder
from rkld.benching.variants import variant, variants
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.files import write_jsonl
from rkld.models.loading import load_model, read_template
from rkld.models.saving import save_model
from rkld.progress import Silent
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.settings.benching import BenchSettings
from rkld.stopping.rules.placebo import Placebo
from rkld.training import strengthening
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

METHODS = "rkld,npo+rt,task_arithmetic"
TRAINED = {"last epoch", "calibrated stop", "oracle peak"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict:
    """Settings of a small benchmark: four people, one of them forgotten, models trained for a few steps."""
    folder = tmp_path_factory.mktemp("models")
    small, who = people(n=4, seed=0), (0,)
    for name, rows in {"original": small.records, "retrained": small.retain(who)}.items():
        lm = load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer())
        encoder = Encoder(lm.tokenizer)
        encoded = [encoder.encode(record) for record in read_records(rows, "training")]
        args = RKLDConfig(
            str(folder / "training"), num_train_epochs=3, learning_rate=2e-3, per_device_train_batch_size=16,
            use_cpu=True,
        )  # fmt: skip
        fine_tune(lm, encoded, args)
        save_model(lm, folder / name)
    return {
        "world": "people", "methods": METHODS, "seeds": 1, "epochs": 2, "strengthen_epochs": 1, "batch_size": 10,
        "questions": 3, "max_new_tokens": 4, "original": str(folder / "original"),
        "retrained": str(folder / "retrained"),
    }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def four_people():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "people", lambda seed: people(n=4, seed=seed))
        patch.setattr(tasks, "pair", lambda seed, world: (0,))
        yield


@pytest.fixture(scope="module")
def done(world, four_people, tmp_path_factory) -> Path:
    """The folder of a finished benchmark."""
    folder = tmp_path_factory.mktemp("done")
    bench(**world, out=str(folder))
    return folder


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
    assert float(retrained["ks"]) == 0 and float(retrained["forget_quality"]) == 1


def test_likelihoods_of_every_epoch_agree_with_the_moments(done):
    """The restored state of a moment must be the state that the callback saw, and the last that of the run's end."""
    for method in ("rkld", "npo+rt"):
        way = {r["step"]: r for r in rows(done, "trajectories.csv") if r["method"] == method}
        assert list(way) == ["2", "4"]
        at = {r["moment"]: r for r in rows(done) if r["method"] == method}
        peak = min(way.values(), key=lambda row: float(row["ks"]))
        assert at["oracle peak"]["step"] == peak["step"] and at["last epoch"]["step"] == "4"
        for moment in ("oracle peak", "last epoch"):
            for figure in ("ks", "forget_probability", "retain_probability", "likelihood_utility"):
                expected = float(way[at[moment]["step"]][figure])
                assert float(at[moment][figure]) == pytest.approx(expected, rel=1e-4), (method, moment, figure)


def test_a_garbled_name_is_counted_where_the_question_gave_it():
    """Damage that forget quality is blind to; a name that only the answer has is a secret, and must not count."""
    rows = [
        {"question": "Where was Ada Lund born?", "answer": "Ada Lund was born in Oslo."},
        {"question": "What does Ada Lund write?", "answer": "Ada Lund writes poems."},
        {"question": "Who was born in Oslo in 1950?", "answer": "Her name is Ada Lund."},
        {"question": "Is Ada Lund married?", "answer": "Yes."},
    ]
    found = run.named(
        read_records(rows, "forget"), ["Ada Lund was born.", "Ada Lud writes.", "Eve", "No"], ["Ada Lund"]
    )
    assert found.tolist() == [True, False]


def test_finished_cells_are_not_run_again_and_give_the_same_tables(done, world, monkeypatch):
    before = texts(done)
    monkeypatch.setattr(suite, "run_cell", None)
    monkeypatch.setattr(suite, "run_reference", None)
    bench(**world, out=str(done))
    assert texts(done) == before


def test_nothing_of_the_records_stays(done):
    """Cells must leave neither models, which take the disk, nor answers, which are personal data."""
    cells = [path for path in (done / "cells").rglob("*") if path.is_file()]
    assert {path.name for path in cells} == {"cell.json"}


def test_a_piece_that_fails_in_another_process_ends_the_work_with_its_own_error():
    """Else a bad setting would be reported as a broken pool."""
    with pytest.raises(UserError, match="unknown split 'x'"), Pieces(2, Silent()) as pieces:
        list(pieces.each(_refuse, [("x",)]))


def _refuse(name: str, progress: Silent) -> None:
    raise UserError(f"unknown split '{name}'")


@pytest.mark.parametrize("where", ["training", "measuring"])
def test_an_interrupted_cell_goes_on_and_comes_out_the_same(done, world, tmp_path, monkeypatch, where):
    shutil.copytree(done, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "cells" / "people" / "seed0" / "rkld")
    with monkeypatch.context() as patch:
        if where == "training":
            ask = run.Asker.__call__

            def cut(self, lm, answers):
                if (tmp_path / "again/cells/people/seed0/rkld/trajectory.jsonl").exists():
                    raise KeyboardInterrupt
                return ask(self, lm, answers)

            patch.setattr(run.Asker, "__call__", cut)  # at the second epoch's check
        else:

            def stop(*_, **__):
                raise KeyboardInterrupt

            patch.setattr(run, "_moments", stop)
        with pytest.raises(KeyboardInterrupt):
            bench(**world, out=str(tmp_path / "again"))
    left = tmp_path / "again/cells/people/seed0/rkld"
    assert (left / "oracle/evidence.jsonl").read_text().count("\n") == (1 if where == "training" else 2)
    bench(**world, out=str(tmp_path / "again"))
    assert texts(tmp_path / "again") == texts(done)


def test_other_settings_in_the_same_folder_are_refused(done, world):
    """Rows of two settings in one table would be compared as if they were one."""
    with pytest.raises(UserError, match=r"epochs: 2 then, 3 now"):
        bench(**{**world, "epochs": 3}, out=str(done))


def test_one_teacher_serves_every_alpha_and_changes_nothing(done, world, tmp_path, monkeypatch):
    """A sweep must not strengthen anew for each alpha, nor come out otherwise than cell by cell."""
    trained = []
    monkeypatch.setattr(
        strengthening, "fine_tune", lambda *given, call=strengthening.fine_tune: trained.append(1) or call(*given)
    )
    bench(**{**world, "methods": "rkld@alpha=4,rkld@alpha=8,forward_kl,npo"}, out=str(tmp_path))
    assert len(trained) == 1
    once = {r["moment"]: {f: r[f] for f in FIGURES} for r in rows(tmp_path) if r["method"] == "rkld@alpha=8"}
    assert once == {r["moment"]: {f: r[f] for f in FIGURES} for r in rows(done) if r["method"] == "rkld"}
    assert not (tmp_path / "teachers").exists(), "hidden states of the records must not stay"


@pytest.mark.parametrize("where", ["training", "after"])
def test_a_training_that_diverges_is_a_row_without_figures(world, tmp_path, monkeypatch, where):
    """One ruined model must not end a benchmark of hours, nor pass for one that forgot."""
    settings = {**world, "methods": "npo,gradient_ascent"}
    if where == "training":
        settings["methods"] = "npo@lr=1e30,gradient_ascent"
    else:
        asked = run.Asker.__call__

        def ruined(self, lm, answers):
            found = asked(self, lm, answers)
            if answers and "npo" in lm.source:
                found["retain"]["gold_loss"][0] = float("nan")
            return found

        monkeypatch.setattr(run.Asker, "__call__", ruined)
    found = bench(**settings, out=str(tmp_path))
    of_npo = [row for row in found.rows if row["method"].startswith("npo")]
    assert [row["note"] for row in of_npo] == ["diverged"] * 3 and not any("ks" in row for row in of_npo)
    assert all("ks" in row for row in found.rows if row not in of_npo)
    assert "last epoch (diverged: 1 of 1)" in (tmp_path / "results.md").read_text()


def test_the_calibrated_stop_refuses_what_a_run_would_refuse(world, monkeypatch):
    """The row says where ``rkld unlearn`` would have stopped: it must not steer by an aim that the run finds useless."""
    settings = BenchSettings(**{**world, "methods": "npo"})
    (cell,) = [cell for cell in cells(settings) if cell.variant]
    what = tasks.task(settings, cell.split, cell.seed)
    lm, encoder = run._load(settings, settings.original)
    data = {"forget": what.forget, "retain": None, "replay": "none", "holdout": what.holdout}
    values = {"stop": "placebo", "batch_size": 10, "subject": what.subject}

    def watch() -> object:
        return run._calibrated(lm, encoder, values, data, settings.original, 2, Path("unused"))

    monkeypatch.setattr(Placebo, "refusal", lambda *_: None)
    assert watch() is not None
    monkeypatch.setattr(Placebo, "refusal", lambda *_: "it cannot steer")
    assert watch() is None


@pytest.mark.parametrize(("stop", "why"), [("exposure", "unknown stopping rule"), ("control", "needs control")])
def test_a_stop_that_no_cell_could_follow_is_refused_first(tmp_path, stop, why):
    """Not after hours in which models are made."""
    for go in (bench, plan):
        with pytest.raises(UserError, match=why):
            go(world="people", stop=stop, out=str(tmp_path / "bench"))
    assert not (tmp_path / "bench").exists()


def test_what_is_replayed_is_not_what_is_measured():
    """A student rehearses the original's answers to replayed prompts: kept there is not kept elsewhere."""
    found = tasks.task(BenchSettings(world="people", questions=1000), "people", 0)
    measured = {record.question for record in found.asked["retain"]}
    assert measured and not measured & {row["question"] for row in found.replay}
    assert measured <= {row["question"] for row in found.retain}


def test_models_made_with_other_settings_are_refused(tmp_path, monkeypatch):
    """Taking them unseen would report one training under the name of another."""
    made = []
    monkeypatch.setattr(tasks, "_fine_tuned", lambda *a: made.append(a[1]))
    monkeypatch.setattr(tasks, "save_model", lambda lm, folder: folder.mkdir(parents=True))
    settings = BenchSettings(model="x", out=str(tmp_path))
    for _ in range(2):
        tasks.make_model(settings, "original", "forget01", 0, Silent())
    assert made == ["original"]
    with pytest.raises(UserError, match="train_epochs: 5 then, 9 now"):
        tasks.make_model(replace(settings, train_epochs=9), "original", "forget01", 0, Silent())


def test_files_are_known_by_what_they_say(tmp_path):
    """By their paths, an edited file would give old figures as new ones, and a moved folder would cost every cell."""

    def identity(at: str, **edited: str) -> dict:
        folder = tmp_path / at
        folder.mkdir()
        names = ("chat.jinja", "replay.json", "holdout.json",
                 "forget01.json", "retain99.json", "retain_perturbed.json", "full.json")  # fmt: skip
        for name in names:
            (folder / name).write_text(edited.get(name.split(".")[0], name))
        (folder / "forget10.json").write_text(at)  # of another split: it does not count
        files = {name: str(folder / file) for name, file in zip(("chat_template", "replay", "holdout"), names)}
        settings = BenchSettings(model="x", data=str(folder), **files)
        models.append([tasks.identity(settings, role, "forget01")["data"] for role in ("original", "retrained")])
        return Cell("forget01", 0, "rkld+replay", variant("rkld+replay")).identity(settings)

    models = []
    before = identity("here")
    assert identity("there") == before
    of = {"forget01": "data", "retain99": "data", "retain_perturbed": "data", "chat": "chat_template",
          "replay": "replay", "holdout": "holdout", "full": None}  # fmt: skip
    for name, setting in of.items():
        after = identity(name, **{name: "edited"})
        assert {key for key in before if before[key] != after[key]} == ({setting} if setting else set())
        learned = {"full": [True, False], "retain99": [False, True]}.get(name, [False, False])
        assert [old != new for old, new in zip(models[0], models[-1])] == learned


# The plan


def test_the_plan_runs_nothing_and_knows_what_is_done(done, world, tmp_path):
    lines = plan(**{**world, "methods": f"{METHODS},rkld+replay"}, out=str(done))
    assert sum("finished" in line for line in lines) == 5
    assert any("rkld+replay" in line and "as other methods here" in line for line in lines)
    lines = plan(world="people", out=str(tmp_path / "new"))
    assert "2 models" not in lines[-2] and "and 6 models to make" in "".join(lines) and "rough" in lines[0]
    assert not (tmp_path / "new").exists()


def test_the_command_plans_and_refuses_what_it_does_not_know(tmp_path):
    called = ["bench", "tofu", "--world", "people", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, [*called, "--methods", "rkld", "--plan"])
    assert result.exit_code == 0 and "rkld" in result.output and not (tmp_path / "out").exists()
    result = CliRunner().invoke(cli.main, [*called, "--methods", "rkdl"])
    assert result.exit_code == 2 and "Did you mean 'rkld'?" in result.output


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nop+rt", "Did you mean 'npo'"), ("npo+rtt", r"\+rtt"), ("npo+rt+kl", "not both"), ("npo@lr", "name=value"),
        ("npo@learning_rate=1", "unknown setting"), ("npo@seed=1", "benchmark's to set"),
        ("npo@epochs=0", "at least 1"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        variant(name)


def test_what_a_name_sets():
    """+rt and +kl bring retain records; a method that needs them has them unasked, with its own loss."""
    assert variant("npo+rt").settings() == {"method": "npo", "retain_loss": "rt", "replay": False, "retain": True}
    assert variant("graddiff").settings() == {
        "method": "graddiff",
        "retain_loss": "auto",
        "replay": False,
        "retain": True,
    }
    assert not variant("rkld+replay").settings()["retain"] and variant("rkld+replay").settings()["replay"]
    assert not variant("uld+replay").settings()["retain"], "replay will do where the method says so"
    assert variant("npo@lr=1e-4@method_arg=beta=0.5").settings()["method_arg"] == ("beta=0.5",)


def test_all_names_every_method_once():
    names = [one.name for one in variants(BenchSettings(world="people"))]
    assert len(names) == len(set(names)) and {"rkld", "whp", "npo+rt", "rkld+replay"} <= set(names)


# Tuning


def test_tuning_tries_the_same_grid_for_all_on_people_who_are_not_reported():
    settings = BenchSettings(world="people", methods="rkld,npo+rt", seeds=2, tune=True)
    tried = [cell for cell in tuning_cells(settings) if cell.variant]
    assert {cell.seed for cell in tried} == {2} and {cell.seed for cell in cells(settings)} == {0, 1}
    per_method = {name: [c.name for c in tried if c.variant.method == name] for name in ("rkld", "npo")}
    assert per_method["rkld"] == ["rkld@lr=0.00025", "rkld", "rkld@lr=0.001"] and len(per_method["npo"]) == 3


def test_tuning_takes_the_smallest_distance_at_the_calibrated_stop():
    """Not at the oracle's peak, which no real erasure has."""
    settings = BenchSettings(world="people", methods="rkld", tune=True)
    tried = [cell for cell in tuning_cells(settings) if cell.variant]
    ks = dict(zip((cell.name for cell in tried), (0.3, 0.2, 0.2)))
    kept = dict(zip(ks, (1.0, 0.8, 0.9)))
    found = {
        cell: {"moments": {"stop": {"ks": ks[cell.name], "retain_probability": kept[cell.name]}, "oracle": {"ks": 0.0}}}
        for cell in tried
    }
    assert choose_rates(settings, found) == {"rkld": "rkld@lr=0.001"}


# Figures


def test_figures_are_drawn_and_their_absence_does_not_cost_the_tables(done, world, monkeypatch):
    pytest.importorskip("matplotlib")
    for name in ("quality_people.png", "forgetting_people.png"):
        assert (done / name).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    found = bench(**world, out=str(done))
    assert any("rkld[plots]" in note for note in found.notes) and (done / "results.md") in found.files


def test_the_axis_is_linear_above_a_twentieth_and_logarithmic_below():
    assert figures._bend(0.05) == 0
    assert figures._bend(0.55) - figures._bend(0.3) == pytest.approx(figures._bend(0.3) - figures._bend(0.05))
    assert figures._bend(5e-4) - figures._bend(5e-5) == pytest.approx(figures._bend(5e-3) - figures._bend(5e-4))
    for value in (1.0, 0.2, 0.05, 1e-3, 1e-10):
        assert figures._unbend(figures._bend(value)) == pytest.approx(value)


# TOFU's files


def test_a_local_tofu_folder(tmp_path):
    """Models are made, and the figures of the fine-tuned original are about the split's own questions."""
    small, data = people(n=10, seed=0), tmp_path / "data"
    small.write(data, (0,))
    for part in tiny_model(0):
        part.save_pretrained(tmp_path / "base")
    given = {
        "data": str(data), "splits": "forget10", "methods": "gradient_ascent,npo+rt", "seeds": 1,
        "model": str(tmp_path / "base"), "train_epochs": 1, "train_lr": 1e-3, "retained": 20, "train_batch": 20,
        "epochs": 1, "batch_size": 20, "questions": 2, "max_new_tokens": 1, "strengthen_epochs": 1,
        "subject": small.names[:1],
    }  # fmt: skip
    found = bench(**given, out=str(tmp_path / "out"))
    assert {row["split"] for row in found.rows} == {"forget10"} and len(found.rows) == 8
    assert {path.name for path in (tmp_path / "out/models/forget10").iterdir()} >= {"original", "retrained"}
    # Several cells at once, each in a process of its own, must come out the same but for rounding.
    at_once = bench(**given, jobs=2, out=str(tmp_path / "at once"))
    for one, other in zip(found.rows, at_once.rows, strict=True):
        assert (one["method"], one["moment"]) == (other["method"], other["moment"])
        assert [one[f] for f in FIGURES] == pytest.approx([other[f] for f in FIGURES], rel=1e-3, nan_ok=True)
    assert not (tmp_path / "at once/teachers").exists()


def test_a_split_of_ones_own_is_tuned_on_another(tmp_path):
    """Researchers bring their own people; the learning rate must not be chosen on those who are reported."""
    small, data = people(n=10, seed=0), tmp_path / "data"
    small.write(data, (0,))
    rows = {who: [r for r in small.records if r["subject"] == small.names[who]] for who in (1, 2)}
    plain = ("question", "answer", "subject")
    for who, wrong in rows.items():
        others = [r for r in small.records if r["subject"] != small.names[who]]
        write_jsonl(data / f"pair{who}.json", [{n: r[n] for n in plain} for r in wrong])
        write_jsonl(data / f"pair{who}_perturbed.json", wrong)
        write_jsonl(data / f"pair{who}_retain.json", [{n: r[n] for n in plain} for r in others])
    for part in tiny_model(0):
        part.save_pretrained(tmp_path / "base")
    common = {
        "data": str(data), "splits": "pair1", "methods": "gradient_ascent", "seeds": 1, "model": str(tmp_path / "base"),
        "train_epochs": 1, "train_lr": 1e-3, "train_batch": 40, "epochs": 1, "batch_size": 20, "questions": 2,
        "max_new_tokens": 1, "strengthen_epochs": 1, "lr": 1e-4, "tune": True, "grid": "1,2",
    }  # fmt: skip
    with pytest.raises(UserError, match="--tune-split"):
        BenchSettings(**common, tune_split="pair1")
    with pytest.raises(UserError, match="factors above 0"):
        BenchSettings(**{**common, "grid": "1,-2"}, tune_split="pair2")
    found = bench(**common, tune_split="pair2", out=str(tmp_path / "out"))
    assert {row["split"] for row in found.rows} == {"pair1"}
    assert {p.name for p in (tmp_path / "out/cells/pair2/seed0").iterdir()} == {
        "original", "retrained", "gradient_ascent", "gradient_ascent@lr=0.0002"
    }  # fmt: skip
    assert "tuned" in {row["settings"] for row in found.rows}
    tried = json.loads((tmp_path / "out/cells/pair2/seed0/gradient_ascent/cell.json").read_text())["moments"]
    assert all("model_utility" not in moment for moment in tried.values()), "answers that nobody reports take time"


def test_tofu_needs_a_model_and_a_known_split():
    with pytest.raises(UserError, match="--model"):
        BenchSettings()
    with pytest.raises(UserError, match="Did you mean 'forget01'"):
        BenchSettings(model="x", splits="forgot01")


def test_the_chosen_rate_is_named_where_it_is_the_default():
    settings = BenchSettings(world="people", methods="npo,rkld", seeds=1)
    found = {cell: {"moments": {"last": {"ks": 0.5}}} for cell in cells(settings) if cell.variant}
    how = {row["method"]: row["settings"] for row in rows_of(found, {"npo": "npo", "rkld": "rkld@lr=0.001"})}
    assert how == {"npo": "default = tuned", "rkld": "default"}


# Templates


@pytest.mark.parametrize(
    ("preset", "text"),
    [
        ("tofu-llama2", "<s>[INST] Who is Ada? [/INST]A poet.</s>"),
        ("tofu-phi", "Question: Who is Ada?\nAnswer: A poet.</s>"),
        (
            "open-unlearning-llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
            "Today Date: 10 Apr 2025\n\nYou are a helpful assistant.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWho is Ada?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA poet.<|eot_id|>",
        ),
    ],
)
def test_presets_write_what_their_projects_write(preset, text):
    """A date or a space that differs from training shifts every likelihood."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "<|eot_id|>" if "llama3" in preset else "</s>"})
    tokenizer.chat_template = read_template(preset)
    encoder = Encoder(tokenizer)
    (record,) = read_records([{"question": "Who is Ada?", "answer": "A poet."}], "forget")
    assert encoder.render(record) == text
    encoded = encoder.encode(record)
    end = tokenizer.eos_token
    assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == f"A poet.{end}", "the answer alone is scored"


def test_a_preset_fills_in_what_is_not_given():
    settings = BenchSettings(preset="phi-1.5", lr=3e-5)
    assert (settings.model, settings.chat_template) == ("microsoft/phi-1_5", "tofu-phi")
    assert (settings.value("train_lr"), settings.value("lr")) == (2e-5, 3e-5)
    theirs = BenchSettings(preset="llama3.2-1b", splits="forget05")
    assert str(model_folder(theirs, "retrained", "forget05", 0)).endswith("Llama-3.2-1B-Instruct_retain95")
    own = BenchSettings(preset="llama3.2-1b", model="./mine")
    assert own.original is None and own.chat_template == "open-unlearning-llama3"


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="tofu-llama2"):
        read_template("tofu-lama2")
