"""Pieces of work that know nothing of each other: one after another in this process, or several at once in others."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

import torch

from rkld.progress import Silent


class Pieces:
    """Does pieces of work, ``jobs`` at once; each process takes its share of the cores."""

    def __init__(self, jobs: int, progress: Silent):
        """
        Args:
            progress: given to the work where one piece is done at a time; several bars at once would be unreadable.
        """
        self.progress, self._pool, self._jobs = progress, None, jobs
        if jobs > 1:
            threads = max(1, torch.get_num_threads() // jobs)
            spawn = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
            self._pool = ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(threads,))

    def each(self, work: Callable[..., Any], pieces: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the piece, ``work(*piece, progress)``) as they are finished.

        Args:
            work: a function at the top level of its module; raises what it raises, and nothing more is begun then.
            pieces: picklable arguments.
        """
        if self._pool is None:
            for number, piece in enumerate(pieces):
                yield number, work(*piece, self.progress)
            return
        waiting, running = deque(enumerate(pieces)), {}
        while waiting or running:
            while (
                waiting and len(running) < self._jobs
            ):  # no more than are at work: what waits is not begun after an error
                number, piece = waiting.popleft()
                running[self._pool.submit(work, *piece, Silent())] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
