"""Log-probabilities kept whole: the same loss and gradients as the teacher made anew, and never what does not fit."""

from __future__ import annotations

import copy

import pytest
import torch

from rkld.teacher.kept import Kept, keep, room_for
from rkld.training.terms import build_objective
from tests.helpers import config, model, our_gradients, records, strengthen_noisily, teacher_of


def objective_of(lm, folder, monkeypatch, **values):
    """Spans that are unlearned, what is kept of the same answers, and replay."""
    strong = copy.deepcopy(lm)
    strengthen_noisily(strong)
    sets = {"forget": records("f", (9, 14, 11), 1, "spans"), "replay": records("p", (8, 6), 2)}
    args = config(folder, score="spans", alpha=8.0, keep_weight=1.0, replay_weight=2.0, **values)
    teacher = teacher_of(lm, strong, sets, folder, monkeypatch, args)
    strengthen_noisily(lm, seed=2)
    return build_objective(sets, teacher, lm, args), args


@pytest.mark.parametrize("method", ["rkld", "jensen_shannon", "undial", "shred"])
@pytest.mark.parametrize("lora", [False, True])
def test_kept_log_probabilities_give_the_same_step(tmp_path, monkeypatch, method, lora):
    lm = model(lora=lora)
    objective, args = objective_of(lm, tmp_path, monkeypatch, method=method)
    total, gradients = our_gradients(lm, objective, args)
    kept = keep(objective, lm, 1 << 30)
    assert [type(term.loss.target) for term in kept.terms] == [Kept] * 3
    assert all(not p.startswith(("original", "strengthened")) for term in kept.terms for p in term.cached)
    again, found = our_gradients(lm, kept, args)
    assert again == pytest.approx(total, abs=1e-10)
    for name, right in gradients.items():
        torch.testing.assert_close(found[name], right, rtol=0, atol=1e-10)


def test_only_what_fits_is_kept_and_all_of_it(tmp_path, monkeypatch):
    """Terms in their order; none in part, no token left out."""
    lm = model()
    objective, _ = objective_of(lm, tmp_path, monkeypatch)
    V = len(lm.head.weight)
    forget = sum(sum(objective.terms[0].mask(e)) for e in objective.sets["forget"]) * V * 8
    kept = keep(objective, lm, forget)
    assert [isinstance(term.loss.target, Kept) for term in kept.terms] == [True, False, False]
    log_probs = kept.terms[0].loss.target.log_probs
    assert log_probs.shape[1] == V
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(log_probs), dtype=torch.float64))
    assert keep(objective, lm, forget - 1).terms[0] is objective.terms[0]


def test_a_cpu_keeps_nothing_by_itself():
    assert room_for(torch.device("cpu")) == 0
