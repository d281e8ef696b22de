"""Short forms of the long tests (``python -m tests.long.NAME``)."""

from __future__ import annotations

import random

import pytest

from tests.long.flipped_bits import Folders, listening, make_folders, trial, unlearn
from tests.long.fuzz import fuzz
from tests.long.kills import kills
from tests.long.soak import soak


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("long"))


def test_two_hundred_odd_inputs_end_in_success_or_a_sentence():
    found = fuzz(200, seed=7)
    assert found.faults == []
    assert found.n >= 200
    assert min(found.codes[0], found.codes[2]) > 20, "both are tried"


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_flipped_bits_are_found_or_change_nothing(world, state, n):
    rng = random.Random(f"short {state}")
    trials = [trial(world, rng, state) for _ in range(n)]
    assert not [one for one in trials if not one.held]


@pytest.mark.slow
@pytest.mark.parametrize(("operations", "moments"), [(1, 0), (2, 2)])
def test_a_killed_run_ends_in_the_same_bytes(operations, moments):
    outcomes, _ = kills(operations, moments)
    found = {kind: dict(counted) for kind, counted in outcomes.items()}
    assert found == {"operations": {"same": operations}, "moments": {"same": moments} if moments else {}}


@pytest.mark.slow
def test_requests_one_after_another_leave_memory_and_files_as_they_were():
    found = soak(seconds=1, at_least=3)
    assert found["requests"] == 3 and found["flat"], found


def test_a_run_says_by_itself_that_it_has_ruined_the_model(world, tmp_path):
    """``--lr 1`` ended in "Stopped by placebo" and not a word; the same run at a usable rate warns of nothing."""
    for lr, warned in ((1.0, True), (None, False)):
        with listening(everything=True) as heard:
            unlearn(world.original, tmp_path / f"run-{lr}", progress=heard, **({} if lr is None else {"lr": lr}))
        suffered = [text for text in heard.said if "The rest of the model has suffered" in text]
        assert any("everyday prompts" in text for text in suffered) == warned, heard.said
        assert bool(suffered) == warned
