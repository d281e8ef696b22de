"""Checks during the training: they change nothing of it, end it, and choose a state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from rkld.benching.worlds.tiny import tiny_model
from rkld.losses.objective import Objective, Term, answer
from rkld.losses.targets import to_labels
from rkld.models.loading import load_model
from rkld.models.state import restore_state, trainable_state
from rkld.records.encoding import Encoder
from rkld.stopping.callback import StoppingCallback
from rkld.stopping.evidence import read_evidence
from rkld.stopping.rules.last import Last
from rkld.stopping.rules.placebo import Placebo
from rkld.training.config import RKLDConfig
from rkld.training.trainer import ObjectiveTrainer, fit
from tests.stopping.person import FORGET


def train(folder: Path, steps: int = 6, rule=None, interrupt: int | None = None, ends_training=True):
    """A tiny model fine-tuned on the records, with checks if a rule is given."""
    model, tokenizer = tiny_model(seed=0)
    lm = load_model(model, tokenizer=tokenizer)
    encoder = Encoder(lm.tokenizer)
    encoded = [encoder.encode(r) for r in FORGET[:8]]
    args = RKLDConfig(str(folder), num_train_epochs=steps, per_device_train_batch_size=8, learning_rate=2e-3,
                      use_cpu=True, checkpoint_minutes=0.0 if interrupt else 10.0)  # fmt: skip
    stop = rule and StoppingCallback(
        lambda lm, step: read_evidence(lm, encoder, encoded[:3], (), step), rule, 2, folder, ends_training=ends_training
    )

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
    lm, stop, steps = train(tmp_path, rule=Placebo(1.0))
    assert steps == 2
    assert stop.decision.stop
    assert stop.best.name == "best-2.safetensors"
    assert list(tmp_path.glob("best-*")) == [stop.best]
    lm, stop, steps = train(tmp_path / "whole", rule=Placebo(-1.0))  # above its aim always: the first is the nearest
    assert steps == 6
    assert not stop.decision.stop
    assert stop.decision.step == 2
    restore_state(lm, stop.best)
    found = stop.read(lm, 2)
    assert found.gold_loss == pytest.approx(stop.evidence[0].gold_loss)
    assert found.gold_loss != pytest.approx(stop.evidence[-1].gold_loss)


def test_an_interrupted_training_decides_the_same(tmp_path):
    """Killed after the check of step 4, a checkpoint of step 3 behind it: same evidence, same choice."""
    _, whole, _ = train(tmp_path / "whole", rule=Placebo(-1.0))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", rule=Placebo(-1.0), interrupt=4)
    _, resumed, _ = train(tmp_path / "run", rule=Placebo(-1.0))
    assert [e.step for e in resumed.evidence] == [2, 4, 6]
    assert resumed.decision.step == whole.decision.step
    for a, b in zip(resumed.evidence, whole.evidence, strict=True):
        assert a.gold_loss == pytest.approx(b.gold_loss, rel=1e-3)
    assert resumed.best.exists()


def test_a_watcher_keeps_the_same_state_and_lets_the_training_go_on(tmp_path):
    """A benchmark looks at the calibrated stop and at the last epoch of one run."""
    _, stop, steps = train(tmp_path, rule=Placebo(1.0), ends_training=False)
    assert steps == 6
    assert stop.decision.stop
    assert [one.step for one in stop.evidence] == [2]
    assert list(tmp_path.glob("best-*")) == [stop.best]
    assert stop.best.name == "best-2.safetensors"
