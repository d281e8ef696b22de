"""Figures with their uncertainty: every one has n and an interval, and says how it was made.

Records about one person are not independent, so from three persons on they, not their records, are drawn. One or two
say nothing of others (two can be drawn in three ways): the interval is then conditional on them and says so. Values
that are all alike have no spread to draw from; there the interval is exact, so that zero leaks never reads "zero, for
certain".

Shapes: ``n`` records or questions; ``persons`` is one label per record, or None where records are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from rkld.evaluation.arrays import is_flag, vector

LEVEL = 0.95
"""Of every interval, two-sided, that is not corrected for a number of them."""

RESAMPLES = 2000
"""Of a bootstrap: its 2.5% tail holds 50 of them."""

BLOCK = 1 << 22
"""Records that are drawn at once for a mean: 32 MiB of indices."""

FEWEST_PERSONS = 3
"""That stand for others; the records of fewer are taken as independent, given whose they are."""

Persons = Sequence[Hashable] | None


@dataclass(frozen=True)
class Figure:
    """A value with the interval that holds the true one with probability :data:`LEVEL`, or the level asked for."""

    value: float
    low: float
    """Minus infinity where nothing is known: one record of a quantity without a bound."""
    high: float
    n: int
    """Records or questions it is made of."""
    method: str
    """How the interval was made."""
    unmeasured: int = 0
    """Of these n how many were not measured: the interval holds whatever they are, the value is that of the others."""

    def __post_init__(self) -> None:
        if math.isnan(self.value) or not self.low <= self.value <= self.high or self.n < 1:
            raise ValueError(f"no figure: {self.value} in [{self.low}, {self.high}], n = {self.n}")


# Intervals


def clopper_pearson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval for a share (Clopper & Pearson 1934, Biometrika 26): for 0 of n its end is 1 − .025^(1/n).

    Both may be effective numbers, not whole. ValueError unless 0 ≤ successes ≤ n and n > 0.
    """
    from scipy.stats import beta

    if not 0 <= successes <= n or not n > 0:
        raise ValueError(f"{successes} successes of {n} make no share")
    tail = (1 - level) / 2
    low = beta.ppf(tail, successes, n - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)


def chance_of_one(c: int, s: int, k: int) -> float:
    """Chance that at least one of k answers is one of c, where k are drawn of s: ``1 − C(s−c, k) / C(s, k)``; k ≤ s."""
    # As a product, so that nothing overflows; 0 where fewer than k answers are none of them.
    return float(1 - np.prod(1 - k / np.arange(s - c + 1, s + 1))) if s - c >= k else 1.0


def fewest_for(limit: float) -> int:
    """The least n for which the interval of 0 of n (:func:`clopper_pearson`) ends at ``limit`` or below it.

    ValueError unless 0 < limit < 1.
    """
    if not 0 < limit < 1:
        raise ValueError(f"limit is {limit}; it is a share, above 0 and below 1")
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log1p(-limit))


def share(flags: ArrayLike, persons: Persons = None, *, level: float = LEVEL) -> Figure:
    """Share of true flags (n,), with an exact interval (Clopper–Pearson).

    Where there are several persons n is first reduced to the effective number (Korn & Graubard 1998, Survey
    Methodology 24): what independent records would give the variance seen between persons. With no flag or all true
    there is no such variance, and n stays. ValueError for no flags or what is no flag.
    """
    array = vector(flags, "flags", is_flag)
    groups = _groups(persons, len(array))
    n, value = len(array), float(array.mean())
    effective = min(n, _effective_n(array, groups, level)) if groups is not None and _clustered(groups) else n
    return Figure(value, *clopper_pearson(value * effective, effective, level), n, f"Clopper–Pearson{_whose([groups])}")


def mean(
    values: ArrayLike,
    persons: Persons = None,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
    name: str = "values",
    level: float = LEVEL,
) -> Figure:
    """Mean of values (n,) with a bootstrap interval, over persons where there are several.

    ``bounds`` are those that no value can pass, such as (0, 1) for a probability. ValueError, with ``name``, for no
    values, NaN, infinity or a value out of bounds.
    """
    low, high = bounds
    array = vector(values, name, lambda v: np.isfinite(v) & (v >= low) & (v <= high))
    if np.ptp(array) == 0:
        return _all_alike(float(array[0]), bounds, persons, len(array), level)
    groups = _groups(persons, len(array))
    if not _clustered(groups) and len(array) > 1:
        n = len(array)
        drawn = _resampled_means(array, seed)
        return _percentiles(float(array.mean()), drawn, n, n, "bootstrap" + _whose([groups]), level)
    return bootstrap(lambda rows: float(array[rows].mean()), len(array), persons, bounds=bounds, seed=seed, level=level)


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    persons: Persons = None,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
    level: float = LEVEL,
) -> Figure:
    """Mean of ``ours − theirs``, both (n,) about the same questions in the same order, as :func:`mean` has it.

    ``bounds`` are those of the two, so a difference of probabilities, bounds (0, 1), lies in [−1, 1].
    """
    ours, theirs = vector(ours, "ours"), vector(theirs, "theirs")
    if len(ours) != len(theirs):
        raise ValueError(f"ours is about {len(ours)} questions, theirs about {len(theirs)}: they must be the same")
    span = bounds[1] - bounds[0]
    return mean(ours - theirs, persons, bounds=(-span, span), seed=seed, name="ours − theirs", level=level)


@dataclass(frozen=True)
class Equivalence:
    """Whether a difference is shown to be smaller than a margin stated beforehand."""

    difference: Figure
    margin: float
    established: bool
    """The whole interval lies within ±margin. False does not mean that the two differ."""


def equivalence(difference: Figure, margin: float) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) as an interval: claimed only if all of it lies inside ±``margin``.

    With intervals of 95% each test is at 2.5%. A test that finds no difference, such as a high Kolmogorov–Smirnov
    p-value, establishes nothing of the kind. ValueError for a margin that is not positive and finite.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin is {margin}; it must be positive and finite")
    return Equivalence(difference, margin, -margin < difference.low and difference.high < margin)


def bootstrap(
    statistic: Callable[..., float],
    sizes: int | Sequence[int],
    persons: Persons | Sequence[Persons] = None,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
    level: float = LEVEL,
) -> Figure:
    """Any statistic of one sample or several, with an interval from drawing their records (or persons) anew.

    Args:
        statistic: takes for each sample the indices of its drawn records, an int array, and returns a number.
        sizes: records of the sample, or of each of several samples, which are drawn independently.
        persons: of the sample, or of each: whole persons are drawn where it has several.
        bounds: of the statistic; with a single record to draw the interval is all that lies between them.
        seed: of the draws; the same on every call.

    Percentiles, widened for small samples as by Student's t (the expanded percentile interval of Hesterberg 2015,
    The American Statistician 69, 4.2): plain percentiles are too narrow by a third at n = 5.

    Raises:
        ValueError: the statistic is NaN, or a number of persons is not that of the records.
    """

    if isinstance(sizes, int):
        sizes, persons = [sizes], [persons]
    labels = cast(Sequence[Persons], [None] * len(sizes) if persons is None else persons)
    groups = [_groups(some, size) for some, size in zip(labels, sizes, strict=True)]
    value = statistic(*(np.arange(size) for size in sizes))
    units: list[Sequence[np.ndarray]] = [
        g if g is not None and _clustered(g) else list(np.arange(size)[:, None])
        for g, size in zip(groups, sizes, strict=True)
    ]
    least = min(map(len, units))
    method = "bootstrap" + _whose(groups)
    if least < 2:
        return Figure(value, *bounds, sum(sizes), f"{method}, one record: no interval")
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(*(np.concatenate([u[i] for i in rng.integers(len(u), size=len(u))]) for u in units))
        for _ in range(RESAMPLES)
    ]
    return _percentiles(value, np.array(drawn), least, sum(sizes), method, level)


def _resampled_means(array: np.ndarray, seed: int) -> np.ndarray:
    """Means (RESAMPLES,) of an array's records (n,) drawn anew: what :func:`bootstrap` draws, many at once."""
    rng, n = np.random.default_rng(seed), len(array)
    block = max(1, BLOCK // n)
    counts = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    return np.concatenate([array[rng.integers(n, size=(count, n))].mean(axis=1) for count in counts])


def _percentiles(value: float, drawn: np.ndarray, least: int, n: int, method: str, level: float) -> Figure:
    """The expanded percentile interval.

    Args:
        value: of the sample itself.
        drawn: of the samples drawn anew, (RESAMPLES,).
        least: units of the smallest sample, at least 2.
        n: records in all.
    """
    from scipy.stats import norm, t

    if np.isnan(drawn).any():
        raise ValueError("the statistic is NaN on a sample that was drawn anew")
    tail = norm.cdf(math.sqrt(least / (least - 1)) * t.ppf((1 - level) / 2, least - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    # A statistic that is biased where records repeat (a KS distance) may leave its own interval.
    return Figure(value, float(min(low, value)), float(max(high, value)), n, method)


def _all_alike(value: float, bounds: tuple[float, float], persons: Persons, n: int, level: float) -> Figure:
    """The mean of n equal values: at most a share u differs, u the exact bound for 0 of n, and by so much at most."""
    other = clopper_pearson(0, n, level)[1]
    low, high = (value if value == bound else value + other * (bound - value) for bound in bounds)
    return Figure(value, low, high, n, f"all alike: Clopper–Pearson for 0 of {n}{_whose([_groups(persons, n)])}")


def _groups(persons: Persons, n: int) -> list[np.ndarray] | None:
    """The records of each person, by index; None where nobody says whose they are."""
    if persons is None:
        return None
    if len(persons) != n:
        raise ValueError(f"there are {len(persons)} persons' labels for {n} records")
    found: dict[Hashable, list[int]] = {}
    for i, person in enumerate(persons):
        found.setdefault(person, []).append(i)
    return [np.array(rows) for rows in found.values()]


def _clustered(groups: list[np.ndarray] | None) -> bool:
    """Whether persons are drawn, not records."""
    return groups is not None and len(groups) >= FEWEST_PERSONS


def _whose(groups: Sequence[list[np.ndarray] | None]) -> str:
    """Which persons the interval is about, sample by sample, for ``Figure.method``."""
    suffix = ""
    for group in groups:
        if group is not None:
            number = len(group)
            few = "conditional on this person" if number == 1 else f"conditional on these {number} persons"
            suffix += f", {number} persons" if _clustered(group) else f", {few}"
    return suffix


def _effective_n(flags: np.ndarray, groups: Sequence[np.ndarray], level: float) -> float:
    """Independent records that would have the variance of the share that is seen between persons, by linearisation."""
    from scipy.stats import t

    n, value, g = len(flags), flags.mean(), len(groups)
    between = g / (g - 1) * sum((flags[rows] - value).sum() ** 2 for rows in groups) / n**2
    if between == 0:  # also where all flags are alike
        return float(n)
    tail = (1 + level) / 2
    return float(value * (1 - value) / between * (t.ppf(tail, n - 1) / t.ppf(tail, g - 1)) ** 2)
