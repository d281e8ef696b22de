"""Seconds and peak memory of one piece of work, in a process of its own, so that no peak hides another.

def prepare(rows):                    # top level of its module: the fresh process imports it by name
    state = make_state(rows)          # not counted
    return lambda: work(state)        # counted

rounds = paired({"ours": (prepare_ours, 1024), "naive": (prepare_naive, 1024)}, repeats=5)
ratio(rounds, "ours", "naive", "extra_bytes")
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from rkld.pipeline.estimating import peak_bytes


@dataclass(frozen=True)
class Measured:
    """One call of the work.

    Attributes:
        seconds: wall time.
        peak_bytes: the most memory held during the call: of the whole process, on a GPU what torch has allocated.
        extra_bytes: of that, above what was held just before the call.
        value: what the work returned.
    """

    seconds: float
    peak_bytes: int
    extra_bytes: int
    value: Any = None


def measure(prepare: Callable[..., Callable[[], Any]], *args: Any, warm_up: int = 0) -> Measured:
    """``prepare(*args)()`` in a fresh Python process; only the second call is measured.

    Args:
        prepare: a function at the top level of its module; makes the state and returns the work.
        args: picklable.
        warm_up: calls of the work before the measured one.

    Raises:
        what the work raises; concurrent.futures.process.BrokenProcessPool where the process was killed (memory).
    """
    with Worker(prepare, *args, warm_up=warm_up) as work:
        return work()


class Worker:
    """A fresh Python process that has prepared the work and waits; each call does it once and measures it."""

    def __init__(self, prepare: Callable[..., Callable[[], Any]], *args: Any, warm_up: int = 0):
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._ready = self._process.submit(_start, prepare, args, warm_up)

    def wait(self) -> None:
        """Until it is prepared and warm."""
        self._ready.result()

    def __call__(self) -> Measured:
        self.wait()
        return self._process.submit(_measure).result()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.shutdown()


def paired(
    variants: Mapping[str, Sequence], repeats: int, warm_up: int = 0, together: bool = False
) -> list[dict[str, Measured]]:
    """Every variant once per round, one after another, so that a slow minute of the machine slows them all.

    Args:
        variants: name → (prepare, *args) as :func:`measure` takes them.
        together: prepare each variant once and keep all their processes, one at work and the others waiting: for
            work that takes long to prepare, where all fit in memory.
    """
    if not together:
        return [{name: measure(*call, warm_up=warm_up) for name, call in variants.items()} for _ in range(repeats)]
    with contextlib.ExitStack() as open_workers:
        workers = {}
        for name, call in variants.items():
            workers[name] = open_workers.enter_context(Worker(*call, warm_up=warm_up))
            workers[name].wait()
        return [{name: work() for name, work in workers.items()} for _ in range(repeats)]


def ratio(rounds: Sequence[Mapping[str, Measured]], ours: str, other: str, what: str) -> float:
    """Median over the rounds of ours / other, of an attribute of :class:`Measured`."""
    return statistics.median(getattr(found[ours], what) / getattr(found[other], what) for found in rounds)


def median(rounds: Sequence[Mapping[str, Measured]], name: str, what: str) -> float:
    """Median over the rounds of one variant's attribute."""
    return statistics.median(getattr(found[name], what) for found in rounds)


_work: Callable[[], Any]  # of this process, if it is a worker's


def _start(prepare: Callable, args: Sequence, warm_up: int) -> None:
    global _work
    _work = prepare(*args)
    for _ in range(warm_up):
        _work()


def _measure() -> Measured:
    before = _reset_peak()
    started = time.perf_counter()
    value = _work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    return Measured(seconds, peak, peak - before, value)


def _reset_peak() -> int:
    """Forget the peak so far; returns the bytes held now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory that malloc keeps would hide what the work takes
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss
