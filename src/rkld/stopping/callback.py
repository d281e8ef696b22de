"""The checks during the training: evidence is recorded, the chosen state kept, the training ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rkld import processes
from rkld.errors import Diverged, UserError
from rkld.files import make_folder, read_jsonl, write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.models.state import save_state
from rkld.runfolder.checksums import checksum, sealed, unsealed
from rkld.stopping.evidence import Evidence
from rkld.stopping.rule import Decision, StoppingRule, decide

EVIDENCE = "evidence.jsonl"
"""A line for each check, sealed, with the checksum of the state that was kept of it then."""


def _state_file(step: int) -> str:
    return f"best-{step}.safetensors"


def read_checks(folder: Path) -> tuple[list[Evidence], dict[int, str]] | None:
    """What a training's checks left in its folder, and the checksums of states by step; None where it is damaged."""
    return processes.by_main(lambda: _read_checks(folder))


def _read_checks(folder: Path) -> tuple[list[Evidence], dict[int, str]] | None:
    try:
        rows = [unsealed(row) for row in read_jsonl(folder / EVIDENCE)]
        whole = [row for row in rows if row is not None]
        evidence = [Evidence.from_dict(row) for row in whole]
        states = {one.step: row["state"] for one, row in zip(evidence, whole) if row.get("state")}
    except (UserError, KeyError, TypeError):
        return None
    there = {step: folder / _state_file(step) for step in states}
    kept = [step for step, path in there.items() if path.is_file()]  # those of other steps were deleted
    if len(whole) < len(rows) or (states and not kept) or any(checksum(there[step]) != states[step] for step in kept):
        return None
    return evidence, states


class StoppingCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed: Any
    """Checks the student every few steps until the rule is satisfied, and keeps its state nearest to the aim.

    Evidence and state lie in ``folder``, so a resumed run goes on with the same checks and decides the same: what has
    been measured is not measured again.
    """

    def __init__(
        self,
        read: Callable[[LanguageModel, int], Evidence],
        rule: StoppingRule,
        every: int,
        folder: Path,
        *,
        ends_training: bool = True,
        record: Callable[[Evidence], object] = lambda one: None,
    ):
        """
        Args:
            read: one check of the student as it is, given the step (:meth:`rkld.stopping.comparison.Comparison.read`).
            every: optimizer steps between checks; the last step is always one.
            ends_training: False to watch alone: the state that the rule would have ended with is kept, and the
                training goes on.
            record: told of every check that was made, once it is on disk.
        """
        self.read, self.rule, self.every, self.folder = read, rule, every, folder
        self.ends_training, self.record = ends_training, record
        kept = read_checks(folder)
        if kept is None:
            raise UserError(f"the checks of the training in {folder} are damaged: delete it, and begin again.")
        self.evidence, self.states = kept
        self._student: LanguageModel | None = None

    @property
    def decision(self) -> Decision:
        """The rule's, after the checks so far. ValueError before the first."""
        return decide(self.rule, self.evidence)

    @property
    def best(self) -> Path:
        """The state of the check that the rule has chosen (:func:`rkld.models.state.restore_state`)."""
        return self.folder / _state_file(self.decision.step)

    @property
    def satisfied(self) -> bool:
        """Whether the rule would end the training."""
        return bool(self.evidence) and self.decision.stop

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        assert model is not None  # the Trainer passes both
        assert processing_class is not None
        self._student = LanguageModel(model, processing_class, "")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        due = step % self.every == 0 or step == state.max_steps
        if due and not self.satisfied and all(one.step != step for one in self.evidence):
            assert self._student is not None
            self.check(self._student, step)
        if self.ends_training and self.satisfied:
            control.should_training_stop = True

    def check(self, student: LanguageModel, step: int) -> None:
        """Make a check of the student as it is.

        Raises:
            Diverged: its likelihoods are no numbers.
        """
        found = processes.agreed(self.read(student, step))  # one decides for all
        if not np.isfinite(found.gold_loss).all():
            raise Diverged(f"at step {step} the likelihoods of the records are not finite")
        self._add(found, student)

    def _add(self, found: Evidence, student: LanguageModel) -> None:
        self.evidence.append(found)
        # The state first: evidence without its state would be of no use to a resumed run.
        if self.decision.step == found.step:
            make_folder(self.folder)
            save_state(student, self.best)
            self.states[found.step] = processes.by_main(lambda: checksum(self.best))
        rows = ({**asdict(one), "state": self.states.get(one.step)} for one in self.evidence)
        write_jsonl(self.folder / EVIDENCE, map(sealed, rows))
        self.record(found)
        if processes.is_main():
            for path in self.folder.glob("best-*.safetensors"):
                if path != self.best:
                    path.unlink()
