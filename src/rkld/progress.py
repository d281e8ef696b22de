"""One progress bar per phase: what is going on, how far, the loss, the time left."""

from __future__ import annotations

from contextlib import contextmanager

from transformers import TrainerCallback


class Silent:
    """Shows nothing. Also the interface of whatever shows progress."""

    def say(self, text: str) -> None:
        """A line that stays."""

    @contextmanager
    def bar(self, title: str, total: int):
        """A bar of ``total`` units; yields ``advance(n=1, note="")``."""
        yield lambda n=1, note="": None


class Bars(Silent):
    """Bars in a terminal, by rich; plain lines where the output is no terminal."""

    def __init__(self):
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text):
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, title, total):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<27}", markup=False), BarColumn(bar_width=10), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total, note="")
            yield lambda n=1, note="": progress.update(task, advance=n, note=note)


class TrainingBar(TrainerCallback):
    """Moves a bar with the optimizer's steps and shows loss and speed; the loss's terms are in metrics.jsonl."""

    def __init__(self, advance):
        self.advance = advance
        self.note = ""
        self.shown = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.3f}, {logs['tokens_per_second']:.0f} tokens/s"
        self.advance(0, self.note)

    def on_step_end(self, args, state, control, **kwargs):
        self.advance(state.global_step - self.shown, self.note)
        self.shown = state.global_step
