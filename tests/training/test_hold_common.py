"""What does not depend on the person is held: the objective against the formula in plain torch, and a whole run."""

from __future__ import annotations

import json

import pytest
import torch

import rkld
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.losses.micro_batches import MicroBatches
from rkld.losses.objective import evaluate
from rkld.models.hidden_states import states
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.settings.unlearning import Settings
from rkld.teacher.cache import HiddenCache
from rkld.teacher.logits import Teacher
from rkld.training.config import RKLDConfig
from rkld.training.floor import dependences, swapped_records
from rkld.training.gradients import forgets
from rkld.training.identity import cache_identity
from rkld.training.strengthening import fill_cache
from rkld.training.terms import build_objective

ALPHA = 4.0
WORLD = people(n=4, seed=0)
FORGET = [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in WORLD.forget([0])][:5]


def in_logits(lm, e) -> torch.Tensor:
    return lm.model(torch.tensor([e.ids])).logits[0]


@pytest.mark.parametrize("per_step", [1, 2, 5])
@pytest.mark.parametrize("tau", [0.001, 0.02, 1.0])
def test_the_objective_is_the_formula(tmp_path, tau, per_step):
    """w · KL(π_θ ‖ π_t) + (1 − w) · KL(π_o ‖ π_θ), in value and gradient; other tokens of an answer are kept."""
    model, tokenizer = tiny_model(0)
    lm, encoder = load_model(model, tokenizer=tokenizer), Encoder(tokenizer)
    forget = [encoder.encode(r, "added") for r in read_records(FORGET, "forget")]
    swapped = swapped_records(forget, encoder, lm, (str(FORGET[0]["subject"]),), "added", 0)
    args = RKLDConfig(str(tmp_path / "s"), num_train_epochs=2, learning_rate=3e-3, per_device_train_batch_size=4,
                      score="added", use_cpu=True)  # fmt: skip
    cache, sets = HiddenCache(tmp_path / "cache", {}), {"forget": forget}
    fill_cache(lm, cache, sets, args, swapped=swapped, floor=False, dependence=True)
    assert not cache.done("uninformed/forget")
    depends = dict(dependences(lm, forget, swapped))
    original = {e.key: in_logits(lm, e).detach().log_softmax(-1) for e in forget}
    head = cache.read_head("strengthened")
    strengthened = {e.key: cache.read("strengthened/forget", e.key) @ head["weight"].T for e in forget}
    raw = {e.key: in_logits(lm, e).detach() for e in forget}
    with torch.no_grad():  # the student, somewhere else
        torch.manual_seed(1)
        for p in lm.model.parameters():
            p.add_(0.02 * torch.randn_like(p))

    teacher = Teacher(cache, alpha=ALPHA, hold_common=tau)
    objective = build_objective(sets, teacher, lm, args)
    assert [term.name for term in objective.terms] == ["forget", "common", "keep"]
    assert list(map(forgets, objective.terms)) == [True, False, False], "SAGO's gate would hold it with the wrong side"
    batches = MicroBatches(objective, batch_size=5, accumulation=per_step, epochs=1, seed=0)
    total = 0.0
    for i in range(per_step):
        batch = batches[i]
        value, _ = evaluate(objective.terms, batch, states(lm.backbone, batch["input_ids"]), lm.head)
        value.backward()
        total += float(value.detach())
    got = {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}
    lm.model.zero_grad()

    shares, values = [], {"forget": [], "common": [], "keep": []}
    for e in forget:
        log_p = in_logits(lm, e).log_softmax(-1)
        marked_rows = [t for t, a in enumerate(e.answer) if a]
        for row, t in enumerate(marked_rows):
            p, o = log_p[t - 1], original[e.key][t - 1]
            if not e.scored[t]:
                values["keep"].append((o.exp() * (o - p)).sum())
                continue
            l_o = raw[e.key][t - 1]
            target = (l_o - ALPHA * (strengthened[e.key][row] - l_o).relu()).log_softmax(-1)
            w = (depends[e.key][row] / tau).clamp(max=1.0)
            shares.append(float(w))
            values["forget"].append(w * (p.exp() * (p - target)).sum())
            values["common"].append((1 - w) * (o.exp() * (o - p)).sum())
    expected = sum(torch.stack(values[name]).sum() for name in ("forget", "common")) / len(shares)
    expected = expected + args.keep_weight * torch.stack(values["keep"]).mean()
    expected.backward()
    assert min(shares) < 1.0 or tau < 0.02, "nothing is held"
    assert total == pytest.approx(float(expected.detach()), rel=1e-4)
    for name, p in lm.model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-3, atol=1e-6)


def test_another_use_of_others_is_another_cache(tmp_path):
    model, tokenizer = tiny_model(0)
    lm, encoder = load_model(model, tokenizer=tokenizer), Encoder(tokenizer)
    sets = {"forget": [encoder.encode(record, "added") for record in read_records(FORGET, "forget")]}
    args = RKLDConfig(str(tmp_path / "s"), use_cpu=True)
    uses = [{"floor": True}, {"floor": True, "dependence": True}, {"floor": False, "dependence": True}]
    found = [json.dumps(cache_identity(lm, sets, args, sets["forget"][:1], **use), sort_keys=True) for use in uses]
    assert len(set(found)) == 3
    assert found[0] == json.dumps(cache_identity(lm, sets, args, sets["forget"][:1]), sort_keys=True)


def test_a_run_holds_what_is_common_where_it_is_asked_to(tmp_path):
    """Off it is the run as it was; on, its log says what the held places cost."""
    fast = {"epochs": 1, "strengthen_epochs": 1, "lr": 1e-3, "batch_size": 5, "max_new_tokens": 4, "reword": 0,
            "replay": "none", "stop": "last", "bf16": False}  # fmt: skip
    model, tokenizer = tiny_model(0)
    save_model(load_model(model, tokenizer=tokenizer), small := tmp_path / "model")
    lines = {}
    for tau in (0.0, 0.5):
        out = tmp_path / str(tau)
        rkld.unlearn(str(small), FORGET, out=str(out), hold_common=tau, **fast)
        lines[tau] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert not any("common" in line for line in lines[0.0])
    assert any("common" in line for line in lines[0.5])
    with pytest.raises(rkld.UserError, match="hold-common"):
        Settings(model="m", forget="f", hold_common=-1.0)
