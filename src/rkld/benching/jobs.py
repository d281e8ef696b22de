"""Independent jobs: one after another in this process, or several at once in others."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import torch

from rkld.progress import NoProgress


class Jobs:
    """Runs independent jobs, several at once; each process takes its share of the cores."""

    def __init__(self, at_once: int, progress: NoProgress):
        """
        Args:
            progress: given to the jobs where one runs at a time; several bars at once would be unreadable.
        """
        self.progress, self._at_once = progress, at_once
        self._pool: ProcessPoolExecutor | None = None
        if at_once > 1:
            threads = max(1, torch.get_num_threads() // at_once)
            spawn = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
            self._pool = ProcessPoolExecutor(at_once, spawn, initializer=_start, initargs=(threads,))

    def each(self, work: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the job, ``work(*job, progress)``) as they are finished.

        Args:
            work: a function at the top level of its module; raises what it raises, and nothing more is begun then.
            jobs: picklable arguments.
        """
        if self._pool is None:
            for number, job in enumerate(jobs):
                yield number, work(*job, self.progress)
            return
        waiting, running = deque(enumerate(jobs)), dict[Future[Any], int]()
        while waiting or running:
            while waiting and len(running) < self._at_once:  # what waits is not begun after an error
                number, job = waiting.popleft()
                running[self._pool.submit(work, *job, NoProgress())] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start(threads: int) -> None:
    """In another process: take so many cores, and end when the process ends that has the jobs, however it ends."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # whatever the main thread does: nobody waits for it any more, and files are written whole
