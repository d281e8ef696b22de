"""SAGO's gate and SAM against the same written with whole gradients; float64, odd lengths, accumulated steps."""

from __future__ import annotations

import copy

import pytest
import torch

from rkld.errors import UserError
from rkld.losses.answers import to_labels
from rkld.losses.objective import REFUSALS, AnswerTerm, Objective, Term, answer, kept, scored
from rkld.training.gradients import check_gate, forgets
from rkld.training.trainer import ObjectiveTrainer
from tests.helpers import config, model, our_gradients, records


def below(forget, refusal):
    return refusal.log_likelihood - forget.log_likelihood  # two sets in one term


SETS = {
    "forget": records("f", [9, 14, 11, 6], 1, "spans"),
    "forget" + REFUSALS: records("f", [8, 13, 6, 9], 4),
    "retain": records("r", [7, 5, 10, 12], 3),
}
FORGET = AnswerTerm("forget", "forget", scored, below, 0.3, pair="forget" + REFUSALS)
HOLD = [Term("keep", "forget", kept, to_labels, 2.0), Term("retain", "retain", answer, to_labels, 0.7)]


def gradients(lm, terms, folder):
    """Of whole records at once, without a gate."""
    return our_gradients(lm, Objective.of(SETS, terms), config(folder))[1]


def stepped(lm, terms, folder, accumulation, **values):
    """What the optimizer would be given."""
    parts = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = ObjectiveTrainer(lm, config(folder, **parts, **values), Objective.of(SETS, terms))
    lm.model.zero_grad()
    total = 0.0
    for i in range(accumulation):
        trainer.accelerator.gradient_state._set_sync_gradients(i == accumulation - 1)
        total += trainer.training_step(lm.model, trainer.batches[i]).item()
    return total, {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-6 * expected[name].norm(), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_weight_takes_the_gradient_that_forgets_or_the_one_that_holds(accumulation, tmp_path):
    """SAGO: of the whole step, after accumulation. Gated micro-batch by micro-batch, the signs would be others."""
    lm = model()
    forget, hold = gradients(lm, [FORGET], tmp_path / "f"), gradients(lm, HOLD, tmp_path / "h")
    total, found = stepped(lm, [FORGET, *HOLD], tmp_path, accumulation, gate="sago")
    same(found, {n: torch.where(forget[n] * hold[n] < 0, hold[n], forget[n]) for n in hold})
    assert total == pytest.approx(our_gradients(lm, Objective.of(SETS, [FORGET, *HOLD]), config(tmp_path))[0])


def test_the_gradient_that_forgets_is_taken_up_its_own_way(tmp_path):
    """SAM: at θ + ρ g / ‖g‖, the other at θ; and the weights are the same afterwards, to the bit."""
    lm = model()
    before, forget = copy.deepcopy(lm.model.state_dict()), gradients(lm, [FORGET], tmp_path / "f")
    norm = torch.stack([g.norm() for g in forget.values()]).norm()
    up = model()
    with torch.no_grad():
        for name, p in up.model.named_parameters():
            p.add_(forget[name], alpha=(0.05 / norm).item())
    at, hold = gradients(up, [FORGET], tmp_path / "u"), gradients(lm, HOLD, tmp_path / "h")
    _, found = stepped(lm, [FORGET, *HOLD], tmp_path, 1, sam=0.05)
    same(found, {n: at[n] + hold[n] for n in hold})
    assert all((at[n] - forget[n]).norm() > 1e-3 * forget[n].norm() for n in hold)
    assert all(torch.equal(before[n], p) for n, p in lm.model.state_dict().items())


def test_a_gate_needs_two_gradients():
    assert forgets(FORGET) and not any(map(forgets, HOLD))
    check_gate("sago", [FORGET, *HOLD])
    for terms in ([FORGET], HOLD, []):
        check_gate("none", terms)
        with pytest.raises(UserError, match="nothing does one of them"):
            check_gate("sago", terms)
