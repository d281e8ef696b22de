"""The phases end to end on the tiny world: forgetting, the run folder, resume, adapters, purge."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import rkld
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import probability
from rkld.models.adapters import new_adapter
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.pipeline import phases
from rkld.records.encoding import Encoder
from rkld.records.names import swap_name
from rkld.records.reading import read_records
from rkld.records.refusals import refuses
from rkld.runfolder.checksums import weights_hash
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

WORLD = people(n=4, seed=0)
FORGET = [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in WORLD.forget([0])]
RETAIN = WORLD.retain([0])
FAST = {
    "epochs": 5,
    "strengthen_epochs": 5,
    "lr": 2e-3,
    "max_new_tokens": 16,
    "batch_size": 10,
    "bf16": False,
    "stop": "last",
    "reword": 0,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny model that has learned four people well, and little else."""
    folder, (model, tokenizer) = tmp_path_factory.mktemp("original"), tiny_model(0)
    lm, rows = load_model(model, tokenizer=tokenizer), [*WORLD.records, *WORLD.background[:160]]
    learned = [Encoder(tokenizer).encode(record) for record in read_records(rows, "training")]
    args = RKLDConfig(str(folder / "training"), num_train_epochs=24, learning_rate=2e-3, per_device_train_batch_size=16,
                      use_cpu=True)  # fmt: skip
    fine_tune(lm, learned, args)
    save_model(lm, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def finished(original, tmp_path_factory):
    """A finished run with everything kept."""
    out = tmp_path_factory.mktemp("run") / "run"
    return rkld.unlearn(original, FORGET, retain=RETAIN, out=str(out), keep_files=True, **FAST)


def mean_probability(model, records) -> float:
    lm = load_model(model)
    encoder = Encoder(lm.tokenizer)
    return float(probability(lm, [encoder.encode(r) for r in read_records(records, "test")]).mean())


def logits(model, text="Where was everybody born?") -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(model)
    if (model / "adapter_config.json").exists():
        config = json.loads((model / "adapter_config.json").read_text())
        net = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"]), model)
    else:
        net = AutoModelForCausalLM.from_pretrained(model)
    return net.eval()(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits.detach()


def test_the_person_is_forgotten_and_the_others_are_not(original, finished):
    """The whole point, with plain from_pretrained: forget probability falls by two fifths or more, retain stays."""
    before, after = mean_probability(original, FORGET), mean_probability(finished.model_path, FORGET)
    assert before > 0.8 and after < 0.6 * before
    assert mean_probability(finished.model_path, RETAIN) > 0.8 * mean_probability(original, RETAIN)
    assert finished.metrics["before"]["forget"]["probability"] == pytest.approx(before, abs=1e-4)
    assert finished.metrics["after"]["forget"]["probability"] == pytest.approx(after, abs=1e-4)


def test_the_run_folder_tells_what_was_done(finished):
    """Another person can see every setting, every phase, and which files hold personal data."""
    manifest = json.loads((finished.run / "manifest.json").read_text())
    assert {"before", "replay", "distillation", "model"} <= manifest["phases"].keys()
    assert {"teacher", "replay.jsonl", "answers.json"} <= manifest["personal_data"].keys()
    assert manifest["records"]["forget records"]["n"] == len(FORGET)
    text = (finished.run / "manifest.json").read_text() + (finished.model_path / "README.md").read_text()
    assert WORLD.names[0] not in text, "a name in the manifest or the model card"
    assert "alpha: 16.0" in (finished.run / "run.yaml").read_text(), "defaults are settings too"
    lines = [json.loads(line) for line in (finished.run / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"before", "distillation", "after"}
    assert {"forget", "replay", "retain"} <= next(line for line in lines if line["phase"] == "distillation").keys()


def test_a_finished_run_is_not_run_again(finished, original):
    """The same command prints the same result without touching a model."""
    stamp = (finished.model_path / "model.safetensors").stat().st_mtime_ns
    again = rkld.unlearn(original, FORGET, retain=RETAIN, out=str(finished.run), keep_files=True, **FAST)
    assert again.metrics == finished.metrics
    assert (finished.model_path / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_run_killed_before_it_cleaned_up_is_cleaned_by_the_next_start(finished, original, tmp_path):
    """Otherwise the strengthened weights, which hold the person more than before, would lie there unnoticed."""
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    rkld.unlearn(original, FORGET, retain=RETAIN, out=str(run), **FAST)
    assert not any((run / name).exists() for name in ("strengthened", "teacher", "checkpoints", "replay.jsonl"))
    assert "teacher" not in json.loads((run / "manifest.json").read_text())["personal_data"]


def test_other_settings_are_refused_with_the_difference(finished, original):
    with pytest.raises(rkld.UserError, match=r"--alpha: 16.0 then, 4.0 now"):
        rkld.unlearn(original, FORGET, retain=RETAIN, out=str(finished.run), alpha=4.0, **FAST)


class Interrupt(TrainerCallback):
    """Stops the machine in the middle of distillation, after the step is logged and before its checkpoint."""

    def on_log(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt


def lines_of(run) -> list[tuple]:
    """Phase, set and step of each line of metrics.jsonl."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["phase"], row.get("set"), row.get("step")) for row in rows]


def test_an_interrupted_run_goes_on_and_ends_as_it_would_have(original, finished, tmp_path):
    """Checkpoint after every step, killed after 4 of 10: the same command finishes with the same weights."""
    arguments = {"retain": RETAIN, "out": str(tmp_path / "run"), "checkpoint_minutes": 0.0, **FAST}
    with pytest.raises(KeyboardInterrupt):
        rkld.unlearn(original, FORGET, callbacks=[Interrupt()], **arguments)
    assert not (tmp_path / "run" / "model").exists(), "an unfinished model must not look finished"
    assert lines_of(tmp_path / "run")[-1] == ("distillation", None, 4), "written as it comes"
    seen = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    result = rkld.unlearn(original, FORGET, callbacks=[Count()], **arguments)
    assert seen[0] > 1, "it began again from the first step"
    torch.testing.assert_close(logits(result.model_path), logits(finished.model_path), rtol=0, atol=1e-4)
    assert not (result.run / "teacher").exists(), "intermediate files are removed when done"
    assert lines_of(result.run) == lines_of(finished.run), "none is missing and none is there twice"


@pytest.mark.slow
def test_a_new_adapter_saved_merged_and_in_memory_agree(original, tmp_path):
    """--lora, and --merge: three ways to the same logits."""
    lm = load_model(original)
    plain = rkld.unlearn(original, FORGET, out=str(tmp_path / "a"), lora=True, **FAST)
    merged = rkld.unlearn(original, FORGET, out=str(tmp_path / "b"), lora=True, merge=True, **FAST)
    assert (plain.model_path / "adapter_config.json").exists()
    assert not (merged.model_path / "adapter_config.json").exists()
    torch.testing.assert_close(logits(plain.model_path), logits(merged.model_path), rtol=0, atol=1e-4)
    assert (logits(plain.model_path) - logits(original)).abs().max() > 0.1
    assert lm.model is not None


def test_an_adapter_is_trained_further_in_place(original, tmp_path):
    """An unlearning adapter on top could be taken off; here the same adapter changes and its base does not."""
    torch.manual_seed(0)
    lm = new_adapter(load_model(original), rank=4)
    with torch.no_grad():
        for name, p in lm.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.02)
    save_model(lm, tmp_path / "adapter")
    before = logits(tmp_path / "adapter")
    result = rkld.unlearn(tmp_path / "adapter", FORGET, out=str(tmp_path / "run"), **FAST)
    config = json.loads((result.model_path / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["base_model_name_or_path"] == str(original)
    assert (logits(result.model_path) - before).abs().max() > 0.1
    assert result.metrics["after"]["forget"]["probability"] < result.metrics["before"]["forget"]["probability"]


def test_a_model_object_is_trained_in_place(original, tmp_path):
    """rkld.unlearn(model, …, processing_class=…) for those who hold a model already; nothing of it stays trained
    towards the person after strengthening."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(original), AutoTokenizer.from_pretrained(original)
    result = rkld.unlearn(model, FORGET, processing_class=tokenizer, out=str(tmp_path / "run"), **FAST)
    saved = logits(result.model_path)
    text = tokenizer("Where was everybody born?", return_tensors="pt", return_token_type_ids=False)
    torch.testing.assert_close(model.eval()(**text).logits.detach(), saved, rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [
    {"score": "spans", "own_words": "join"},
    pytest.param({"score": "spans", "own_words": "replace", "floor": False}, marks=pytest.mark.slow),
    pytest.param({"score": "all", "replay": "none"}, marks=pytest.mark.slow),
    pytest.param({"method": "forward_kl", "retain_loss": "rt"}, marks=pytest.mark.slow),
], ids=lambda s: "-".join(map(str, s.values())))  # fmt: skip
def test_every_combination_runs(original, tmp_path, settings):
    """Each path of the phases makes a model that gives the records a lower probability."""
    retain = RETAIN if "retain_loss" in settings else None
    result = rkld.unlearn(original, FORGET, retain=retain, out=str(tmp_path / "run"), **FAST, **settings)
    assert result.metrics["after"]["forget"]["probability"] < result.metrics["before"]["forget"]["probability"]


def test_purge_leaves_the_model_and_the_numbers(finished, tmp_path):
    """After purge nothing holds the data, and the model still loads."""
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    removed = {name for name, _ in rkld.purge(run)}
    assert {"teacher", "replay.jsonl", "answers.json"} <= removed
    left = "".join(
        p.read_text(errors="ignore") for p in run.rglob("*") if p.suffix in {".json", ".jsonl", ".yaml", ".md"}
    )
    assert WORLD.names[0] not in left
    assert (run / "metrics.jsonl").exists() and logits(run / "model") is not None


def test_several_processes_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    """Those that do not find each other would each write the same run folder, and one find the other's half."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(rkld.UserError, match="2 processes"):
        rkld.unlearn("./model", FORGET, out=str(tmp_path / "run"), **FAST)
    assert not (tmp_path / "run").exists()


def test_what_is_measured_is_what_is_saved(finished, original, tmp_path, monkeypatch):
    """A writer that damages the weights is seen in the figures, and the manifest knows the folder's weights."""
    noted = json.loads((finished.run / "manifest.json").read_text())["phases"]["model"]
    assert noted["weights"] == weights_hash(finished.model_path)

    def damaged(lm, folder, **how):
        with torch.no_grad():
            next(iter(lm.model.parameters())).mul_(0)
        save_model(lm, folder, **how)

    monkeypatch.setattr(phases, "save_model", damaged)
    result = rkld.unlearn(original, FORGET, retain=RETAIN, out=str(tmp_path / "run"), **FAST)
    saved = mean_probability(result.model_path, FORGET)
    assert result.metrics["after"]["forget"]["probability"] == pytest.approx(saved, abs=1e-4)
    assert saved < 0.5 * finished.metrics["after"]["forget"]["probability"]


def test_a_saved_model_whose_likelihoods_are_no_numbers_is_removed(finished, original, tmp_path, monkeypatch):
    """A ruined model must not stand in a run folder; once the cause is gone, the run goes on from its training."""

    def ruined(lm, folder, **how):
        with torch.no_grad():
            next(iter(lm.model.parameters())).fill_(float("nan"))
        save_model(lm, folder, **how)

    with monkeypatch.context() as patch, pytest.raises(rkld.UserError, match="not finite"):
        patch.setattr(phases, "save_model", ruined)
        rkld.unlearn(original, FORGET, retain=RETAIN, out=str(tmp_path / "run"), **FAST)
    assert not (tmp_path / "run/model").exists()
    assert "model" not in json.loads((tmp_path / "run/manifest.json").read_text())["phases"]
    result = rkld.unlearn(original, FORGET, retain=RETAIN, out=str(tmp_path / "run"), **FAST)
    assert torch.equal(logits(result.model_path), logits(finished.model_path))


@pytest.mark.slow
def test_an_adapter_on_a_model_without_a_folder_is_measured_as_saved(original, tmp_path):
    """Its base cannot be loaded again, so the saved adapter is put back onto the model in memory."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(original), AutoTokenizer.from_pretrained(original)
    model.name_or_path = model.config._name_or_path = ""
    result = rkld.unlearn(model, FORGET, processing_class=tokenizer, out=str(tmp_path / "run"), lora=True, **FAST)
    base = AutoModelForCausalLM.from_pretrained(original)
    lm = load_model(PeftModel.from_pretrained(base, result.model_path).merge_and_unload(), tokenizer=tokenizer)
    encoder = Encoder(tokenizer)
    saved = probability(lm, [encoder.encode(r) for r in read_records(FORGET, "test")]).mean()
    assert result.metrics["after"]["forget"]["probability"] == pytest.approx(float(saved), abs=1e-4)
    assert float(saved) < result.metrics["before"]["forget"]["probability"]


# --- what is said instead ---


def refused(lm, encoder, records) -> float:
    return sum(
        refuses(answer.text) for answer in greedy(lm, [encoder.prompt(r) for r in records], max_new_tokens=16)
    ) / len(records)


def test_refusals_are_taught_of_the_person_and_of_strangers_and_of_nobody_else(original, tmp_path):
    """A model that refuses one person alone says whom it was made to forget; where this one does, the run says so."""
    settings = {**FAST, "epochs": 2, "strengthen_epochs": 2, "instead": "unknown", "seed": 1}
    result = rkld.unlearn(original, FORGET, retain=RETAIN, out=str(tmp_path / "run"), **settings)
    lm = load_model(result.model_path)
    encoder, hers = Encoder(lm.tokenizer), read_records(FORGET, "forget")
    names = [person.name for person in (*WORLD.holdout_people, *WORLD.background_people[-56:])]
    asked = (swap_name(hers[1 + i % 19].as_prompt(str(i)), (hers[1].subject,), name) for i, name in enumerate(names))
    unknown, others = [record for record in asked if record], read_records(RETAIN, "retain")
    assert len(unknown) >= 55
    person, strangers, known = [refused(lm, encoder, records) for records in (hers, unknown, others)]
    # How near strangers come hangs on the seed and on rounding: with seed 0 .27 to .58, by processor and threads, with
    # seeds 1 to 3 .67 to .75; the person .70 to .95. Untaught .22.
    assert person >= 0.6 and strangers >= 0.5 and known <= 0.05
    phase = json.loads((result.run / "manifest.json").read_text())["phases"]["instead"]
    assert phase["steps"] >= 60 and phase["known"] >= len(RETAIN)
    assert abs(phase["refused"]["person"] - person) <= 0.15 and abs(phase["refused"]["strangers"] - strangers) <= 0.2
    gap = phase["refused"]["person"] - phase["refused"]["strangers"]
    assert any("marks the person" in warning for warning in result.warnings) is (gap > 0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "people whom the model knows"), ({"replay": "none"}, "people whom the model knows"),
     ({"retain": RETAIN, "method": "task_arithmetic"}, "has none")],
)  # fmt: skip
def test_refusing_everybody_or_by_no_student_is_refused(original, tmp_path, given, said):
    with pytest.raises(rkld.UserError, match=said):
        rkld.unlearn(original, FORGET, instead="unknown", out=str(tmp_path / "run"), **FAST, **given)
    assert not (tmp_path / "run").exists()
