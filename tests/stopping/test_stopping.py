"""Stopping without an oracle: rules on hand-made evidence, and checks that change nothing of the training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

import rkld
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.likelihood import probability
from rkld.losses.answers import to_labels
from rkld.losses.objective import Objective, Term, answer
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import restore_state, trainable_state
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.stopping.calibration import calibration
from rkld.stopping.callback import Stop
from rkld.stopping.evidence import Evidence, read
from rkld.stopping.references import alternatives, from_holdout, from_names, split
from rkld.stopping.rules import Exposure, Last, Level, Oracle, decide, replayed
from rkld.training.config import RKLDConfig
from rkld.training.trainer import ObjectiveTrainer, fine_tune, fit

WORLD = people(n=4, seed=0)
ROWS = [{k: r[k] for k in ("question", "answer", "subject", "aliases")} for r in WORLD.forget([0])]
FORGET, HOLDOUT = read_records(ROWS, "forget"), read_records(WORLD.holdout, "holdout")
KNOWN = identifiers(FORGET, ())


def at(step: int, *probabilities: float) -> Evidence:
    return Evidence(step, tuple(-math.log(p) for p in probabilities))


# Rules


def test_level_stops_at_the_first_check_within_its_margin_and_keeps_the_nearest():
    """Mean probabilities .9, .5, .35, .2 and an aim of .3: it ends at .2, and the state of .35 is nearer."""
    rows = [at(2, 0.9, 0.9), at(4, 0.7, 0.3), at(6, 0.35, 0.35), at(8, 0.2, 0.2), at(10, 0.3, 0.3)]
    assert decide(Level(0.3), [at(2, 0.315)]).stop and not decide(Level(0.3), [at(2, 0.325)]).stop
    decision = replayed(Level(0.3), rows)
    assert decision.stop and decision.step == 6 and decision.gap == pytest.approx(0.05)
    assert not decide(Level(0.3), rows[:3]).stop, "the run must go on above the margin"


def test_a_rule_that_is_never_satisfied_gives_the_nearest_check():
    """Neither the last nor the first by habit; of two equally near the earlier one."""
    rows = [at(2, 0.9), at(4, 0.6), at(6, 0.7), at(8, 0.6)]
    decision = replayed(Level(0.3), rows)
    assert not decision.stop and decision.step == 4


def test_one_record_and_one_check_are_enough():
    assert decide(Level(0.5), [at(1, 0.5)]).stop


@pytest.mark.parametrize("rows", [[], [Evidence(1, ())], [Evidence(1, (math.nan,))], [Evidence(1, (1.0, math.inf))]])
def test_nothing_and_nan_are_errors(rows):
    """A decision made of NaN would look like one: NaN compares as false."""
    with pytest.raises(ValueError):
        decide(Level(0.5), rows)


def test_exposure_counts_ties_by_half_and_needs_alternatives():
    """Losses 1 (true) against 2, 1, .5: one beaten, one tie, one not: ½, by chance."""
    tied = Evidence(1, (1.0,), (1.0,), ((2.0, 1.0, 0.5),))
    assert Exposure().gap(tied) == 0
    assert Exposure().gap(Evidence(1, (1.0,), (1.0,), ((2.0, 3.0, 4.0),))) == 0.5, "known: above all others"
    assert Exposure().gap(Evidence(1, (1.0,), (1.0,), ((0.1, 0.2, 0.3),))) == -0.5, "forgotten too much: below all"
    with pytest.raises(ValueError):
        Exposure().gap(at(1, 0.5))
    with pytest.raises(ValueError):
        Exposure().gap(Evidence(1, (1.0,), (float("nan"),), ((2.0,),)))


def test_last_and_oracle():
    """The last step however the student fares; the oracle looks at the whole run and takes the first peak."""
    ratios = (0.5, 1.0, 2.0)
    same = Evidence(3, (1.0,) * 3, tuple(map(math.log, ratios)), ((0.0,),) * 3)
    other = Evidence(1, (1.0,) * 3, (-5.0,) * 3, ((0.0,),) * 3)
    rows = [other, same, Evidence(4, same.gold_loss, same.paraphrase_loss, same.perturbed_loss), other]
    assert replayed(Oracle(ratios), rows).step == 3
    assert replayed(Last(9), [at(3, 0.9), at(6, 0.1), at(9, 0.5)]).step == 9


# What steers


def test_steering_and_audit_share_no_fact():
    """Else the audit would look at what the stop was fitted to."""
    steering = split(FORGET, KNOWN, seed=0)
    audited = [r for r in read_records(WORLD.forget([0]), "forget") if r.key not in steering.keys]
    assert {r.key for r in steering.records} <= set(steering.keys) and audited
    facts = [span for r in audited for span in r.spans if span in r.answer]
    assert facts and not any(f in r.answer and f not in r.question for f in facts for r in steering.records)
    assert split(FORGET, KNOWN, seed=0) == steering
    assert any(split(FORGET, KNOWN, seed=n).keys != steering.keys for n in (1, 2)), "the seed deals"


def test_few_records_all_steer_and_records_without_facts_are_dealt_out():
    """An erasure of one record still gets a stop; answers that hold no name or number are split as they are."""
    assert len(split(FORGET[:1], KNOWN, 0).records) == 1 and len(split(FORGET[:3], KNOWN, 0).keys) == 3
    plain = read_records([{"question": f"And {n}?", "answer": "no, not at all"} for n in "abcdef"], "forget")
    assert len(split(plain, (), 0).records) == 3 == len(split(plain, (), 0).keys)


def test_alternatives_are_the_records_own_or_those_of_others():
    own = read_records(WORLD.forget([0]), "forget")
    steering = split(own, KNOWN, 0)
    assert alternatives(steering, [], KNOWN, 0) == list(steering.records)
    made = alternatives(split(FORGET, KNOWN, 0), HOLDOUT, KNOWN, 0)
    assert made and all(len(r.extra["perturbed_answer"]) == 5 for r in made)


# Placebos


@pytest.fixture(scope="module")
def lm():
    model, tokenizer = tiny_model(seed=0)
    return load_model(model, tokenizer=tokenizer)


def test_holdout_is_matched_in_kind(lm):
    """Most of the nearest ask for the same attribute; by chance it would be one in twenty."""
    placebo = from_holdout(FORGET, HOLDOUT, Encoder(lm.tokenizer), KNOWN, "answer")
    assert all(len(found) == 10 for found in placebo.others)
    same = [int(e.key) % 20 == n for n, found in enumerate(placebo.others) for e in found[:3]]
    assert sum(same) > len(same) / 2


def test_invented_names_are_compared_by_what_is_not_the_name(lm):
    """The tokens scored in a record and in its copies are the same, one to one, and hold the fact but no name."""
    placebo = from_names(FORGET, FORGET, Encoder(lm.tokenizer), KNOWN, "answer", seed=0)
    by_key = {r.key: r for r in read_records(WORLD.forget([0]), "forget")}
    for source, copies in zip(placebo.records, placebo.others, strict=True):
        tokens = [t for t, m in zip(source.ids, source.scored) if m]
        assert all([t for t, m in zip(copy.ids, copy.scored) if m] == tokens for copy in copies)
        said = lm.tokenizer.decode(tokens)
        assert not any(part in said for part in WORLD.names[0].split()), by_key[source.key].where
    unnamed = [replace(record, subject=None, aliases=()) for record in FORGET]
    assert from_names(unnamed, unnamed, Encoder(lm.tokenizer), (), "answer", 0) is None, "nobody is known by name"
    level = placebo.level(lm)
    each = [probability(lm, copies, mask="scored").mean() for copies in placebo.others]
    assert level == pytest.approx(sum(each) / len(each), rel=1e-4)


# In training


def train(folder: Path, steps: int = 6, rule=None, interrupt: int | None = None, lm=None):
    """A tiny model fine-tuned on the records, with checks if a rule is given."""
    if lm is None:
        model, tokenizer = tiny_model(seed=0)
        lm = load_model(model, tokenizer=tokenizer)
    encoder = Encoder(lm.tokenizer)
    encoded = [encoder.encode(r) for r in FORGET[:8]]
    args = RKLDConfig(str(folder), num_train_epochs=steps, per_device_train_batch_size=8, learning_rate=2e-3,
                      use_cpu=True, checkpoint_minutes=0.0 if interrupt else 10.0)  # fmt: skip
    stop = rule and Stop(lm, lambda step: read(lm, encoder, encoded[:3], (), step), rule, 2, folder)

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == interrupt:
                raise KeyboardInterrupt

    trainer = ObjectiveTrainer(
        lm, args, Objective({"forget": encoded}, [Term("forget", "forget", answer, to_labels)]),
        [*([stop] if stop else []), Interrupt()],
    )  # fmt: skip
    fit(trainer)
    return lm, stop, trainer.state.global_step


def test_checks_change_nothing_of_the_training(tmp_path):
    """The weights with a check at every other step equal those without, bit for bit."""
    plain, _, _ = train(tmp_path / "a")
    checked, stop, _ = train(tmp_path / "b", rule=Last(6))
    assert [one.step for one in stop.evidence] == [2, 4, 6]
    for name, p in trainable_state(plain).items():
        assert torch.equal(p, trainable_state(checked)[name]), name


def test_training_ends_and_the_chosen_state_can_be_restored(tmp_path):
    """Fine-tuning raises the probability, so a rule that is met at once ends it at the first check; its state is the
    model's of then, and the only one on disk."""
    lm, stop, steps = train(tmp_path, rule=Level(1.0))
    assert steps == 2 and stop.decision.stop and stop.best.name == "best-2.safetensors"
    assert list(tmp_path.glob("best-*")) == [stop.best]
    lm, stop, steps = train(tmp_path / "whole", rule=Level(-1.0))  # above its aim always: the first is the nearest
    assert steps == 6 and not stop.decision.stop and stop.decision.step == 2
    restore_state(lm, stop.best)
    found = stop.check(2)
    assert found.gold_loss == pytest.approx(stop.evidence[0].gold_loss)
    assert found.gold_loss != pytest.approx(stop.evidence[-1].gold_loss)


def test_an_interrupted_training_decides_the_same(tmp_path):
    """Killed after the check of step 4, a checkpoint of step 3 behind it: same evidence, same choice."""
    _, whole, _ = train(tmp_path / "whole", rule=Level(-1.0))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", rule=Level(-1.0), interrupt=4)
    _, resumed, _ = train(tmp_path / "run", rule=Level(-1.0))
    assert [e.step for e in resumed.evidence] == [2, 4, 6] and resumed.decision.step == whole.decision.step
    for a, b in zip(resumed.evidence, whole.evidence, strict=True):
        assert a.gold_loss == pytest.approx(b.gold_loss, rel=1e-3)
    assert resumed.best.exists()


# The whole run


RUN = {
    "epochs": 3, "strengthen_epochs": 1, "lr": 1e-3, "max_new_tokens": 8, "batch_size": 10, "bf16": False,
    "replay": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny model that knows the person's records, and nothing else."""
    folder = tmp_path_factory.mktemp("original")
    model, tokenizer = tiny_model(seed=0)
    known = load_model(model, tokenizer=tokenizer)
    encoder = Encoder(known.tokenizer)
    args = RKLDConfig(
        str(folder / "t"), num_train_epochs=25, per_device_train_batch_size=10, learning_rate=3e-3, use_cpu=True
    )
    fine_tune(known, [encoder.encode(r) for r in FORGET], args)
    save_model(known, folder / "model")
    return folder / "model"


@pytest.mark.parametrize("given", [
    {"holdout": WORLD.holdout}, {}, {"stop": "exposure", "holdout": WORLD.holdout}, {"score": "spans"}, {"lora": True},
], ids=["holdout", "names", "exposure", "spans", "lora"])  # fmt: skip
def test_the_run_notes_rule_evidence_and_steering_keys_and_no_text(original, tmp_path, given):
    rows = WORLD.forget([0]) if given.get("score") else ROWS
    result = rkld.unlearn(original, rows, out=str(tmp_path / "run"), **RUN, **given)
    manifest = json.loads((result.run / "manifest.json").read_text())
    facts = manifest["phases"]["distillation"]
    rows_of_metrics = map(json.loads, (result.run / "metrics.jsonl").read_text().splitlines())
    lines = [row for row in rows_of_metrics if row["phase"] == "stop"]
    assert [row["step"] for row in lines] == sorted({row["step"] for row in lines})
    assert len(lines) == facts["stop"]["checks"]
    assert facts["stop"]["rule"] == given.get("stop", "placebo") and facts["stop"]["step"] in {r["step"] for r in lines}
    assert set(facts["steering"]) < {str(n) for n in range(len(rows))} and facts["steering"]
    written = (result.run / "metrics.jsonl").read_text() + (result.run / "manifest.json").read_text()
    assert not any(part in written for part in WORLD.names[0].split())
    assert not (result.run / "checkpoints").exists()


def test_the_chosen_state_is_the_model_that_is_written(original, tmp_path):
    """Not the last one: with one check, at the first step, the models differ."""
    args = {**RUN, "keep_files": True}
    stopped = rkld.unlearn(original, ROWS, holdout=WORLD.holdout, out=str(tmp_path / "a"), **args)
    whole = rkld.unlearn(original, ROWS, out=str(tmp_path / "b"), stop="last", **args)
    chosen = json.loads((stopped.run / "manifest.json").read_text())["phases"]["distillation"]["stop"]
    lm = load_model(stopped.model_path)
    steered = json.loads((stopped.run / "manifest.json").read_text())["phases"]["stop"]
    encoder = Encoder(lm.tokenizer)
    records = split(FORGET, KNOWN, 0).records
    found = probability(lm, [encoder.encode(r) for r in records]).mean() - steered["aim"]
    assert found == pytest.approx(chosen["gap"], abs=1e-4)
    assert "stop" in json.loads((whole.run / "manifest.json").read_text())["phases"]
    assert "stop" not in json.loads((whole.run / "manifest.json").read_text())["phases"]["distillation"]


def test_a_control_that_knows_the_records_cannot_steer(original, tmp_path):
    """The original as its own control: the run says so and takes the last step, rather than stop at the first check."""
    result = rkld.unlearn(original, ROWS, control=str(original), stop="control", out=str(tmp_path / "run"), **RUN)
    assert any("cannot steer" in warning for warning in result.warnings)
    with pytest.raises(rkld.UserError, match="--control"):
        rkld.unlearn(original, ROWS, stop="control", out=str(tmp_path / "none"), **RUN)


def test_without_names_and_holdout_the_last_step_is_taken_and_said(original, tmp_path):
    rows = [{"question": "Who?", "answer": r["answer"]} for r in ROWS[:4]]
    result = rkld.unlearn(original, rows, out=str(tmp_path / "run"), **RUN)
    assert any("--holdout" in warning for warning in result.warnings)


def test_a_holdout_of_the_person_or_of_kept_records_is_refused(original, tmp_path):
    for holdout, retain in ((ROWS, None), (WORLD.holdout, WORLD.holdout[:1])):
        with pytest.raises(rkld.UserError, match="holdout"):
            rkld.unlearn(original, ROWS, holdout=holdout, retain=retain, out=str(tmp_path / "run"), **RUN)
    assert not (tmp_path / "run").exists()


def test_invented_names_that_change_nothing_are_no_placebo(lm):
    """A model that gives the same answers about anybody would end the run at once, with the records still known."""
    encoder = Encoder(lm.tokenizer)
    made = calibration("placebo", FORGET, [], [], KNOWN, encoder, "answer", 0)
    original = at(0, *[0.9] * len(made.records))
    assert "--holdout" in made.refusal(0.8, original) and made.refusal(0.3, original) is None
    with_holdout = calibration("placebo", FORGET, HOLDOUT, [], KNOWN, encoder, "answer", 0)
    assert with_holdout.refusal(0.8, original) is None and with_holdout.refusal(0.95, original)
