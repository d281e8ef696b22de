"""One progress bar per phase: what is going on, how far, the loss, the time left; in logs a few lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Moves a bar on by ``n`` units, and shows ``note`` beside it."""

    def __call__(self, n: int = 1, note: str = "") -> object: ...


class NoProgress:
    """Shows nothing. Also the interface of whatever shows progress.

    Attributes:
        said: the lines that were shown, so that none is shown again.
    """

    said: frozenset[str] = frozenset()

    def say(self, text: str) -> None:
        """A line that stays."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Roughly how long each part of a run will take, by its name; told before the first of them."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """A bar of ``total`` units; yields what moves it on."""
        yield lambda n=1, note="": None


def chosen(progress: NoProgress | bool | None) -> NoProgress:
    """What shows progress: as given; True: bars in the terminal, lines elsewhere; None or False: nothing."""
    if isinstance(progress, NoProgress):
        return progress
    return progress_for_stderr() if progress else NoProgress()


WIDE = 132
"""Columns of a terminal from which there is room for the bar itself beside what stands beside it."""


class ProgressBars(NoProgress):
    """Bars in a terminal, by rich."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.said |= {text}
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        wide = self.console.width >= WIDE
        # What does not fit is cut off the note: left to itself, rich takes it from all columns, the counts first.
        beside = (27 + 10 + 7 + 4 + 7 + 6 if wide else len(title) + 7 + 3) + 2 * len(str(total)) + 1
        note = Column(no_wrap=True, overflow="ellipsis", max_width=max(1, self.console.width - beside))
        columns: list[ProgressColumn] = [
            TextColumn("{task.description:<27}" if wide else "{task.description}", markup=False),
            *([BarColumn(bar_width=10)] if wide else []),
            MofNCompleteColumn(),
            *([TimeElapsedColumn(), TextColumn("left")] if wide else []),
            TimeRemainingColumn() if wide else TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False, table_column=note),
        ]
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total, note="")
            yield lambda n=1, note="": progress.update(task, advance=n, note=note)


BETWEEN_LINES = 30.0
"""Seconds between two lines about one bar."""


class ProgressLines(NoProgress):
    """Lines for a log: one at the end of each bar, and every half minute where it takes longer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock

    def say(self, text: str) -> None:
        self.said |= {text}
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)  # what sys.stderr is now: tests and notebooks exchange it

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        began = told = self.clock()
        done, last = 0, ""

        def line(rest: str) -> None:
            self.say(f"{title}  {done}/{total}" + (f"  {last}" if last else "") + f"  ({rest})")

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done, last, told
            done, last, now = done + n, note, self.clock()
            if now - told >= BETWEEN_LINES and done < total:
                told, gone = now, now - began
                line(
                    f"{_minutes(gone)}, about {_minutes(gone * (total - done) / done)} left" if done else _minutes(gone)
                )

        yield advance
        line(_minutes(self.clock() - began))


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}" if seconds % 60 < 59.5 else f"{seconds // 60 + 1:.0f}:00"


def _in_terminal() -> bool:
    """Whether standard error is a terminal; a program without a console (pythonw) has none at all."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def without_noise() -> Iterator[None]:
    """No bars of libraries, and of their messages errors alone, where standard error is no terminal: it is a log then.

    What the user had set comes back afterwards; who asked for more messages than usual goes on getting them. Also as a
    decorator.
    """
    if _in_terminal():
        yield
        return
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    level, shown = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    fetching = not are_progress_bars_disabled()
    data_sets = sys.modules.get("datasets")
    reading = data_sets is not None and not data_sets.are_progress_bars_disabled()
    if level >= transformers_logging.WARNING:
        transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if fetching:
        disable_progress_bars()
    if data_sets is not None and reading:
        data_sets.disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
        if fetching:
            enable_progress_bars()
        else:  # transformers' switch moved this one, too
            disable_progress_bars()
        if data_sets is not None and reading:
            data_sets.enable_progress_bars()


def progress_for_stderr() -> ProgressBars | ProgressLines:
    """Bars where standard error is a terminal, else lines."""
    return ProgressBars() if _in_terminal() else ProgressLines()
