"""The tiny world's comparison on one seed: what benchmarks/people_trajectories.py measures on three. A few minutes."""

from __future__ import annotations

import pytest

from benchmarks.people_trajectories import checks_of, models, pair, trajectory
from rkld.benching.worlds.people import people
from rkld.evaluation.questions import question_losses
from rkld.evaluation.summary import measure
from rkld.evaluation.tofu import model_utility
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

pytestmark = pytest.mark.slow

WORLD, WHO = people(seed=1), pair(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="module")
def measured(folder):
    """The two models, the checks, the original's figures, and the trajectory with replay."""
    original, retrained = models(WORLD, WHO, folder)
    checks = checks_of(WORLD, WHO, load_model(retrained))
    return checks, checks(load_model(original)), trajectory("replay", WORLD, WHO, original, checks, folder)


def test_the_tiny_model_learns_twenty_people_and_its_twin_does_not_know_two(measured):
    """Without this gap nothing measured on the tiny world would mean anything."""
    checks, original, _ = measured
    assert original["forget_probability"] >= 0.9 and original["retain_probability"] >= 0.9
    assert checks.retrained["forget_probability"] <= 0.35 and checks.retrained["retain_probability"] >= 0.9
    assert original["ks_distance"] > 0.4


def test_replay_forgets_as_the_retrained_model_and_keeps_the_others(measured):
    """The distance to the retrained model falls, forget probability comes near its, and the others stay throughout.

    Training amplifies a CPU's rounding, and of 40 questions one moves the distance by .025: on one machine it falls to
    .31 of the original's, on another to .55 (.45 at its best check). The bounds hold on both. Without replay a tenth of
    the retain probability is lost (benchmarks/results/people_trajectories.md).
    """
    checks, original, steps = measured
    assert (
        min(s["ks_distance"] for s in steps) < 0.6 * original["ks_distance"]
        and steps[-1]["ks_distance"] < 0.7 * original["ks_distance"]
    )
    assert min(abs(s["forget_probability"] - checks.retrained["forget_probability"]) for s in steps) <= 0.15
    assert min(s["retain_probability"] for s in steps) >= 0.94 * original["retain_probability"]
    assert steps[-1]["never_asked_probability"] >= 0.91 * original["retain_probability"]


def test_every_tofu_metric_can_be_computed_offline(measured, folder):
    """Model utility of the original from the world's own retain, real-author and world-fact sets: all nine high."""
    lm = load_model(folder / "original")
    encoder = Encoder(lm.tokenizer)
    sets = {}
    for name, rows in {
        "retain": WORLD.retain(WHO)[:40], "real_authors": WORLD.real_authors, "world_facts": WORLD.world_facts,
    }.items():  # fmt: skip
        records = read_records(list(rows), name)
        rouge = measure(lm, encoder, records, max_new_tokens=32).tofu_rouge_l_recalls
        sets[name] = {**question_losses(lm, encoder, records), "rouge": rouge}
    utility = model_utility(**sets)
    assert len(utility.parts) == 9 and 0.6 < utility.value <= 1
