"""What becomes of a few records while the student learns: shown and reported, and looked at by nothing that decides."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld.evaluation.likelihood import probability
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded

WATCHED = 4
"""Records of each set: of SmolLM2-135M on two CPU cores they are read in a tenth of a training step."""

GLANCES = 10
"""So often are they read in a training at most, where no check of a stopping rule reads more."""


def watch_every(check_every: int, steps: int) -> int:
    """Optimizer steps between two readings: as many as between two checks, or more."""
    return check_every * max(1, -(-steps // (GLANCES * check_every)))


class Watch(TrainerCallback):
    """Reads the records now and then, and leaves their figures to be logged with the loss of that step."""

    def __init__(
        self, lm: LanguageModel, sets: Mapping[str, Sequence[Encoded]], every: int, figures: MutableMapping[str, float]
    ) -> None:
        """
        Args:
            sets: name of a figure → the records whose mean probability it is; empty ones are left out.
            every: optimizer steps between readings (:func:`watch_every`); the last step is always one.
            figures: takes them; what is there already is left as it is.
        """
        self.lm, self.every, self.figures = lm, every, figures
        scored = {name: [record for record in records if any(record.scored)] for name, records in sets.items()}
        self.sets = {name: records[:WATCHED] for name, records in scored.items() if records}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        for name, records in self.sets.items():
            if name not in self.figures:
                self.figures[name] = float(probability(self.lm, records, mask="scored").mean())
        control.should_log = True
