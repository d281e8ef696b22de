"""One progress bar per phase: what is going on, how far, the loss, the time left."""

from __future__ import annotations

from collections.abc import Iterator
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

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """A bar of ``total`` units; yields what moves it on."""
        yield lambda n=1, note="": None


def chosen(progress: NoProgress | bool | None) -> NoProgress:
    """What shows progress: as given; True: bars in the terminal; None or False: nothing."""
    if isinstance(progress, NoProgress):
        return progress
    return ProgressBars() if progress else NoProgress()


class ProgressBars(NoProgress):
    """Bars in a terminal, by rich; plain lines where the output is no terminal."""

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
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<27}", markup=False),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total, note="")
            yield lambda n=1, note="": progress.update(task, advance=n, note=note)
