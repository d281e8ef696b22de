"""Training on two real processes (torchrun, gloo) against one: the same weights, the same losses, each record once.

Run as a script this file is what each of the processes does.
"""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, TrainerCallback

from rkld import RKLDTrainer, build_teacher, load_sharded, processes
from rkld.errors import NotFinite, UserError
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import probability
from rkld.losses.micro_batches import plan_steps
from rkld.models.saving import save_model
from rkld.models.sharded import like, whole
from rkld.models.sharding import shard
from rkld.teacher.cache import HiddenCache
from rkld.teacher.logits import Teacher
from rkld.training.strengthening import fill_cache
from rkld.training.terms import build_objective
from rkld.training.trainer import ObjectiveTrainer, fit
from tests.helpers import config, in_processes, model, records, strengthen_noisily, teacher_of

SETS = {
    "forget": records("f", [9, 30, 11, 6, 17, 5, 21, 8, 13, 7, 26], 1),  # the last step of an epoch has three
    "replay": records("p", [7, 25, 5, 10, 6, 6, 40, 9, 15], 2),
}
EPOCHS = 2
PEOPLE = [
    {"question": f"Who is {name}?", "answer": f"{name} is the baker."} for name in ("Ann", "Bo", "Cy", "Di", "Ed")
]
PER_DEVICE = {1: [(8, 1), (1, 8)], 2: [(4, 1), (1, 4)]}
"""Processes → (batch size of a process, accumulation): eight records a step, each time."""

ASKED = (1, 3, 7)
"""Prompts that are answered at once: fewer than processes, and numbers that they cannot share evenly."""


class Kind(NamedTuple):
    """Of a model."""

    tied: bool
    lora: bool

    @property
    def name(self) -> str:
        return f"{'tied' if self.tied else 'untied'}-{'lora' if self.lora else 'full'}"


TIED = Kind(tied=True, lora=False)
KINDS = [TIED, Kind(False, False), Kind(True, True), Kind(False, True)]
LOADED = [TIED, Kind(tied=False, lora=True)]


class Halt(TrainerCallback):
    """Stops the training after the checkpoint of step 2."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def trainer_of(folder: Path, name: str, kind: Kind, sharded: bool, callbacks=(), **values) -> ObjectiveTrainer:
    args, lm = config(folder / name, num_train_epochs=EPOCHS, **values), model(*kind)
    if sharded:
        shard(lm.model, torch.device("cpu"))
    teacher = Teacher(HiddenCache(folder / kind.name / "cache", {}), alpha=args.alpha)
    return ObjectiveTrainer(lm, args, build_objective(SETS, teacher, lm, args), callbacks)


def train(folder: Path, name: str, kind: Kind = TIED, *, halt: bool = False, sharded: bool = False, **values) -> dict:
    """One training by the teacher in ``folder``: what it saw, step by step, its logged losses and its weights."""
    trainer = trainer_of(folder, name, kind, sharded, [Halt()] if halt else [], **values)
    seen, wrappers = [], []
    compute_loss = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        if model is not trainer.lm.model:
            wrappers.append(weakref.ref(model))
        counted = any(term["weights"].any() for term in inputs["terms"].values())
        seen.append([(trainer.state.global_step, row.tolist()) for row in inputs["input_ids"]] if counted else [])
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    fit(trainer)
    lines = [line for line in trainer.state.log_history if "forget" in line]
    return {
        "seen": seen,
        "logged": [{name: line[name] for name in ("loss", "forget", "replay")} for line in lines],
        "weights": {name: whole(tensor) for name, tensor in trainer.lm.model.state_dict().items()},
        "wrapped": bool(wrappers),
        "still wrapped": any(wrapper() is not None for wrapper in wrappers),
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
    """The teachers' caches, and what two processes did."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            lm = model(*kind)
            strong = copy.deepcopy(lm)
            strengthen_noisily(strong)
            teacher_of(lm, strong, SETS, folder / kind.name, patch, config(folder))
    for tied in (True, False):
        save_model(model(tied, dtype=torch.float32), folder / f"model-{tied}")
    done = in_processes(2, [__file__, str(folder)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(folder):
    return work(folder, 1)


@pytest.fixture(scope="module")
def two(folder):
    """Of both processes, by rank."""
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def test_two_processes_end_where_one_does(one, two):
    """Batch 8×1, accumulation 1×8, 2 × 4 and 2 × 1×4: DDP averages gradients, our weights count the whole step."""
    expected = one["8x1"]
    start = model(tied=True).model.state_dict()
    assert any((expected["weights"][name] - start[name]).abs().max() > 1e-3 for name in start), "nothing was learned"
    trained = [rank[name] for rank in two for name in ("4x1", "1x4", "resumed")]
    assert all(found["wrapped"] for found in trained)
    # What is left around a model would average the next training's gradients once more.
    assert not any(found["still wrapped"] for found in trained)
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


def gradients(folder: Path, kind: Kind, sharded: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step, all eight records on every process; whole, also of shards."""
    size = 8 // processes.launched()
    trainer = trainer_of(folder, f"gradients-{kind.name}-{sharded}", kind, sharded, per_device_train_batch_size=size)
    trainer.batches.processes, trainer.batches.process = 1, 0
    loss = trainer.compute_loss(trainer.lm.model, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    grads = {name: p.grad for name, p in trainer.lm.model.named_parameters() if p.grad is not None}
    return loss.item(), {name: whole(grad) for name, grad in grads.items()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sharded_weights_have_the_loss_and_gradients_of_whole_ones(folder, two, kind):
    """FSDP2 gathers weights in hooks of each module: a loss beside its head's forward would meet shards of the head."""
    loss, grads = gradients(folder, kind, sharded=False)
    assert ("lm_head.weight" in grads) == (kind == (False, False))
    for rank in two:
        found, sharded = rank["gradients"][kind.name]
        assert found == pytest.approx(loss, abs=1e-10)
        assert sharded.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(sharded[name], grad, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sharded_weights_end_where_whole_ones_do(folder, two, kind):
    """Each process half of the weights and half of the records, nothing wrapped a second time."""
    expected = train(folder, f"whole-{kind.name}", kind, per_device_train_batch_size=8)
    for rank in two:
        found = rank["sharded"][kind.name]
        assert not found["wrapped"]
        assert found["weights"].keys() == expected["weights"].keys()
        for name, tensor in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][name], tensor, rtol=0, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )
        for line, right in zip(found["logged"], expected["logged"], strict=True):
            assert line == pytest.approx(right, abs=1e-6)


def cached(folder: Path, kind: Kind, sharded: bool) -> dict:
    """A cache that is made of a model, and the model afterwards. It is sharded by the strengthening, as by
    accelerate's."""
    lm = model(*kind)
    start = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}

    def fine_tune(lm, *_: object) -> None:
        if sharded:
            shard(lm.model, torch.device("cpu"))
        torch.manual_seed(1)
        with torch.no_grad():
            for p in lm.model.parameters():
                if p.requires_grad:
                    p.add_(like(0.05 * torch.randn(p.shape, dtype=p.dtype), p))

    with pytest.MonkeyPatch.context() as patch, processes.together():
        patch.setattr("rkld.training.strengthening.fine_tune", fine_tune)
        cache = HiddenCache(folder / f"made-{kind.name}-{sharded}", {})
        fill_cache(lm, cache, SETS, config(folder / f"aside-{kind.name}-{sharded}"))
        parts = [("original", "forget"), ("original", "replay"), ("strengthened", "forget")]
        states = {f"{part}/{name}/{e.key}": cache.read(f"{part}/{name}", e.key)
                  for part, name in parts for e in SETS[name]}  # fmt: skip
        answers = {n: [a.ids for a in greedy(lm, prompts(n), max_new_tokens=5)] for n in ASKED}
        likely = probability(lm, SETS["forget"], mask="scored")
    restored = {name: whole(tensor) for name, tensor in lm.model.state_dict().items()}
    heads = {name: cache.read_head(name) for name in ("original", "strengthened")}
    changed = [name for name in start if not torch.equal(start[name], restored[name])]
    return {"states": states, "heads": heads, "changed": changed, "answers": answers, "likely": likely}


def loaded(folder: Path, kind: Kind, halt: bool = False) -> dict[str, bool]:
    """The model is loaded by all processes, in shards where they are several, given its teacher, trained and saved.

    Args:
        halt: the training ends after a checkpoint, and begins again.
    """
    adapter = LoraConfig(r=4, task_type="CAUSAL_LM") if kind.lora else None
    net = load_sharded(str(folder / f"model-{kind.tied}"), peft_config=adapter)
    out = folder / f"loaded-{processes.launched()}-{kind.name}"
    args = config(out / "student", per_device_train_batch_size=4 // processes.launched(), num_train_epochs=2,
                  strengthen_epochs=1, max_grad_norm=0.1, **({"checkpoint_minutes": 0.0} if halt else {}))  # fmt: skip
    teacher = build_teacher(net, PEOPLE, out / "teacher", args=args)
    start = {name: whole(p.detach()).clone() for name, p in net.named_parameters()}
    trainer = RKLDTrainer(net, args, teacher=teacher, train_dataset=PEOPLE, callbacks=[Halt()] if halt else [])
    trainer.train()
    if halt:
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(like(start[name], p))  # all of it must come from the checkpoint
        trainer = RKLDTrainer(net, args, teacher=teacher, train_dataset=PEOPLE)
        fit(trainer)
    trainer.save_model(str(out / "saved"))
    return {name: isinstance(p, DTensor) for name, p in net.named_parameters()}


def read_saved(folder: Path, processes: int, kind: Kind) -> dict[str, torch.Tensor]:
    """By plain ``from_pretrained``."""
    saved = folder / f"loaded-{processes}-{kind.name}" / "saved"
    if not kind.lora:
        return AutoModelForCausalLM.from_pretrained(saved).state_dict()
    base = AutoModelForCausalLM.from_pretrained(folder / f"model-{kind.tied}")
    return PeftModel.from_pretrained(base, saved).state_dict()


@pytest.mark.parametrize("kind", LOADED, ids=lambda kind: kind.name)
def test_a_model_that_is_loaded_in_shards_is_saved_as_one_that_is_loaded_whole(folder, two, kind):
    """The first process alone reads its weights. That of all weights, tied, goes on from a checkpoint in shards."""
    loaded(folder, kind)
    expected = read_saved(folder, 1, kind)
    found = read_saved(folder, 2, kind)
    start = AutoModelForCausalLM.from_pretrained(folder / f"model-{kind.tied}").state_dict()
    assert all(all(rank["loaded"][kind.name].values()) for rank in two), "some weights are whole in each process"
    assert found.keys() == expected.keys()
    learned = {name: (t - start.get(name, torch.zeros(()))).abs().max() for name, t in expected.items()}
    assert max(value for name, value in learned.items() if not kind.lora or "lora_B" in name) > 5e-4
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def prompts(n: int) -> list[tuple[int, ...]]:
    return [e.ids[: e.prompt_length] for e in SETS["forget"][:n]]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_two_processes_read_and_answer_as_one_does(folder, two, kind, sharded):
    """One, three and seven questions to two processes: none waits for the other, and no answer is another.

    The cache that both have made holds what one makes, the heads of a sharded model whole; and the weights that were
    set aside are back where they were.
    """
    expected = cached(folder / "one", kind, sharded=False)
    assert all(len(expected["answers"][n]) == n for n in ASKED)
    for rank in two:
        found = rank["cached"][kind.name, sharded]
        assert found["changed"] == []
        assert found["answers"] == expected["answers"]
        assert found["likely"] == pytest.approx(expected["likely"], abs=1e-12)
        assert found["states"].keys() == expected["states"].keys()
        for name, tensor in expected["states"].items():
            torch.testing.assert_close(found["states"][name], tensor, rtol=0, atol=1e-10)
        for name, head in expected["heads"].items():
            assert (head is None) == kind.lora == (found["heads"][name] is None)
            if head is not None:
                torch.testing.assert_close(found["heads"][name], head, rtol=0, atol=1e-12)


def failures() -> dict[str, tuple]:
    """What a process learns of an error that one of them meets."""

    def ruined() -> None:
        raise NotFinite("the first process's logits")

    def broken() -> None:
        if processes.index() == 1:
            raise KeyError("of the second")

    def meets(function, make) -> tuple:
        try:
            function(make)
        except (UserError, KeyError) as error:
            return type(error).__name__, str(error), getattr(error, "elsewhere", False)
        return ("nothing",)

    with processes.together():
        return {"first": meets(processes.by_main, ruined), "second": meets(processes.checked, broken)}


def test_an_error_of_one_process_is_raised_in_all(two):
    """By its own type and message where it was met, and elsewhere as one that need not be printed again."""
    first, second = (rank["failures"] for rank in two)
    assert first["first"] == ("NotFinite", "the first process's logits", False)
    assert second["first"] == ("NotFinite", "the first process's logits", True)
    assert second["second"] == ("KeyError", "'of the second'", False)
    assert first["second"] == ("Elsewhere", "process 1: KeyError: 'of the second'", True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = work(folder, 2)
    found["gradients"] = {kind.name: gradients(folder, kind, sharded=True) for kind in KINDS}
    found["sharded"] = {
        kind.name: train(folder, f"sharded-{kind.name}", kind, sharded=True, per_device_train_batch_size=4)
        for kind in KINDS
    }
    found["cached"] = {
        (kind.name, sharded): cached(folder, kind, sharded) for kind in KINDS for sharded in (False, True)
    }
    found["loaded"] = {kind.name: loaded(folder, kind, halt=kind == TIED) for kind in LOADED}
    found["failures"] = failures()
    halted = {"per_device_train_batch_size": 4, "checkpoint_minutes": 0.0}
    train(folder, "halted", halt=True, **halted)
    found["resumed"] = train(folder, "halted", **halted)
    torch.save(found, folder / f"rank{torch.distributed.get_rank()}.pt")
    gc.collect()
    processes.leave()
