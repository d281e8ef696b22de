"""Benchmarks by name."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rkld.registry import Registry, catalogue
from rkld.settings.specification import make

if TYPE_CHECKING:
    from rkld.benching.benchmark import Benchmark


BENCHMARKS: Registry[type[Benchmark]] = Registry(
    "benchmark", "rkld.benching.benchmarks", "rkld.benching.benchmark.Benchmark", "bench", "rkld.benchmarks"
)
"""Every benchmark: a class on top of :class:`rkld.benching.benchmark.Benchmark`."""


def open_benchmark(benchmark: str | type[Benchmark], settings: Mapping[str, Any]) -> Benchmark:
    """A benchmark with its settings.

    Args:
        benchmark: a registered name, ``FILE.py:NAME``, which is run, or the class itself.
        settings: by the names of its ``settings_class``.

    Raises:
        UserError: no such benchmark; a setting that is unknown, of the wrong kind or out of bounds.
    """
    found = BENCHMARKS.resolve(benchmark) if isinstance(benchmark, str) else benchmark
    of_file = isinstance(benchmark, str) and ".py:" in benchmark
    name = benchmark.rpartition(":")[2] if isinstance(benchmark, str) else registered_name(benchmark)
    values = make(settings, "arguments", found.settings_class)
    return found(values, benchmark if of_file else found, name)


def registered_name(benchmark: type[Benchmark]) -> str:
    """By which the class is registered; its own where it is not."""
    return next((name for name, one in BENCHMARKS.items() if one is benchmark), benchmark.__name__)


def titles() -> dict[str, str]:
    """Name → a line about it, of the registered benchmarks; none is imported, for that takes seconds."""
    points = importlib.metadata.entry_points(group=BENCHMARKS.group)
    others = {point.name: f"Of the package {point.dist.name if point.dist else point.module}." for point in points}
    return others | catalogue(BENCHMARKS.package)
