"""The base's vector, subtracted: how much of it is decided before the distillation, and while that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import processes
from rkld.errors import UserError
from rkld.files import read_jsonl, write_jsonl
from rkld.methods.base_vector import BaseVector, slope
from rkld.runfolder.checksums import sealed, unsealed

Row = dict[str, Any]

SUBTRACTED = "subtracted.jsonl"
"""In the folder of the checkpoints, a line for each check of the distillation, sealed: what was "found", how much
"more" was subtracted then (a "share" of what the gap asks for, if it swings), "beta" since, and the gap "expected"."""

UNTIL = 0.8
"""Share of the distillation's steps after which β stays, so that the rest mends it; but for the last step, where the
aim is not met."""


def try_betas(method: BaseVector, margin: float, judged: Callable[[float], float]) -> dict[float, float]:
    """β → gap of those that are tried before the distillation.

    Args:
        judged: subtracts so much from the original, and returns the rule's gap.
    """
    gaps: dict[float, float] = {}
    following: float | None = method.beta
    while following is not None:
        gaps[following] = judged(following)
        following = method.next_beta(gaps, margin)
    return gaps


def read_subtracted(folder: Path) -> list[Row] | None:
    """The checks of a training, in its folder; None where they are damaged."""
    return processes.by_main(lambda: _read_subtracted(folder / SUBTRACTED))


def _read_subtracted(path: Path) -> list[Row] | None:
    try:
        rows = [unsealed(row) for row in read_jsonl(path)] if path.exists() else []
    except UserError:
        return None
    return None if None in rows else [row for row in rows if row is not None]


class KeepSubtracting(TrainerCallback):
    """At every check as much more of the vector is subtracted as the distillation has brought back of the records.

    The training's own checkpoints hold the weights that it leaves; what was subtracted by which step lies beside them,
    so that a resumed training goes on with the same β.
    """

    def __init__(
        self,
        method: BaseVector,
        gaps: Mapping[float, float],
        beta: float,
        margin: float,
        *,
        judged: Callable[[float, int], Row],
        record: Callable[[Row], object],
        subtract: Callable[[float], object],
        every: int,
        folder: Path,
    ):
        """
        Args:
            gaps: β → the rule's gap with it before the distillation; 0 is the original's.
            beta: of them, what the student starts with.
            margin: the rule's.
            judged: what the student as it is shows, its "gap" among it, given β and the step.
            record: told of every check that was made.
            subtract: takes so much more of the vector from the student.
            every: optimizer steps between checks; the last step is always one.
            folder: of the training's checkpoints.
        """
        self.method, self.original, self.start, self.beta = method, gaps[beta], beta, beta
        self.judged, self.record, self.subtract, self.every, self.folder = judged, record, subtract, every, folder
        self.slope, self.margin = slope(gaps, beta), margin
        self.checks: list[Row] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        checks = read_subtracted(self.folder)
        assert checks is not None  # the phase has looked, and begins a training with damaged checks again
        self.checks = [check for check in checks if check["found"]["step"] <= state.global_step]  # of the checkpoint
        if state.global_step >= self.every and not self.checks:
            raise UserError(
                f"{self.folder / SUBTRACTED} is missing, which says how much of the vector was subtracted by step "
                f"{state.global_step}: delete {self.folder}, and the same command begins the distillation again."
            )
        self.beta = self.checks[-1]["beta"] if self.checks else self.start
        for check in self.checks:
            self.record(check["found"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        last = step == state.max_steps
        before = self.checks[-1] if self.checks else {"expected": self.original, "more": 0.0, "share": 1.0}
        found = self.judged(self.beta, step)
        gap, share, more = found["gap"], before["share"], 0.0
        if last and gap > self.margin:  # nothing follows that would bring more back
            more = self.method.further(self.beta, gap, 0.0, self.slope)
        elif step <= UNTIL * state.max_steps:
            more = self.method.further(self.beta, gap, gap - before["expected"], self.slope, share)
            if more * before["more"] < 0:  # it turns: half as much, until it goes on in one direction
                share, more = share / 2, more / 2
            elif more:
                share = min(1.0, 2 * share)
        self._note(found, more, share)
        if last and more:
            self._note(self.judged(self.beta, step), 0.0, share)

    def check(self, step: int) -> None:
        """Make a check of the student as it is, and leave it so."""
        self._note(self.judged(self.beta, step), 0.0, 1.0)

    def _note(self, found: Row, more: float, share: float) -> None:
        """Subtract so much more, and keep what was found and done."""
        if more:
            self.subtract(more)
        self.beta += more
        expected = found["gap"] - more * self.slope
        self.checks.append({"found": found, "beta": self.beta, "more": more, "share": share, "expected": expected})
        processes.by_main(lambda: write_jsonl(self.folder / SUBTRACTED, map(sealed, self.checks)))
        self.record(found)
