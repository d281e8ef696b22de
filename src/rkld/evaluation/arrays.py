"""Arrays that metrics take: checked once, in one place, with the name of what is wrong. NaN is an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def vector(values: ArrayLike, name: str, valid: Callable[[np.ndarray], np.ndarray] = np.isfinite) -> np.ndarray:
    """``values`` as float64 (n,), n ≥ 1; ValueError with ``name`` and the place for a shape or value that is not.

    ``valid`` says elementwise what a value may be; NaN must not pass it.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be a list of one number or more, found shape {array.shape}")
    bad = np.flatnonzero(~valid(array))
    if bad.size:
        raise ValueError(f"{name} holds {array[bad[0]]} at index {bad[0]}")
    return array


def vectors(
    rows: Sequence[ArrayLike], name: str, valid: Callable[[np.ndarray], np.ndarray] = np.isfinite
) -> list[np.ndarray]:
    """One :func:`vector` per record, of any lengths; ValueError where there are no records."""
    rows = list(rows)
    if not rows:
        raise ValueError(f"{name} holds no records")
    return [vector(row, f"{name}[{i}]", valid) for i, row in enumerate(rows)]


def in_unit_interval(array: np.ndarray) -> np.ndarray:
    """Elementwise whether a value lies in [0, 1]."""
    return (array >= 0) & (array <= 1)


def is_flag(array: np.ndarray) -> np.ndarray:
    """Elementwise whether a value is 0 or 1, as booleans become."""
    flags: np.ndarray = (array == 0) | (array == 1)
    return flags


def harmonic_mean(values: ArrayLike, name: str = "values") -> float:
    """``n / Σ 1/v`` of values in [0, 1]; its limit 0 where one of them is 0."""
    array = vector(values, name, in_unit_interval)
    return float(len(array) / (1 / array).sum()) if array.all() else 0.0
