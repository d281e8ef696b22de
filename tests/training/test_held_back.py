"""``rkld.training.held_back``: when a strengthening ends, and that it does so in whatever batches and starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

from rkld.progress import NoProgress
from rkld.records.encoding import Encoded
from rkld.records.record import Record
from rkld.training.config import RKLDConfig
from rkld.training.held_back import READ, held_back, mean_loss
from rkld.training.strengthening import strengthen
from tests.helpers import config, model, records

EPOCHS, N = 6, 5


def reworded(name: str, source: str, n: int = 9) -> Encoded:
    (found,) = records(name, [n], seed=len(name))
    return replace(found, record=Record(name, "chat", (), source=source))


def run(folder, losses, monkeypatch, wordings=1, **values) -> tuple[dict[str, torch.Tensor], int, list[str]]:
    """A strengthening whose wordings have these losses: weights, epochs whose loss was read, and what was said."""
    lm, read, said = model(), [], []
    forget = [*records("f", [8, 9, 7, 12, 6], 1), *(reworded(f"w{i}", f"f{i}") for i in range(wordings))]

    def loss(*_):
        read.append(1)
        return losses[len(read) - 1]

    class Said(NoProgress):
        def say(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr("rkld.training.strengthening.mean_loss", loss)
    args: RKLDConfig = config(folder, **{"num_train_epochs": EPOCHS, "strengthen_gain": 0.02, **values})
    strengthen(lm, forget, args, Said())
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}, len(read) - 1, said


GAINING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]


@pytest.mark.parametrize("losses, ended", [
    (GAINING, None),
    ([1.0, 0.999, 0.9, 0.8, 0.7, 0.6], None),  # the first epoch warms up
    ([1.0, 0.99, 0.98, 0.9, 0.8, 0.7], 2),
    ([1.0, 0.9, 0.8, 0.9, 0.8, 0.7], 3),
    ([1.0, 0.9, 0.8, 0.7, 0.6, 0.595], 5),
])  # fmt: skip
def test_it_ends_after_the_epoch_that_gains_less_than_two_per_cent(tmp_path, monkeypatch, losses, ended):
    _, read, said = run(tmp_path, losses, monkeypatch)
    assert read == (ended or EPOCHS - 1)
    assert said == ([] if ended is None else [f"Strengthening ended after {ended} of {EPOCHS} epochs: other wordings "
                                              "gain no more"])  # fmt: skip


def test_without_wordings_or_with_a_gain_of_zero_all_epochs_are_taken(tmp_path, monkeypatch):
    full, read, _ = run(tmp_path / "a", [1.0] * 9, monkeypatch, wordings=0)
    assert read == -1, "read for nothing"
    for name, values in {"off": {"strengthen_gain": 0.0}, "gaining": {}}.items():
        same, _, _ = run(tmp_path / name, GAINING, monkeypatch, **values)
        assert all(torch.equal(full[n], same[n]) for n in full), "reading the wordings changed the training"


@pytest.mark.parametrize("batch, steps", [(5, 2), (2, 6), (1, 10)])
def test_it_ends_with_an_epoch_whatever_the_batch(tmp_path, monkeypatch, batch, steps):
    """Two epochs are two epochs of records, not so many steps."""
    seen = []

    class Steps(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    monkeypatch.setattr("rkld.training.strengthening.TrainingBar", lambda advance: Steps())
    run(tmp_path, [1.0] * 9, monkeypatch, per_device_train_batch_size=batch)
    assert seen[-1] == steps


@pytest.mark.parametrize("killed_at", [2, 3])
def test_one_that_was_killed_ends_where_it_would_have(tmp_path, monkeypatch, killed_at):
    """Also where it is killed at the end of an epoch, whose loss must not be read twice or be forgotten."""
    losses, args = [1.0, 0.9, 0.89, 0.5, 0.4, 0.3], {"per_device_train_batch_size": 3}
    whole, _, _ = run(tmp_path / "whole", losses, monkeypatch, **args)

    class Killed(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == killed_at:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rkld.training.strengthening.TrainingBar", lambda advance: Killed())
        run(tmp_path / "killed", losses, monkeypatch, checkpoint_minutes=0.0, **args)
    again = losses[1 + killed_at // 2 :]  # those of the epochs that had ended are in the checkpoint
    resumed, _, said = run(tmp_path / "killed", again, monkeypatch, **args)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert "after 2 of" in said[0]


def test_one_wording_of_each_record_is_read_and_not_too_many():
    given, wordings = records("f", [8], 1), [reworded(f"w{i}{j}", f"f{i}") for i in range(READ + 8) for j in range(2)]
    unscored = replace(reworded("u", "u"), scored=(False,) * 9)
    found = held_back([*given, unscored, *wordings])
    assert READ / 2 <= len(found) <= READ
    assert len({e.record.source for e in found}) == len(found), "two of one record"
    assert held_back(given) == []


def test_the_loss_is_that_of_the_scored_tokens():
    lm, (e,) = model(), records("r", [9], 3, score="spans")
    logits = lm.model(input_ids=torch.tensor([e.ids])).logits.log_softmax(-1)[0]
    expected = [-logits[t - 1, e.ids[t]].item() for t in range(9) if e.scored[t]]
    assert mean_loss(lm, [e]) == pytest.approx(sum(expected) / len(expected), abs=1e-9)
