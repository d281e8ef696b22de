"""``rkld.pipeline.estimating``: what it counts is what the run will do, and probing leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.commands.check_run import time_named
from rkld.losses.micro_batches import MicroBatches
from rkld.losses.objective import Objective, Term, answer
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.state import fingerprint
from rkld.pipeline.estimating import Estimate, _Probe, estimate, rough_estimate
from rkld.pipeline.plan import steps_of
from rkld.pipeline.preparing import Prepared, prepare, read_inputs
from rkld.pipeline.watching import WATCHED
from rkld.settings.unlearning import Settings

WORLD = people(n=4, seed=0)
KEPT = ("question", "answer", "subject", "spans")
FORGET = [{name: record[name] for name in KEPT} for record in WORLD.forget([0])[:10]]
RETAIN = [{name: record[name] for name in KEPT} for record in WORLD.forget([1])[:6]]


def prepared(lm: LanguageModel, **values) -> Prepared:
    """A run on the loaded model."""
    settings = Settings(model="m", forget="f", **{"batch_size": 4, "epochs": 3, "max_new_tokens": 8, **values})
    inputs = read_inputs(settings, FORGET, RETAIN, [{"question": row["question"]} for row in RETAIN])
    return prepare(inputs, lm.model, lm.tokenizer)


def language_model():
    model, tokenizer = tiny_model()
    return load_model(model, tokenizer=tokenizer)


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """A folder for temporary files and a working directory, both empty before and after."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for name in ("tmp", "cwd"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("score", ["answer", "spans"])
def test_the_model_ends_as_it_began(nothing_left, lora, score):
    """check() may be given a loaded model: a changed weight, a frozen one or a left adapter would be damage."""
    lm = language_model()
    before, trainable = fingerprint(lm), [p.requires_grad for p in lm.model.parameters()]
    found = estimate(prepared(lm, lora=lora, score=score))
    assert fingerprint(lm) == before
    assert [p.requires_grad for p in lm.model.parameters()] == trainable
    assert not any(p.grad is not None for p in lm.model.parameters()) and not lm.is_adapter
    assert found.peak_bytes > 1e8 and found.seconds["loading"] > 0
    working = ("before", "replay", "cache", "strengthening", "distillation", "after")
    assert all(found.seconds[phase] > 0 for phase in working)
    assert found.total_seconds == pytest.approx(sum(found.seconds.values()))


@pytest.mark.parametrize("values", [{"lora": True}, {"method": "whp", "score": "spans"}, {"replay_weight": 0.0}])
def test_a_rough_estimate_trains_nothing_and_draws_nothing(nothing_left, values):
    """It comes before every run that is shown: one that is shown must end as one that is not."""
    lm = language_model()
    made, before = prepared(lm, **values), fingerprint(lm)
    state, training = torch.get_rng_state(), lm.model.training
    assert 0 < rough_estimate(made).total_seconds < 600
    assert fingerprint(lm) == before and lm.model.training == training and not lm.is_adapter
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_positions_are_those_of_the_micro_batches(tmp_path, accumulation):
    """The time of a step is scaled by its positions: padding miscounted would be time mispredicted."""
    lm = language_model()
    probe = _Probe(prepared(lm, accumulation=accumulation), lm, tmp_path)
    terms = [Term(name, name, answer, loss=None) for name in probe.sets]
    real = MicroBatches(Objective(probe.sets, terms), batch_size=4, accumulation=accumulation, epochs=3, seed=0)
    positions = [real[i]["input_ids"].numel() for i in range(len(real))]  # of the first epoch
    steps = probe._steps(probe.sets, 3)
    assert len(steps) == len(real.steps)
    per_step = [sum(positions[i : i + accumulation]) for i in range(0, len(positions), accumulation)]
    assert [probe._positions(step) for step in steps[: len(per_step)]] == per_step


@pytest.mark.parametrize("values", [{"reword": 3}, {"reword": 0}, {"reword": 3, "method": "gradient_ascent"}])
def test_as_many_steps_are_counted_as_the_run_will_take(nothing_left, monkeypatch, values):
    """Rewordings are trained on, too: counted by the records alone, the distillation came out at half of its time."""
    lm = language_model()
    made = prepared(lm, **values)
    assert bool(made.reworded) == (values["reword"] > 0)
    train = (lambda steps: float(len(steps)), lambda steps: float(len(steps)), lambda some: 0.0)
    monkeypatch.setattr(_Probe, "_train", lambda self, heaviest: train)
    found = estimate(made)
    assert (found.seconds["strengthening"], found.seconds["distillation"]) == steps_of(made)
    assert found.stop == "placebo"


def test_what_is_read_while_the_student_learns_is_counted(nothing_left, monkeypatch):
    """At every check a few records, without a rule those to forget as well; at none where a rule's own check reads."""
    lm = language_model()
    train = (lambda steps: 0.0, lambda steps: 0.0, lambda some: float(len(some)))
    monkeypatch.setattr(_Probe, "_train", lambda self, heaviest: train)
    made = prepared(lm, stop="last", reword=0, check_every=1)
    found = estimate(made)
    assert found.seconds["distillation"] == 2 * WATCHED * steps_of(made)[1] and found.stop is None


def test_a_method_without_strengthening_is_not_charged_for_it(nothing_left):
    """Else check would announce a phase that never comes."""
    lm = language_model()
    assert estimate(prepared(lm, method="npo")).seconds["strengthening"] == 0


@pytest.mark.parametrize("method", ["gradient_ascent", "idk_ap", "dpo", "rmu", "uld"])
def test_every_kind_of_method_is_probed(method, nothing_left):
    """rkld check must not stop at what another method needs: no cache, refusals, pairs, states, an assistant."""
    lm = language_model()
    found = estimate(prepared(lm, method=method)).seconds
    assert found["before"] > 0 and found["strengthening" if method == "uld" else "distillation"] > 0
    assert found["distillation" if method == "uld" else "strengthening"] == 0


def test_total_is_over_all_phases():
    assert Estimate({"a": 1.0, "b": 2.5}, 7).total_seconds == 3.5


def test_where_a_rule_may_end_the_run_its_time_is_a_bound():
    last, steered = Estimate({"a": 1.0, "b": 59.0}, 7), Estimate({"a": 0.5}, 7, stop="placebo")
    assert time_named(last) == "about 1 min 00 s (a 1 s, b 59 s)"
    assert time_named(steered) == "about 0 s at most, as --stop placebo may end it sooner"
