"""The checks during the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from rkld.errors import Diverged
from rkld.files import read_jsonl, write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.models.state import save_state
from rkld.stopping.evidence import Evidence
from rkld.stopping.rules import Decision, Rule, decide

# During the run


class Stop(TrainerCallback):
    """Checks the student every few steps, keeps its state nearest to the aim, and ends the training.

    Evidence and state lie in ``folder``, so a resumed run goes on with the same checks and decides the same: what has
    been measured is not measured again.
    """

    def __init__(self, lm: LanguageModel, check: Callable[[int], Evidence], rule: Rule, every: int, folder: Path):
        """
        Args:
            check: :func:`read` of the student as it is, given the step.
            every: optimizer steps between checks; the last step is always one.
        """
        self.lm, self.check, self.rule, self.every, self.folder = lm, check, rule, every, folder
        self.evidence = [Evidence.from_dict(row) for row in read_jsonl(self._file)]

    @property
    def _file(self) -> Path:
        return self.folder / "evidence.jsonl"

    @property
    def decision(self) -> Decision:
        return decide(self.rule, self.evidence)

    @property
    def best(self) -> Path:
        """The state of the check that the rule has chosen (:func:`rkld.models.state.restore_state`)."""
        return self.folder / f"best-{self.decision.step}.safetensors"

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        due = step % self.every == 0 or step == state.max_steps
        if due and all(one.step != step for one in self.evidence):
            found = self.check(step)
            if np.isnan(found.gold_loss).any():
                raise Diverged(f"at step {step} the records have no likelihood")
            self._add(found)
        if self.evidence and self.decision.stop:
            control.should_training_stop = True

    def _add(self, found: Evidence) -> None:
        self.evidence.append(found)
        # The state first: evidence without its state would be of no use to a resumed run.
        if self.decision.step == found.step:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state(self.lm, self.best)
        write_jsonl(self._file, map(asdict, self.evidence))
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.best:
                path.unlink()
