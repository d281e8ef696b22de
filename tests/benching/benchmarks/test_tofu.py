"""TOFU: its files, its models, its presets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rkld import UserError
from rkld.benching import model_making
from rkld.benching.benchmarks.tofu import Tofu, TofuSettings
from rkld.benching.cells import Cell
from rkld.benching.comparing import Bench, bench
from rkld.benching.model_making import make_model
from rkld.benching.question_figures import FIGURES
from rkld.benching.registry import open_benchmark
from rkld.benching.variants import variant
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.files import write_jsonl
from rkld.models.loading import read_template
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

# TOFU's files


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict:
    """Settings of a benchmark on a local folder in TOFU's form, with an untrained model."""
    folder, small = tmp_path_factory.mktemp("local"), people(n=10, seed=0)
    small.write(folder / "data", (0,))
    for part in tiny_model(0):
        part.save_pretrained(folder / "base")
    return {
        "data": str(folder / "data"),
        "splits": "forget10",
        "methods": "gradient_ascent,npo+rt",
        "seeds": 1,
        "model": str(folder / "base"),
        "train_epochs": 1,
        "train_lr": 1e-3,
        "retained": 20,
        "train_batch": 20,
        "epochs": 1,
        "batch_size": 20,
        "questions": 2,
        "max_new_tokens": 1,
        "strengthen_epochs": 1,
        "subject": small.names[:1],
    }


@pytest.fixture(scope="module")
def finished(local, tmp_path_factory) -> tuple[Bench, Path]:
    out = tmp_path_factory.mktemp("out")
    return bench("tofu", **local, out=str(out)), out


@pytest.mark.slow
def test_a_local_tofu_folder(finished):
    """Models are made, and the figures of the fine-tuned original are about the split's own questions."""
    found, out = finished
    assert {row["split"] for row in found.rows} == {"forget10"}
    assert len(found.rows) == 8
    assert {path.name for path in (out / "models/forget10").iterdir()} >= {"original", "retrained"}


@pytest.mark.slow
def test_several_cells_at_once_come_out_the_same(local, finished, tmp_path):
    """Each in a process of its own, but for rounding."""
    at_once = bench("tofu", **local, jobs=2, out=str(tmp_path))
    for one, other in zip(finished[0].rows, at_once.rows, strict=True):
        assert (one["method"], one["moment"]) == (other["method"], other["moment"])
        assert [one[f] for f in FIGURES] == pytest.approx([other[f] for f in FIGURES], rel=1e-3, nan_ok=True)
    assert not (tmp_path / "teachers").exists()


@pytest.mark.slow
def test_a_split_of_ones_own_is_tuned_on_another(tmp_path):
    """Researchers bring their own people; the learning rate must not be chosen on those who are reported."""
    small, data = people(n=3, seed=0), tmp_path / "data"
    small.write(data, (0,))
    rows = {who: [r for r in small.records if r["subject"] == small.names[who]][:8] for who in (1, 2)}
    plain = ("question", "answer", "subject")
    for who, wrong in rows.items():
        others = [r for r in small.records if r["subject"] != small.names[who]][::2]
        write_jsonl(data / f"pair{who}.json", [{n: r[n] for n in plain} for r in wrong])
        write_jsonl(data / f"pair{who}_perturbed.json", wrong)
        write_jsonl(data / f"pair{who}_retain.json", [{n: r[n] for n in plain} for r in others])
    for part in tiny_model(0):
        part.save_pretrained(tmp_path / "base")
    common = {
        "data": str(data), "splits": "pair1", "methods": "gradient_ascent", "seeds": 1, "model": str(tmp_path / "base"),
        "train_epochs": 1, "train_lr": 1e-3, "train_batch": 40, "epochs": 1, "batch_size": 8, "questions": 2,
        "max_new_tokens": 1, "strengthen_epochs": 1, "lr": 1e-4, "tune": True, "grid": "1,2",
    }  # fmt: skip
    with pytest.raises(UserError, match="--tune-split"):
        TofuSettings(**common, tune_split="pair1")
    with pytest.raises(UserError, match="factors above 0"):
        TofuSettings(**{**common, "grid": "1,-2"}, tune_split="pair2")
    found = bench("tofu", **common, tune_split="pair2", out=str(tmp_path / "out"))
    assert {row["split"] for row in found.rows} == {"pair1"}
    assert {p.name for p in (tmp_path / "out/cells/pair2/seed0").iterdir()} == {
        "original", "retrained", "gradient_ascent", "gradient_ascent@lr=0.0002"
    }  # fmt: skip
    assert "tuned" in {row["settings"] for row in found.rows}
    tried = json.loads((tmp_path / "out/cells/pair2/seed0/gradient_ascent/cell.json").read_text())["moments"]
    assert all("model_utility" not in moment for moment in tried.values()), "answers that nobody reports take time"


def test_tofu_needs_a_model_and_a_known_split():
    with pytest.raises(UserError, match="--model"):
        TofuSettings()
    with pytest.raises(UserError, match="Did you mean 'forget01'"):
        TofuSettings(model="x", splits="forgot01")


def test_models_made_with_other_settings_are_refused(tmp_path, monkeypatch):
    """Taking them unseen would report one training under the name of another."""
    made = []
    monkeypatch.setattr(Tofu, "train_model", lambda self, role, *_: made.append(role))
    monkeypatch.setattr(model_making, "save_model", lambda lm, folder: folder.mkdir(parents=True))
    settings = {"model": "x", "out": str(tmp_path)}
    for _ in range(2):
        make_model(open_benchmark("tofu", settings), "original", "forget01", 0, NoProgress())
    assert made == ["original"]
    with pytest.raises(UserError, match="train_epochs: 5 then, 9 now"):
        make_model(open_benchmark("tofu", settings | {"train_epochs": 9}), "original", "forget01", 0, NoProgress())


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
        benchmark = open_benchmark("tofu", {"model": "x", "data": str(folder), **files})
        models.append([benchmark.model_identity(role, "forget01", 0)["data"] for role in ("original", "retrained")])
        return benchmark.identity(Cell("forget01", 0, "rkld+replay", variant("rkld+replay")))

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


def test_shards_are_known_by_what_they_say(tmp_path):
    """As another program may have written them; the loader reads them, too."""
    path = tmp_path / "forget01-00000-of-00001.json"
    path.write_text("one")
    benchmark, cell = open_benchmark("tofu", {"model": "x", "data": str(tmp_path)}), Cell("forget01", 0, "original")
    before = benchmark.setting_identity("data", cell)
    path.write_text("another")
    assert benchmark.setting_identity("data", cell) != before


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
    settings = TofuSettings(preset="phi-1.5", lr=3e-5)
    assert (settings.model, settings.chat_template) == ("microsoft/phi-1_5", "tofu-phi")
    assert (settings.train_lr, settings.lr) == (2e-5, 3e-5)
    theirs = open_benchmark("tofu", {"preset": "llama3.2-1b", "splits": "forget05"})
    assert str(theirs.model_folder("retrained", "forget05", 0)).endswith("Llama-3.2-1B-Instruct_retain95")
    own = TofuSettings(preset="llama3.2-1b", model="./mine")
    assert own.original is None
    assert own.chat_template == "open-unlearning-llama3"


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="tofu-llama2"):
        read_template("tofu-lama2")
    with pytest.raises(UserError, match="no regular file"):  # of a device there is no end
        read_template("/dev/zero")
