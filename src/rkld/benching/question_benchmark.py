"""Benchmarks that ask questions with right and wrong answers, beside a model that never learned the forget set.

TOFU's measures (Maini et al. 2024, arXiv 2401.06121), at three moments of one run: its last epoch, the calibrated stop,
and the oracle's peak. A subclass defines the records to forget, the questions and the training data.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rkld.benching.benchmark import TRAJECTORY, Evaluator, Measured, Task, UnlearningCall
from rkld.benching.case_study import choose_cases, complete_cases, write_cases
from rkld.benching.cells import Cell, Found
from rkld.benching.fine_tuned import FineTunedBenchmark
from rkld.benching.plots import draw
from rkld.benching.question_figures import (
    FIGURES,
    FROM_ANSWERS,
    SETS,
    Losses,
    forget_ratios,
    names_whole,
    question_figures,
)
from rkld.benching.tables import Table
from rkld.errors import UserError
from rkld.evaluation.questions import encode_answers, mean_losses, question_scores
from rkld.evaluation.summary import measure
from rkld.files import read_jsonl, write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.settings.benching import QuestionSettings
from rkld.stopping.callback import StoppingCallback
from rkld.stopping.evidence import Evidence
from rkld.stopping.rules.oracle import Oracle

_NOTES = """\
- last epoch: the run's end. calibrated stop: where `rkld unlearn --stop` would have ended the same run; it sees no
  retrained model. oracle peak: the epoch with the smallest KS distance to the retrained model, which a real erasure
  does not have. no student: the method trains none, so there is one point.
- not reached: the rule never ended the run, so the check nearest to its aim was taken. no rule applies: there was
  nothing to aim at, so the last step was. diverged: the loss was no number any more: there is nothing to measure.
- default: settings as they come, one learning rate for all. tuned: the learning rate chosen on people not reported on,
  by the same grid and rule for every method.
- KS distance: between the truth ratios of the unlearned and of the retrained model; forget quality: its p-value, coarse
  and blind to harm done to right and wrong answers alike. Forget p far below the retrained model's is over-forgetting.
- names whole: share of forget answers that write the person's name as the question does, of those whose right answer
  does.
- ROUGE-L: recall, of answers cut at --max-new-tokens (TOFU cuts question and answer together at 200 tokens).
- model utility: harmonic mean of nine values; those of every epoch (trajectories.csv) leave out ROUGE-L: six values."""

TABLE = Table(
    figures=FIGURES,
    every_epoch=tuple(f for f in FIGURES if not f.endswith(FROM_ANSWERS) and f != "model_utility"),
    titles={
        "epoch": "epoch",
        "forget_quality": "forget quality",
        "ks_distance": "KS distance",
        "forget_probability": "forget p",
        "forget_rouge_l": "forget ROUGE-L",
        "forget_names_whole": "names whole",
        "retain_probability": "retain p",
        "retain_rouge_l": "retain ROUGE-L",
        "model_utility": "model utility",
    },
    notes=_NOTES,
    n="forget questions",
    forgotten=("ks_distance",),
    utility=("model_utility",),
    remaining="forget_probability",
)


class QuestionBenchmark(FineTunedBenchmark):
    """Asks the :data:`~rkld.benching.question_figures.SETS` and compares with a retrained model."""

    settings: QuestionSettings
    settings_class = QuestionSettings
    moments = ("last", "stop", "oracle")
    table = TABLE
    encoding = (*FineTunedBenchmark.encoding, "max_new_tokens")

    def tuning_loss(self, figures: Mapping[str, Any]) -> tuple[float, ...]:
        """KS distance to the retrained model, then the loss of retain probability."""
        return figures.get("ks_distance", math.inf), -figures.get("retain_probability", 0.0)

    # Data and models

    def asked(self, sources: Mapping[str, Any], learned: Collection[str] | None = None) -> dict[str, list[Record]]:
        """The same questions for every method and seed: beside the forget set as many as are asked for, drawn.

        Args:
            sources: of each of the sets: rows, or where they are.
            learned: the questions of the retain records that the models learned; None: they learned all that is there.

        Raises:
            UserError: none of the retain questions was learned.
        """
        found = {name: read_records(sources[name], name) for name in SETS}
        if learned is not None:
            found["retain"] = [record for record in found["retain"] if record.question in learned]
            if not found["retain"]:
                raise UserError(
                    f"none of retain_perturbed is among the {len(learned)} retain records: they are asked of it."
                )
        most = self.settings.questions
        for name in SETS[1:]:
            if most and len(found[name]) > most:
                chosen = random.Random(f"questions {name}").sample(range(len(found[name])), most)
                found[name] = [found[name][i] for i in sorted(chosen)]
        return found

    # Measuring

    def cases(self, cell: Cell) -> int:
        """Cases of the case study; the tuning, which goes by likelihoods, has none."""
        return 0 if cell.tuning else self.settings.cases

    def identity(self, cell: Cell) -> dict[str, Any]:
        cases = self.cases(cell)  # without any, a cell that has some will do
        return super().identity(cell) | ({"cases": cases} if cases else {})

    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> QuestionEvaluator:
        retrained = references.get("retrained")
        return QuestionEvaluator(
            task,
            encoder,
            self.settings.max_new_tokens,
            retrained["truth_ratios"] if retrained else None,
            answers=cell.variant is None or not cell.tuning,
            cases=self.cases(cell),
        )

    def watches(
        self, cell: Cell, call: UnlearningCall, evaluator: Evaluator, lm: LanguageModel
    ) -> dict[str, StoppingCallback]:
        assert isinstance(evaluator, QuestionEvaluator)
        oracle = oracle_watch(evaluator, call.steps_per_epoch, cell.folder(self.settings.folder))
        return self.stop_watch(cell, call, lm, evaluator.encoder) | {"oracle": oracle}

    # Tables

    def write(self, found: Found, tuned: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Path], list[str]]:
        rows, files, notes = super().write(found, tuned)
        if self.settings.cases:
            files.append(write_cases(self.settings.folder, found))
        try:
            files += draw(self.settings.folder, found)
        except ImportError:
            notes.append("No plots: they need matplotlib (pip install 'rkld[plots]'); the tables are written.")
        return rows, files, notes


class QuestionEvaluator(Evaluator):
    """Asks any model the questions of a task, which are encoded once."""

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        max_new_tokens: int,
        retrained: Sequence[float] | None,
        answers: bool = True,
        cases: int = 0,
    ):
        """
        Args:
            retrained: the retrained model's truth ratios on the forget set; None for that model itself.
            answers: whether answers are generated, for ROUGE-L and whole names; likelihoods are always read.
            cases: of the case study.
        """
        self.records, self.encoder, self.max_new_tokens = task.asked, encoder, max_new_tokens
        self.retrained, self.answers = retrained, answers
        self.names = identifiers(task.asked["forget"], task.subject)
        self.encoded = {name: encode_answers(encoder, task.asked[name]) for name in SETS}
        self.cases = choose_cases(task.asked["forget"], self.names, encoder, cases) if cases else []

    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        losses = self.losses(lm, self.answers)
        own = forget_ratios(losses).tolist()
        figures = question_figures(losses, own if self.retrained is None else self.retrained)
        cases = complete_cases(lm, self.cases, self.max_new_tokens) if self.cases else []
        return Measured(figures, cases, {"truth_ratios": own}, losses if self.answers else {})

    def losses(self, lm: LanguageModel, answers: bool) -> Losses:
        """Losses of all answers and, if ``answers``, ROUGE-L recall and whole names of what the model generates."""
        found = {}
        for name in SETS:
            records = self.records[name]
            scores = question_scores(lm, self.encoder, records, self.encoded[name])
            found[name] = mean_losses(scores)
            if answers:
                gold = [each[0] for each in scores]
                own = measure(lm, self.encoder, records, max_new_tokens=self.max_new_tokens, scores=gold)
                found[name]["rouge"] = np.array(own.tofu_rouge_l_recalls)
                if name == "forget":
                    found[name]["names_whole"] = names_whole(records, own.answers or (), self.names)
        return found


def oracle_watch(evaluator: QuestionEvaluator, steps_per_epoch: int, folder: Path) -> StoppingCallback:
    """Every epoch: all likelihoods, into the trajectory; the state of the smallest KS distance is kept."""
    path, retrained = folder / TRAJECTORY, evaluator.retrained
    assert retrained is not None  # it is measured before any method

    def read(student: LanguageModel, step: int) -> Evidence:
        losses = evaluator.losses(student, answers=False)
        earlier = [row for row in read_jsonl(path) if row["step"] < step]
        write_jsonl(path, [*earlier, {"step": step, **question_figures(losses, retrained)}])
        return Evidence.from_arrays(step, losses["forget"])

    rule = Oracle(retrained=tuple(retrained))
    return StoppingCallback(read, rule, steps_per_epoch, folder / "oracle", ends_training=False)
