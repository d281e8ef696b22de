"""The checks during the training: evidence is recorded, the chosen state kept, the training ended.

A rule is met in the middle of a training, at a rate near its highest, when what holds the rest has had no time to mend
what the forgetting has moved. So the training *settles*: it goes on for some steps, at a rate that falls to 0.
"""

from __future__ import annotations

import json
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
from rkld.files import make_folder, read_jsonl, write_json, write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.models.state import save_state
from rkld.runfolder.checksums import checksum, sealed, unsealed
from rkld.stopping.evidence import Evidence
from rkld.stopping.rule import Decision, StoppingRule, decide

EVIDENCE = "evidence.jsonl"
"""A line for each check, sealed, with the checksum of the state that was kept of it then."""


RATES = "rates.json"
"""The learning rates when the rule was met, sealed: settling begins with them, in a resumed training as well."""

SETTLE = 1.0
"""Steps of settling, for each until the rule was met. (Tiny world, two of twenty people, a holdout's aim met at step
30: others kept .923 of their probability, the worst person .811; after 10 steps more .929 and .847, after 30 .934 and
.851. Of the forgotten records the probability fell from .375 to .362 and .337.)"""


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
    if (folder / RATES).exists() and _read_rates(folder / RATES) is None:
        return None
    if len(whole) < len(rows) or (states and not kept) or any(checksum(there[step]) != states[step] for step in kept):
        return None
    return evidence, states


def _read_rates(path: Path) -> Any:
    """The learning rates when the rule was met; None where the file is damaged."""
    try:
        return (unsealed(json.loads(path.read_text(encoding="utf-8"))) or {}).get("rates")
    except (OSError, ValueError, RecursionError):
        return None


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
        settle: float = 0.0,
        record: Callable[[Evidence], object] = lambda one: None,
    ):
        """
        Args:
            read: one check of the student as it is, given the step (:meth:`rkld.stopping.comparison.Comparison.read`).
            every: optimizer steps between checks; the last step is always one.
            ends_training: False to watch alone: the state that the rule would have ended with is kept, and the
                training goes on.
            settle: steps that are taken after the rule was met, for each before (:data:`SETTLE`); the state behind the
                last of them is chosen, where it is not above the aim again.
            record: told of every check that was made, once it is on disk.
        """
        self.read, self.rule, self.every, self.folder = read, rule, every, folder
        self.ends_training, self.settle, self.record = ends_training, settle, record
        kept = read_checks(folder)
        if kept is None:
            raise UserError(f"the checks of the training in {folder} are damaged: delete it, and begin again.")
        self.evidence, self.states = kept
        self._student: LanguageModel | None = None

    @property
    def decision(self) -> Decision:
        """The rule's, after the checks so far; that of the settled state, where there is one. ValueError before the
        first."""
        met = self.met
        if met is None:
            return decide(self.rule, self.evidence)
        last = self.evidence[-1]
        if last.step > met and (gap := self.rule.gap(last)) <= self.rule.margin:
            return Decision(True, last.step, gap, self.rule.margin)
        return decide(self.rule, [one for one in self.evidence if one.step <= met])

    @property
    def met(self) -> int | None:
        """The step of the first check that satisfies the rule; None where none has yet."""
        return next((one.step for one in self.evidence if self.rule.gap(one) <= self.rule.margin), None)

    @property
    def best(self) -> Path:
        """The state of the check that the rule has chosen (:func:`rkld.models.state.restore_state`)."""
        return self.folder / _state_file(self.decision.step)

    @property
    def satisfied(self) -> bool:
        """Whether the rule would end the training."""
        return self.met is not None

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
        step, end = state.global_step, self._end(state.max_steps)
        due = step == end if self.satisfied else step % self.every == 0 or step == state.max_steps
        if due and all(one.step != step for one in self.evidence):
            assert self._student is not None
            found = processes.agreed(self.read(self._student, step))  # one decides for all
            if not np.isfinite(found.gold_loss).all():
                raise Diverged(f"at step {step} the likelihoods of the records are not finite")
            self._add(found, self._student)
        if self.ends_training and (met := self.met) is not None:
            end = self._end(state.max_steps)
            if step >= end:
                control.should_training_stop = True
            elif step >= met:
                self._slow_down(kwargs["optimizer"].param_groups, step, met, end)

    def _end(self, steps: int) -> int:
        """The last step of a training of so many, as far as is known."""
        met = self.met
        return steps if met is None else min(steps, met + round(self.settle * met)) if self.settle else 0

    def _slow_down(self, groups: list[dict[str, Any]], step: int, met: int, end: int) -> None:
        """Set the rates of the step after ``step``: from what the schedule had come to down to 0, in equal parts."""
        path = self.folder / RATES
        if step == met:
            write_json(path, sealed({"rates": [group["lr"] for group in groups]}))
        for group, rate in zip(groups, processes.by_main(lambda: _read_rates(path)), strict=True):
            group["lr"] = rate * (end - step) / (end - met)

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
