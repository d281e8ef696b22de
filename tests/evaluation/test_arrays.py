"""The one check of what metrics take."""

import math

import numpy as np
import pytest

from rkld.evaluation.arrays import harmonic_mean, in_unit_interval, is_flag, vector, vectors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"loss must be a list .* shape \(0,\)"),
        (1.0, r"loss must be a list .* shape \(\)"),
        ([[1.0]], r"loss must be a list .* shape \(1, 1\)"),
        ([1.0, math.nan], "loss holds nan at index 1"),
        ([-math.inf], "loss holds -inf at index 0"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    """An audit has dozens of arrays; NaN in one would pass every gate."""
    with pytest.raises(ValueError, match=message):
        vector(values, "loss")


def test_nan_passes_no_check():
    """A check written as "not below 0" lets NaN through."""
    for valid in (np.isfinite, in_unit_interval, is_flag):
        assert not valid(np.array([math.nan])).any()
    assert in_unit_interval(np.array([0, 1, -0.1, 1.1])).tolist() == [True, True, False, False]
    assert is_flag(np.array([0, 1, 0.5])).tolist() == [True, True, False]


def test_records_are_numbered_in_errors():
    """Which of a hundred records it was."""
    assert [row.tolist() for row in vectors([[1], [2, 3]], "losses")] == [[1], [2, 3]]
    with pytest.raises(ValueError, match=r"losses\[1\] holds nan"):
        vectors([[1.0], [math.nan]], "losses")
    with pytest.raises(ValueError, match="losses holds no records"):
        vectors([], "losses")


def test_the_harmonic_mean_and_its_limit():
    """Zero among the values is a result, not a division by zero."""
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == 0
    with pytest.raises(ValueError, match=r"shares holds 1\.5"):
        harmonic_mean([1.5], "shares")
