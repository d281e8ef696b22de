"""When a strengthening has learned enough: where wordings that it does not see gain no more by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import processes
from rkld.evaluation.likelihood import answer_losses
from rkld.losses.micro_batches import is_reworded
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded

READ = 32
"""Wordings that are read after each epoch, which takes a fraction of one."""

LOSSES = "held_back_losses"
"""In the trainer's state, which every checkpoint has: the loss before the training and after each epoch."""


def held_back(forget: Sequence[Encoded]) -> list[Encoded]:
    """Of the records' rewordings, which the strengthening never sees, one of a record each, from all over them."""
    first: dict[str, Encoded] = {}
    for e in forget:
        if is_reworded(e) and e.record is not None and any(e.scored):
            first.setdefault(e.record.source, e)
    found = list(first.values())
    return found[:: -(-len(found) // READ)] if found else []


def mean_loss(lm: LanguageModel, records: Sequence[Encoded]) -> float:
    """Nats per scored token, over the tokens of all records; the same in every process."""
    return processes.agreed(float(np.concatenate(answer_losses(lm, records, mask="scored")).mean()))


class EndWhereLearned(TrainerCallback):
    """Ends a training after an epoch, from the second on, that has lowered a loss by less than a share of it.

    The first epoch warms up, and tells nothing of those after it.
    """

    def __init__(self, loss: Callable[[], float], steps_per_epoch: int, least: float) -> None:
        """
        Args:
            loss: of held-back wordings, as the model is now, in nats.
            least: share of the loss by which an epoch must lower it for another to follow.
        """
        self.loss, self.steps_per_epoch, self.least = loss, steps_per_epoch, least
        self.losses: list[float] = []
        self.ended_after: int | None = None
        """Epochs, where it ended the training."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.losses = list(state.stateful_callbacks.get(LOSSES, {}).get("losses", []))
        if state.global_step == 0:
            self._read(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.steps_per_epoch or state.global_step == state.max_steps:
            return
        self._read(state)
        if len(self.losses) > 2 and self.losses[-2] - self.losses[-1] < self.least * self.losses[-2]:
            self.ended_after = state.global_step // self.steps_per_epoch
            control.should_training_stop = True
            control.should_save = False  # a training that goes on from a checkpoint would take another step

    def _read(self, state: TrainerState) -> None:
        self.losses.append(self.loss())
        state.stateful_callbacks[LOSSES] = {"losses": self.losses}
