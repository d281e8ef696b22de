"""The objective as trained, through the real trainer and cache, against a plain implementation with full logits.

The plain one keeps three models, pads nothing, forms (L, V) logits of whole sequences, and lets autograd work.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback

from rkld.errors import Diverged, UserError
from rkld.losses.micro_batches import MicroBatches, plan_steps, split
from rkld.losses.objective import Constraint, Objective, Term, answer, evaluate
from rkld.losses.targets import to_labels
from rkld.models.hidden_states import states
from rkld.training.callbacks import TimedCheckpoint
from rkld.training.terms import build_objective
from rkld.training.trainer import ObjectiveTrainer, fit
from tests.helpers import config, model, our_gradients, records, strengthen_noisily, teacher_of


def plain_loss(student, original, strengthened, sets, args) -> torch.Tensor:
    """The objective of one step in which every record of every set takes part, written down naively."""

    def log_probs(net, e):
        return torch.log_softmax(logits(net, e), -1)

    def logits(net, e):
        return net(input_ids=torch.tensor([e.ids])).logits[0, :-1]  # row t − 1 predicts token t

    def mean(found, records, mask):
        return sum(found) / sum(sum(mask(e)) for e in records)

    forget, keep, replay, retain = [], [], [], []
    for e in sets["forget"]:
        with torch.no_grad():
            l_o, l_aug = logits(original, e), logits(strengthened, e)
            target = torch.log_softmax(l_o - args.alpha * F.relu(l_aug - l_o), -1)
        student_rows = log_probs(student, e)
        if args.method == "rkld":
            kl = (student_rows.exp() * (student_rows - target)).sum(-1)
        elif args.method == "jensen_shannon":
            mixed = torch.log((student_rows.exp() + target.exp()) / 2)
            kl = (student_rows.exp() * (student_rows - mixed) + target.exp() * (target - mixed)).sum(-1) / 2
        else:
            kl = (target.exp() * (target - student_rows)).sum(-1)
        forget.append(kl[torch.tensor(e.scored[1:])].sum())
        to_original = F.kl_div(student_rows, log_probs(original, e).detach(), log_target=True, reduction="none").sum(-1)
        keep.append(to_original[torch.tensor([a and not s for a, s in zip(e.answer, e.scored)][1:])].sum())
    for name, found in (("replay", replay), ("retain", retain)):
        for e in sets.get(name, []):
            rows = log_probs(student, e)
            if name == "retain" and args.retain_loss == "rt":
                values = -rows.gather(-1, torch.tensor(e.ids[1:])[:, None])[:, 0]
            else:
                values = F.kl_div(rows, log_probs(original, e).detach(), log_target=True, reduction="none").sum(-1)
            found.append(values[torch.tensor(e.answer[1:])].sum())
    total = mean(forget, sets["forget"], lambda e: e.scored)
    if args.score == "spans":
        total = total + args.keep_weight * mean(
            keep, sets["forget"], lambda e: [a and not s for a, s in zip(e.answer, e.scored)]
        )
    if replay:
        total = total + args.replay_weight * mean(replay, sets["replay"], lambda e: e.answer)
    if retain:
        total = total + args.retain_weight * mean(retain, sets["retain"], lambda e: e.answer)
    return total


CASES = {
    "published": {},
    "replay": {"replay": True},
    "kl": {"retain": True},
    "rt": {"retain": True, "retain_loss": "rt", "retain_weight": 0.7},
    "forward": {"method": "forward_kl", "replay": True},
    "jensen_shannon": {"method": "jensen_shannon"},
    "spans": {"score": "spans", "replay": True, "alpha": 4.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_loss_and_gradients_equal_the_plain_implementation(case, tied, lora, tmp_path, monkeypatch):
    """Value and every parameter's gradient to 1e-10 in float64. Masks, shift, cache, heads, weights all enter."""
    chosen = dict(CASES[case])
    sets = {"forget": records("f", [9, 14, 11, 6], 1, chosen.get("score", "answer"))}
    if chosen.pop("replay", False):
        sets["replay"] = records("p", [7, 12, 5, 10], 2)
    if chosen.pop("retain", False):
        sets["retain"] = records("r", [8, 13, 6, 9], 3)
    args = config(tmp_path, **chosen)

    lm = model(tied, lora)
    original = copy.deepcopy(lm)
    strong = copy.deepcopy(lm)
    strengthen_noisily(strong)
    teacher = teacher_of(lm, strong, sets, tmp_path, monkeypatch, args)
    for (name, now), (_, before) in zip(lm.model.named_parameters(), original.model.named_parameters()):
        assert torch.equal(now, before), f"{name} was not restored after strengthening"
    strengthen_noisily(lm, seed=2)  # a student that has already moved away from the original

    objective = build_objective(sets, teacher, lm, args)
    loss, found = our_gradients(lm, objective, args)
    lm.model.zero_grad()
    expected = plain_loss(lm.model, original.model, strong.model, sets, args)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-10)
    wanted = {n: p.grad for n, p in lm.model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() and len(found) > 4
    for name in wanted:
        torch.testing.assert_close(
            found[name], wanted[name], rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("per_device, accumulation", [(1, 8), (2, 4), (4, 2)])
def test_accumulation_and_padding_change_nothing(per_device, accumulation, tmp_path, monkeypatch):
    """8 × 1 equals 1 × 8: terms of unequal length are averaged over the whole step, not per micro-batch."""
    sets = {
        "forget": records("f", [9, 30, 11, 6, 17, 5, 21, 8], 1),
        "replay": records("p", [7, 25, 5, 10, 6, 6, 40, 9], 2),
    }
    lm = model()
    strong = copy.deepcopy(lm)
    strengthen_noisily(strong)
    whole = config(tmp_path, per_device_train_batch_size=8)
    teacher = teacher_of(lm, strong, sets, tmp_path, monkeypatch, whole)
    expected = our_gradients(lm, build_objective(sets, teacher, lm, whole), whole)
    parts = config(tmp_path, per_device_train_batch_size=per_device, gradient_accumulation_steps=accumulation)
    found = our_gradients(lm, build_objective(sets, teacher, lm, parts), parts, accumulation)
    assert found[0] == pytest.approx(expected[0], abs=1e-10)
    for name in expected[1]:
        torch.testing.assert_close(found[1][name], expected[1][name], rtol=0, atol=1e-10)


def test_of_a_replayed_answer_what_is_not_scored_is_not_held(tmp_path, monkeypatch):
    """What it says of what is to be forgotten: with one token scored the term is that token's alone."""
    (pair,) = records("p", [12], 2)
    last = max(t for t, there in enumerate(pair.answer) if there)
    lm = model()
    strong = copy.deepcopy(lm)
    strengthen_noisily(strong)
    args = config(tmp_path)

    def rows(scored):
        sets = {"forget": records("f", [9], 1), "replay": [replace(pair, scored=tuple(scored))]}
        teacher = teacher_of(lm, strong, sets, tmp_path / str(sum(scored)), monkeypatch, args)
        term = next(term for term in build_objective(sets, teacher, lm, args).terms if term.name == "replay")
        return list(term.mask(sets["replay"][0]))

    assert rows(pair.answer) == list(pair.answer) and sum(pair.answer) > 1
    assert rows([t == last for t in range(len(pair.ids))]) == [t == last for t in range(len(pair.ids))]


def test_two_processes_share_a_step(tmp_path, monkeypatch):
    """The mean over two processes' gradients, also with fewer records than parts, is one process's gradient."""
    sets = {"forget": records("f", [9, 30, 11], 1), "replay": records("p", [7, 25, 5], 2)}
    lm = model()
    strong = copy.deepcopy(lm)
    strengthen_noisily(strong)
    args = config(tmp_path, per_device_train_batch_size=8)
    teacher = teacher_of(lm, strong, sets, tmp_path, monkeypatch, args)
    objective = build_objective(sets, teacher, lm, args)

    def gradient(processes, accumulation):
        gradients = []
        for process in range(processes):
            lm.model.zero_grad()
            batches = MicroBatches(objective, batch_size=8, accumulation=accumulation, epochs=1, seed=3,
                                   processes=processes, process=process, dtype=torch.float64)  # fmt: skip
            for i in range(accumulation):
                batch = batches[i]
                found = states(lm.backbone, batch["input_ids"])
                evaluate(objective.terms, batch, found, lm.head)[0].backward()
            gradients.append(lm.head.weight.grad.clone())
        return sum(gradients) / processes

    torch.testing.assert_close(gradient(2, 4), gradient(1, 1), rtol=0, atol=1e-10)


def test_each_epoch_sees_every_forget_record_once_and_no_step_repeats_one():
    steps = plan_steps({"forget": 10, "replay": 7, "retain": 3}, batch_size=4, epochs=3, seed=0)
    assert len(steps) == 9
    for epoch in range(3):
        seen = [i for step in steps[3 * epoch : 3 * epoch + 3] for i in step["forget"]]
        assert sorted(seen) == list(range(10))
    for step in steps:
        for name, size in (("replay", 4), ("retain", 3)):
            assert len(set(step[name])) == len(step[name]) == size
    assert steps == plan_steps({"forget": 10, "replay": 7, "retain": 3}, batch_size=4, epochs=3, seed=0)
    assert steps != plan_steps({"forget": 10, "replay": 7, "retain": 3}, batch_size=4, epochs=3, seed=1)


def test_split_puts_like_lengths_together():
    assert split([5, 1, 4, 2], 2) == [[0, 2], [3, 1]]
    assert sorted(i for part in split([3, 1, 2], 5) for i in part) == [0, 1, 2]


def test_training_resumed_from_a_checkpoint_ends_where_it_would_have(tmp_path, monkeypatch):
    """Interrupted after 5 of 9 steps and started again: the same records follow, the same weights come out."""
    from rkld.training.trainer import fine_tune

    found = records("f", [9, 14, 11, 6, 8, 12], 1)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                control.should_save = control.should_training_stop = True

    def args(folder):
        return config(folder, num_train_epochs=3, per_device_train_batch_size=2)

    straight, halted, resumed = model(), model(), model()
    logged = {}
    monkeypatch.setattr(Trainer, "log", lambda self, logs, *a, **k: logged.setdefault(self.args.output_dir, []).append(
        logs.get("answers")))  # fmt: skip
    fine_tune(straight, found, args(tmp_path / "a"))
    fine_tune(halted, found, args(tmp_path / "b"), [Stop()])
    assert not torch.equal(straight.head.weight, halted.head.weight)
    # What a killed checkpoint leaves: newer, and its state cut short.
    broken = tmp_path / "b/checkpoint-7"
    broken.mkdir()
    (broken / "trainer_state.json").write_text((tmp_path / "b/checkpoint-5/trainer_state.json").read_text()[:100])
    logged[str(tmp_path / "b")].clear()
    fine_tune(resumed, found, args(tmp_path / "b"))
    torch.testing.assert_close(resumed.head.weight, straight.head.weight, rtol=0, atol=1e-10)
    after = logged[str(tmp_path / "a")][5:9]
    assert logged[str(tmp_path / "b")][:4] == pytest.approx(after), "a resumed run's losses are of its own steps"


def of_answers(lm, args, n=8) -> ObjectiveTrainer:
    sets = {"forget": records("f", [6] * n, 1)}
    return ObjectiveTrainer(lm, args, Objective(sets, [Term("answers", "forget", answer, to_labels)]))


@pytest.mark.parametrize(
    ("values", "steps"),
    [({"num_train_epochs": 5}, 2), ({"num_train_epochs": 1}, 1), ({"num_train_epochs": 0.5}, 0), ({"max_steps": 2}, 1),
     ({"num_train_epochs": 5, "warmup_steps": 3}, 3)],
)  # fmt: skip
def test_the_warm_up_is_of_the_steps_that_are_trained(values, steps, tmp_path):
    """An epoch's, at most half of them; the user's own where it is given. The settings stay the caller's."""
    args = config(tmp_path, **values)
    before = args.warmup_steps
    assert of_answers(model(), args).args.warmup_steps == steps
    assert args.warmup_steps == before


@pytest.mark.parametrize("first", [0, 300])
def test_processes_confer_about_checkpoints_a_few_times_not_every_step(first, monkeypatch):
    """To confer halts a GPU; and a checkpoint must not come much later than it was asked for, also after a resume."""
    clock, asked, saved = [5000.0], [], []
    monkeypatch.setattr("rkld.training.callbacks.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("rkld.training.callbacks.broadcast_object_list", lambda values: asked.append(values) or values)
    callback = TimedCheckpoint(minutes=10)
    clock[0] += 900  # the model is loaded
    state = SimpleNamespace(global_step=first, max_steps=first + 1000)
    callback.on_train_begin(None, state, None)
    for state.global_step in range(first + 1, first + 1001):
        clock[0] += 2.0
        control = SimpleNamespace(should_save=False)
        callback.on_step_end(None, state, control)
        saved += [state.global_step - first] * control.should_save
    assert saved == [300, 600, 900] and len(asked) < 50


def test_a_diverged_training_ends_at_once(tmp_path):
    """Going on would end with a model of NaNs, which every metric takes for one that has forgotten."""
    lm = model(dtype=torch.float32)
    with torch.no_grad():
        lm.head.weight[5] = float("nan")
    with pytest.raises(Diverged, match=r"step 1.*learning rate"):
        of_answers(lm, config(tmp_path)).train()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("ends", ["well", "diverged"])
def test_a_model_trained_in_bfloat16_answers_as_before_when_it_goes_on_in_memory(tmp_path, lora, ends):
    """accelerate left its autocast around the model: what was measured next was read in bfloat16."""
    lm = model(dtype=torch.float32, lora=lora)
    ids = torch.tensor([[1, 5, 9, 4, 7]])
    trainer = of_answers(lm, config(tmp_path, bf16=True, learning_rate=0.0))
    before = lm.model(input_ids=ids).logits.detach()

    class End(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            raise Diverged("so")

    if ends == "diverged":
        trainer.add_callback(End())
        with pytest.raises(Diverged):
            fit(trainer)
    else:
        fit(trainer)
    assert torch.equal(lm.model(input_ids=ids).logits, before)
    assert not {"forward", "_original_forward"} & set(vars(lm.model))


def test_weights_that_are_no_numbers_after_the_last_step_are_no_result(tmp_path):
    """No loss is taken of them any more: they would be saved as the student."""

    class Ruin(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **_):
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    lm = model(dtype=torch.float32)
    trainer = of_answers(lm, config(tmp_path))
    trainer.add_callback(Ruin())
    with pytest.raises(Diverged):
        fit(trainer)


@pytest.mark.parametrize("dtype, values", [(torch.float32, {"fp16": True}), (torch.float16, {})])
def test_float16_is_refused(dtype, values, tmp_path):
    """Its gradients underflow: a run would end well and have changed nothing."""
    with pytest.raises(UserError, match="bfloat16"):
        of_answers(model(dtype=dtype), config(tmp_path, **values))


def test_speed_counts_real_tokens_and_padding_apart(tmp_path):
    """Padding counted as tokens would make badly sorted batches look fast."""
    sets = {"forget": records("f", [9, 5, 4, 4], 1)}
    lm = model()
    objective = Objective(sets, [Term("answers", "forget", answer, to_labels)])
    trainer = ObjectiveTrainer(lm, config(tmp_path), objective)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    assert line["padding"] == pytest.approx(1 - 22 / 36, abs=1e-4)
    assert line["tokens_per_second"] > 0


def test_a_step_is_not_split_into_more_parts_than_it_has_records(tmp_path):
    """--batch-size 100000 of two records made 25000 forward passes a step, all but two of weight 0."""
    lm, sets = model(), {"forget": records("f", [6, 9], 0)}
    objective = Objective(sets, [Term("answers", "forget", answer, to_labels)])
    trainer = ObjectiveTrainer(lm, config(tmp_path, gradient_accumulation_steps=25_000), objective)
    assert (trainer.args.gradient_accumulation_steps, len(trainer.batches)) == (2, 2)


# Terms with a constraint


def constrained(folder, **values):
    """Cross-entropy on "r", with a weight of 2 at first, that is to stay below 3 nats; and on "f"."""
    lm, sets = model(), {"f": records("f", [9, 14, 11, 6], 1), "r": records("r", [8, 13, 6, 9], 3)}
    hold = Term("hold", "r", answer, to_labels, 2.0, constraint=Constraint(bound=3.0, rate=0.5, wait=1))
    args = config(folder, num_train_epochs=4, learning_rate=1e-2, warmup_epochs=0.0, **values)
    return ObjectiveTrainer(lm, args, Objective(sets, [Term("forget", "f", answer, to_labels), hold]))


def test_a_constraint_moves_its_weight_by_what_the_term_is_above_it(tmp_path):
    """λ ← max(0, λ + rate · (value − bound)), from the end of the first epoch: an accumulated step counts once."""
    trainer = constrained(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    fit(trainer)
    values = [line["hold"] for line in trainer.state.log_history if "hold" in line]
    weight = 2.0
    for value in values:  # a step is an epoch here
        weight = max(0.0, weight + 0.5 * (value - 3.0))
    assert len(values) == 4 and weight != 2.0
    assert trainer._learned.weights == {"hold": pytest.approx(weight)}
    assert Constraint(1.0, 10.0).next_weight(2.0, 0.5) == 0


def test_a_learned_weight_is_the_terms(tmp_path):
    """The gradient is that of the term at its weight of now; at 0 its own value is still read."""
    for weight in (7.0, 0.0):
        trainer = constrained(tmp_path / str(weight))
        trainer._learned.weights["hold"] = weight
        lm, sets = trainer.lm, trainer.objective.sets
        lm.model.zero_grad()
        loss = trainer.compute_loss(lm.model, trainer.batches[0])
        loss.backward()
        found = {n: p.grad.clone() for n, p in lm.model.named_parameters()}
        lm.model.zero_grad()
        means = {}
        for name, some in sets.items():
            rows = [lm.model(input_ids=torch.tensor([e.ids])).logits[0, :-1][torch.tensor(e.answer[1:])] for e in some]
            labels = torch.tensor([i for e in some for i, a in zip(e.ids, e.answer) if a])
            means[name] = F.cross_entropy(torch.cat(rows), labels)
        expected = means["f"] + weight * means["r"]
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        for n, p in lm.model.named_parameters():
            torch.testing.assert_close(found[n], p.grad, rtol=1e-6, atol=1e-9)
        assert trainer._mean_of_step("hold") == pytest.approx(means["r"].item())


def test_a_resumed_training_goes_on_with_the_learned_weight(tmp_path):
    """Interrupted after its second step: otherwise the bound would be let go of at every start."""
    whole = constrained(tmp_path / "a")
    fit(whole)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 2

    for callbacks in ([Stop()], []):
        trainer = constrained(tmp_path / "b")
        for callback in callbacks:
            trainer.add_callback(callback)
        fit(trainer)
    assert trainer.state.global_step == 4
    assert trainer._learned.weights["hold"] == pytest.approx(whole._learned.weights["hold"], rel=1e-6)
