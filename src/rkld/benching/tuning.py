"""Learning rates: the same grid for every method, tried on people who are not reported on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rkld.benching.benchmark import Benchmark
from rkld.benching.cells import Cell
from rkld.benching.variants import Variant, variant


def _grid(one: Variant, benchmark: Benchmark) -> list[Variant]:
    """A variant at every learning rate it is tried with; one that sets its own stays alone."""
    tuning = benchmark.tuning()
    if tuning is None or any(name == "lr" for name, _ in one.values):
        return [one]
    own = benchmark.settings.peak_lr
    names = {f"@lr={rate:g}" if rate != own else "": None for rate in tuning.rates}
    return [variant(one.name + name) for name in names]


def tuning_cells(benchmark: Benchmark) -> list[Cell]:
    """The same grid for every variant, on people who are not reported; none where nothing is tuned."""
    tuning = benchmark.tuning()
    if tuning is None:
        return []
    place = (tuning.split, tuning.seed)
    found = [Cell(*place, name, tuning=True) for name in benchmark.references]
    for one in benchmark.variants:
        found += [Cell(*place, at.name, at, tuning=True) for at in _grid(one, benchmark)]
    return found


def choose_rates(benchmark: Benchmark, tried: Mapping[Cell, Mapping[str, Any]]) -> dict[str, str]:
    """Variant → the one of its grid with the least :attr:`Tuning.loss`, of equals the first; {} if nothing is tuned.

    Of a student it is that at the calibrated stop: a real erasure has no oracle.
    """
    tuning = benchmark.tuning()
    if tuning is None:
        return {}
    by_name = {cell.name: found for cell, found in tried.items()}

    def loss(name: str) -> tuple[float, ...]:
        moments = by_name[name]["moments"]
        return tuning.loss(next(moments[at] for at in ("stop", "last", "single") if at in moments))

    return {one.name: min((at.name for at in _grid(one, benchmark)), key=loss) for one in benchmark.variants}


def tuned_cells(benchmark: Benchmark, tuned: Mapping[str, str]) -> list[Cell]:
    """The tuned variants on the reported splits and seeds, beside the defaults."""
    chosen = {
        one.name: at for one in benchmark.variants for at in _grid(one, benchmark) if at.name == tuned.get(one.name)
    }
    return [
        Cell(split, seed, at.name, at)
        for split in benchmark.splits()
        for seed in benchmark.seeds()
        for name, at in chosen.items()
        if at.name != name
    ]
