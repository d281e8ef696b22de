"""Training on two real processes (torchrun, gloo) against one: the same weights, the same losses, each record once.

Run as a script this file is what each of the processes does.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from rkld.losses.micro_batches import plan_steps
from rkld.teacher.cache import HiddenCache
from rkld.teacher.logits import Teacher
from rkld.training.terms import build_objective
from rkld.training.trainer import ObjectiveTrainer, fit
from tests.helpers import config, model, records, strengthen_noisily, teacher_of

SETS = {
    "forget": records("f", [9, 30, 11, 6, 17, 5, 21, 8, 13, 7, 26], 1),  # the last step of an epoch has three
    "replay": records("p", [7, 25, 5, 10, 6, 6, 40, 9, 15], 2),
}
EPOCHS = 2
PER_DEVICE = {1: [(8, 1), (1, 8)], 2: [(4, 1), (1, 4)]}
"""Processes → (batch size of a process, accumulation): eight records a step, each time."""


class Halt(TrainerCallback):
    """Stops the training after the checkpoint of step 2."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def train(folder: Path, name: str, *, halt: bool = False, **values) -> dict:
    """One training by the teacher in ``folder``: what it saw, step by step, its logged losses and its weights."""
    args = config(folder / name, num_train_epochs=EPOCHS, **values)
    lm = model(tied=True)
    objective = build_objective(SETS, Teacher(HiddenCache(folder / "cache", {}), alpha=args.alpha), lm, args)
    trainer = ObjectiveTrainer(lm, args, objective, [Halt()] if halt else [])
    seen = []
    compute_loss = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        counted = any(term["weights"].any() for term in inputs["terms"].values())
        seen.append([(trainer.state.global_step, row.tolist()) for row in inputs["input_ids"]] if counted else [])
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    fit(trainer)
    lines = [line for line in trainer.state.log_history if "forget" in line]
    return {
        "seen": seen,
        "logged": [{name: line[name] for name in ("loss", "forget", "replay")} for line in lines],
        "weights": lm.model.state_dict(),
        "wrapped": trainer.model_wrapped is not lm.model,
    }


def work(folder: Path, processes: int) -> dict[str, dict]:
    found = {}
    for per_device, accumulation in PER_DEVICE[processes]:
        found[f"{per_device}x{accumulation}"] = train(
            folder, f"{processes}-{per_device}", per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The teacher's cache, and what two processes did."""
    folder = tmp_path_factory.mktemp("processes")
    lm = model(tied=True)
    strong = copy.deepcopy(lm)
    strengthen_noisily(strong)
    with pytest.MonkeyPatch.context() as patch:
        teacher_of(lm, strong, SETS, folder, patch, config(folder))
        untied = model(tied=False)
        strong = copy.deepcopy(untied)
        strengthen_noisily(strong)
        teacher_of(untied, strong, SETS, folder / "untied", patch, config(folder))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, __file__, str(folder)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(folder):
    return work(folder, 1)


@pytest.fixture(scope="module")
def two(folder):
    """Of both processes, by rank."""
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_two_processes_end_where_one_does(one, two):
    """Batch 8×1, accumulation 1×8, 2 × 4 and 2 × 1×4: DDP averages gradients, our weights count the whole step."""
    expected = one["8x1"]
    start = model(tied=True).model.state_dict()
    assert any((expected["weights"][name] - start[name]).abs().max() > 1e-3 for name in start), "nothing was learned"
    trained = [found for rank in two for name, found in rank.items() if name != "gradients"]
    assert all(found["wrapped"] for found in trained)
    for found in [one["1x8"], *trained]:
        for name, tensor in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][name], tensor, rtol=0, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )


def test_two_processes_log_what_one_does(one, two):
    """A loss is the step's, not the part of it that the first process saw."""
    expected = one["8x1"]["logged"]
    assert len(expected) == 4
    for found in [one["1x8"], two[0]["4x1"], two[0]["1x4"]]:
        for line, right in zip(found["logged"], expected, strict=True):
            assert line == pytest.approx(right, abs=1e-6)  # the Trainer adds losses up in float32


@pytest.mark.parametrize("split", ["4x1", "1x4"])
def test_every_record_of_a_step_is_drawn_by_one_process_once(two, split):
    """Samplers that repeat records to even out the processes would count some twice."""
    steps = plan_steps({name: len(found) for name, found in SETS.items()}, 8, EPOCHS, seed=3)
    for step, drawn in enumerate(steps):
        wanted = [SETS[name][i].ids for name, chosen in drawn.items() for i in chosen]
        width = max(map(len, wanted))
        found = [ids for rank in two for micro in rank[split]["seen"] for at, ids in micro if at == step]
        assert sorted(padded(found, width)) == sorted(padded(wanted, width))


def padded(rows, width: int) -> list[list[int]]:
    return [[*row, *[0] * width][:width] for row in rows]


def test_two_processes_go_on_from_a_checkpoint(two):
    """Halted after a checkpoint and started again, they end where they would have: none saves or loads alone."""
    for rank in two:
        for name, tensor in rank["4x1"]["weights"].items():
            torch.testing.assert_close(rank["resumed"]["weights"][name], tensor, rtol=0, atol=1e-9)
        assert len(rank["resumed"]["seen"]) == 2


def sharded_gradients(folder: Path, shard: bool) -> dict[str, torch.Tensor]:
    """Of the first step, all eight records on every process; whole, also where the weights were sharded by FSDP2."""
    args = config(folder / f"sharded-{shard}", per_device_train_batch_size=8)
    lm = model(tied=False)
    objective = build_objective(SETS, Teacher(HiddenCache(folder / "untied/cache", {}), alpha=args.alpha), lm, args)
    trainer = ObjectiveTrainer(lm, args, objective)
    trainer.batches.processes, trainer.batches.process = 1, 0
    inputs = next(iter(trainer.get_train_dataloader()))
    if shard:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in lm.model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(lm.model, mesh=mesh)
    trainer.compute_loss(lm.model, inputs).backward()
    whole = {name: p.grad for name, p in lm.model.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if shard else grad for name, grad in whole.items()}


def test_sharded_weights_have_the_gradients_of_whole_ones(two):
    """FSDP2 gathers weights in hooks of the module itself: a loss beside its forward would meet shards of the head."""
    for rank in two:
        whole, sharded = rank["gradients"][False], rank["gradients"][True]
        assert whole.keys() == sharded.keys() and "lm_head.weight" in whole
        for name, grad in whole.items():
            torch.testing.assert_close(sharded[name], grad, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = work(folder, 2)
    found["gradients"] = {shard: sharded_gradients(folder, shard) for shard in (False, True)}
    halted = {"per_device_train_batch_size": 4, "checkpoint_minutes": 0.0}
    train(folder, "halted", halt=True, **halted)
    found["resumed"] = train(folder, "halted", **halted)
    torch.save(found, folder / f"rank{torch.distributed.get_rank()}.pt")
