"""A short form of ``python -m tests.long.fuzz``."""

from __future__ import annotations

from tests.long.fuzz import fuzz


def test_two_hundred_odd_inputs_end_in_success_or_a_sentence():
    found = fuzz(200, seed=7)
    assert found.faults == []
    assert found.n >= 200
    assert min(found.codes[0], found.codes[2]) > 20, "both are tried"
