"""Callbacks of the training loop: progress, position, timed checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld.losses.objective import Term

FORGET, RETAINED, GAP = "forget_probability", "retained_probability", "stop_gap"
"""Figures that are logged beside the loss: mean probability of records to forget and to keep, distance to the aim."""

SHOWN = {GAP: ("to stop", "+.2f"), FORGET: ("forget", ".3f"), RETAINED: ("kept", ".3f")}
"""Those that a bar shows, under shorter names, what decides first: the end of a line may not fit a terminal."""


class TrainingBar(TrainerCallback):
    """Moves a bar with the optimizer's steps and shows loss, speed and the last figures; all is in metrics.jsonl."""

    def __init__(self, advance: Callable[[int, str], object]):
        self.advance = advance
        self.note = self.figures = ""
        self.shown = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            found = [f"{word} {logs[name]:{form}}" for name, (word, form) in SHOWN.items() if name in logs]
            self.figures = ", ".join(found) or self.figures
            speed = f"loss {logs['loss']:.3f}, {logs['tokens_per_second']:.0f} tokens/s"
            self.note = f"{self.figures}, {speed}" if self.figures else speed
        self.advance(0, self.note)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.advance(state.global_step - self.shown, self.note)
        self.shown = state.global_step


class Position(TrainerCallback):
    """Says at which step and epoch the training is, which in a resumed run are not the first."""

    def __init__(self, begin_at_step: Callable[[int], object], begin_epoch: Callable[[int], object]):
        self.begin_at_step, self.begin_epoch = begin_at_step, begin_epoch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begin_at_step(state.global_step)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begin_epoch(int((state.epoch or 0) + 1e-6))


LEARNED_WEIGHTS = "learned_weights"
"""In the trainer's state, which every checkpoint has: the weights of terms with a constraint, by name."""


class LearnWeights(TrainerCallback):
    """Moves the weights of terms with a constraint (:class:`rkld.losses.objective.Constraint`) after every step."""

    def __init__(self, terms: Sequence[Term], mean_of_step: Callable[[str], float]):
        """
        Args:
            mean_of_step: the value of a term of this name in the step that has just ended, averaged over processes.
        """
        self.terms = [term for term in terms if term.constraint is not None]
        self.mean_of_step = mean_of_step
        self.weights = {term.name: term.weight for term in self.terms}

    @property
    def scales(self) -> dict[str, float]:
        """Factors of the terms' own weights."""
        return {term.name: self.weights[term.name] / term.weight for term in self.terms}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.weights |= state.stateful_callbacks.get(LEARNED_WEIGHTS, {})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for term in self.terms:
            value, constraint = self.mean_of_step(term.name), term.constraint
            if constraint is not None and (state.epoch or 0) + 1e-6 >= constraint.wait:
                self.weights[term.name] = constraint.next_weight(self.weights[term.name], value)
        if self.terms:
            state.stateful_callbacks[LEARNED_WEIGHTS] = dict(self.weights)


class TimedCheckpoint(TrainerCallback):
    """Asks for a checkpoint once the last one is old: by time, because steps take from milliseconds to minutes.

    One clock decides for all processes, for to save is something they do together. To ask it halts a GPU, so they ask
    halfway to the step that seems due, and again halfway from there.
    """

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.last = time.monotonic()
        self.since = self.ask = 0
        """Steps: of the last checkpoint, and at which to ask again."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.last, self.since = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if (step := state.global_step) < self.ask:
            return
        gone = time.monotonic() - self.last
        left = (self.seconds - gone) / max(gone, 1e-9) * (step - self.since) / 2
        due, wait = broadcast_object_list([gone >= self.seconds, int(min(left, state.max_steps))])
        self.ask = step + max(1, wait)
        if due:
            self.last, self.since = time.monotonic(), step
            control.should_save = control.should_save or step < state.max_steps
