"""LUME: forget people's personal data, real biographies and stories (SemEval-2025 task 4, arXiv 2502.15097).

Of each task the continuation of a document (``sc``) and answers to questions about it (``qa``), on what is to be
forgotten and on what is to be kept. The figures are those of the task's evaluation: *regurgitation*, the recall of
ROUGE-L with stemming of the continuation; *knowledge*, whether the answer is the right one but for case and white space
around it; *membership*, ``1 − 2·|AUC − .5|`` of a loss attack. Its aggregate is the mean of three: the harmonic mean of
the twelve task scores (those of what is forgotten as ``1 − score``), membership, and accuracy on MMLU.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from rkld.benching.benchmark import Evaluator, Measured, Task, UnlearningCall, Workload, weights_bytes
from rkld.benching.cells import Cell, Found
from rkld.benching.fine_tuned import FineTunedBenchmark, learn
from rkld.benching.published import data_identity, part_files
from rkld.benching.registry import BENCHMARKS
from rkld.benching.tables import Table, write_tables
from rkld.errors import Diverged, UserError
from rkld.evaluation.arrays import harmonic_mean
from rkld.evaluation.general import general_ability
from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.membership import auc, loss_scores
from rkld.evaluation.summary import measure
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.records.sources import rows_of
from rkld.settings.benching import FineTunedSettings
from rkld.settings.specification import setting
from rkld.settings.table import of
from rkld.stopping.callback import StoppingCallback

TASKS = {"stories": "Task1", "people": "Task2", "biographies": "Task3"}
"""Setting, and name in figures → the task's name in the data."""

SETS = ("forget", "retain")

KINDS = ("regurgitation", "knowledge")
"""Of ``sc`` and of ``qa``."""

SCORES = tuple(f"{each}_{task}_{kind}" for each in SETS for task in TASKS for kind in KINDS)
"""The twelve."""

TOKENS = 60
"""Of a record, about."""

_PART = re.compile(r"(.+)(sc|qa)\d")
"""The end of an ``id``: what it is of, and whether a continuation or a question."""

_NOTES = """\
- last epoch: the run's end. calibrated stop: where `rkld unlearn --stop` would have ended the same run; it sees no
  retrained model. no student: the method trains none, so there is one point.
- regurgitation: recall of ROUGE-L, with stemming, of the document's continuation. knowledge: share of questions whose
  answer is the right one, letter by letter but for case and white space around it.
- membership: 1 − 2·|AUC − .5| of the loss of answers, of what is forgotten against the same of others that no model
  has learned; 1: not told apart. SemEval's own sample of members is not in its data, so do not set it beside theirs.
- partial: harmonic mean of the scores of the tasks that were measured (1 − score for what is forgotten); 0 where one of
  them is 0. aggregate: SemEval's, mean of that over all twelve scores, membership and MMLU (here zero-shot).
- questions are asked in the model's own format, as the models that are made here have learned them. SemEval asks them
  bare, and its own models have learned all the data: of these, as --original, knowledge and membership say little."""


@dataclass(frozen=True)
class LumeSettings(FineTunedSettings):
    """Which methods forget whom of LUME, and how. Units stand beside each setting; defaults are for SmolLM2-135M."""

    data: str = setting(
        "",
        "A local folder with forget and retain (.jsonl, .json or .parquet), in LUME's columns. Needed.",
        metavar="FOLDER",
        affects="figures",
    )
    model: str | None = of(
        "model",
        default="smollm2-135m",
        help="What is fine-tuned to the original and the retrained models.",
        affects="figures",
    )
    people: int = setting(10, "Fictitious people to forget (Task 2), six records each.", low=0, affects="figures")
    biographies: int = setting(0, "Real people's biographies to forget (Task 3).", low=0, affects="figures")
    stories: int = setting(0, "Stories to forget (Task 1), where the data has them.", low=0, affects="figures")
    kept: int = setting(4, "For each of them so many others are learned, and are to be kept.", low=1, affects="figures")
    measured: int = setting(1, "For each of them so many of those others are measured.", low=1, affects="figures")
    mmlu: bool = setting(
        False, "Measure MMLU, too, by lm-eval (fetched once), for SemEval's aggregate.", affects="figures"
    )
    train_epochs: int = setting(10, "Passes when original and retrained models are made.", low=1, affects="figures")
    train_lr: float = setting(2e-4, "Their peak learning rate.", low=0, high=1, exclusive="low", affects="figures")
    train_batch: int = setting(8, "Their records per step.", low=1, affects="figures")
    out: str = of("out", default="runs/bench_lume", help="Folder of models, cells and tables.")
    seeds: int = setting(1, "Seeds 0, 1, …; each forgets others.", low=1, affects="nothing")
    lr: float | None = of("lr", default=1e-4, help="Peak learning rate.")
    batch_size: int = of("batch_size", default=8, help="Forget records per step.")
    replay: str = of("replay", help="The prompts of +replay: auto, or a file of them.", metavar="auto|DATA")
    max_new_tokens: int | None = of(
        "max_new_tokens",
        help="Longest generated answer, in tokens. Default: as long as the recorded one and 64 more.",
        affects="figures",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UserError("--data is missing: give a folder with LUME's forget and retain sets.")
        if not any(self.forgotten.values()):
            raise UserError("nothing to forget: give --people, --biographies or --stories.")
        if self.measured > self.kept:
            raise UserError(
                f"--measured {self.measured} is more than --kept {self.kept}: of those kept some are measured."
            )
        if not (self.model or (self.original and self.retrained)):
            raise UserError("no model: give --model, or both --original and --retrained.")

    @property
    def forgotten(self) -> dict[str, int]:
        """Task → how many of it a seed forgets."""
        return {task: getattr(self, task) for task in TASKS}


@dataclass(frozen=True)
class Part:
    """One record of LUME. Holds personal data."""

    whose: str
    """What its records have in common."""
    task: str
    kind: str
    row: Mapping[str, Any]
    """As :func:`rkld.records.reading.read_records` takes it."""


@dataclass(frozen=True)
class Chosen:
    """What one seed forgets, keeps, and never learns: parts."""

    forget: Sequence[Part]
    kept: Sequence[Part]
    measured: Sequence[Part]
    holdout: Sequence[Part]
    """For the calibrated stop."""
    strangers: Sequence[Part]
    """For membership."""


@BENCHMARKS.register("lume")
class Lume(FineTunedBenchmark):
    """Forget people of SemEval-2025 task 4 by every method."""

    settings: LumeSettings
    settings_class = LumeSettings
    examples = (
        "rkld bench lume --data ./lume --methods rkld,npo+rt,simnpo+rt --plan",
        "rkld bench lume --data ./lume --people 10 --biographies 10 --methods rkld,rkld@reword=4",
    )
    table = Table(
        figures=(
            *SCORES,
            *(f"{each}_{kind}" for each in SETS for kind in KINDS),
            *(f"{each}_probability" for each in SETS),
            "membership_auc",
            "membership",
            "mmlu",
            "partial",
            "aggregate",
        ),
        every_epoch=(),
        titles={
            "epoch": "epoch",
            **{f"{each}_{kind}": f"{each} {kind}" for each in SETS for kind in KINDS},
            "retain_probability": "retain p",
            "membership": "membership",
            "partial": "partial",
            "aggregate": "aggregate",
        },
        notes=_NOTES,
        n="records to forget",
        forgotten=("forget_knowledge", "forget_regurgitation"),
        utility=("retain_knowledge", "retain_regurgitation"),
        remaining="forget_probability",
    )
    files = FineTunedBenchmark.files | {"replay"}
    encoding = (*FineTunedBenchmark.encoding, "max_new_tokens")

    def check(self) -> None:
        """Refuse data with too few of a task for all seeds."""
        super().check()
        for seed in (*self.seeds(), *([self.settings.seeds] if self.settings.tune else [])):
            self.chosen(seed)

    def splits(self) -> list[str]:
        return ["lume"]

    def tuning_place(self) -> tuple[str, int] | None:
        return ("lume", self.settings.seeds) if self.settings.tune else None  # the first seed left

    def tuning_loss(self, figures: Mapping[str, Any]) -> tuple[float, ...]:
        """What the partial aggregate lacks; where it is 0 alike, membership and the loss of retain probability."""
        return tuple(-figures.get(name, 0.0) for name in ("partial", "membership", "retain_probability"))

    # Data

    @cached_property
    def parts(self) -> dict[str, dict[str, dict[str, list[Part]]]]:
        """Set → task → whose → parts. UserError where they are not there, or no records of LUME."""
        return {each: _grouped(read_parts(f"{self.settings.data}:{each}", each)) for each in SETS}

    def chosen(self, seed: int) -> Chosen:
        """Whose records are what, by their order in the data: seeds take the first, those never learned the last.

        Raises:
            UserError: a task has too few for this seed.
        """
        s = self.settings
        forget, kept, measured, holdout, strangers = (list[Part]() for _ in range(5))
        for task, n in s.forgotten.items():
            there = {each: list(self.parts[each].get(task, {}).values()) for each in SETS}
            needs = {"forget": (seed + 1) * n, "retain": (seed + 1) * n * s.kept + 2 * n}
            for each, most in needs.items():
                if n and len(there[each]) < most:
                    raise UserError(
                        f"--{task} {n}: of {each} seed {seed} needs {most} of {TASKS[task]}, and {s.data} has "
                        f"{len(there[each])}. Give fewer, a smaller --kept, or fewer --seeds."
                    )
            others = there["retain"][seed * n * s.kept : (seed + 1) * n * s.kept]
            last = there["retain"][len(there["retain"]) - 2 * n :]
            for found, some in (
                (forget, there["forget"][seed * n : (seed + 1) * n]),
                (kept, others),
                (measured, others[: n * s.measured]),
                (holdout, last[:n]),
                (strangers, last[n:]),
            ):
                found += [part for parts in some for part in parts]
        return Chosen(forget, kept, measured, holdout, strangers)

    def task(self, split: str, seed: int) -> Task:
        chosen = self.chosen(seed)
        subjects = dict.fromkeys(part.row["subject"] for part in chosen.forget if "subject" in part.row)
        sets = {"forget": chosen.forget, "retain": chosen.measured, "strangers": chosen.strangers}
        return Task(
            _rows(chosen.forget),
            {name: read_records(_rows(parts), name) for name, parts in sets.items()},
            _rows(chosen.kept),
            self.settings.replay,
            _rows(chosen.holdout),
            tuple(subjects),
        )

    def setting_identity(self, name: str, cell: Cell) -> Any:
        """The data are known by what they hold; those of the hub, which are no folder, by their name."""
        data = self.settings.data
        if name != "data" or not all(part_files(data, each) for each in SETS):
            return super().setting_identity(name, cell)
        return data_identity(data, SETS)

    # Models

    def model_place(self, role: str, split: str, seed: int) -> str:
        return f"seed{seed}"

    def model_identity(self, role: str, split: str, seed: int) -> dict[str, Any]:
        names = (
            "data",
            *TASKS,
            "kept",
            "model",
            "train_epochs",
            "train_lr",
            "train_batch",
            "bf16",
            "system_prompt",
            "chat_template",
            "template_date",
        )
        cell = Cell(split, seed, role)
        return {"benchmark": self.name, **{name: self.setting_identity(name, cell) for name in names}}

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        s, chosen = self.settings, self.chosen(seed)
        parts = [*chosen.kept, *(chosen.forget if role == "original" else ())]
        return learn(
            s,
            read_records(_rows(parts), "training"),
            folder,
            encoder=self.encoder,
            title=role,
            progress=progress,
            chat_template=s.chat_template,
        )

    # Measuring

    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> LumeEvaluator:
        chosen = self.chosen(cell.seed)
        return LumeEvaluator(task, {"forget": chosen.forget, "retain": chosen.measured}, encoder, self.settings)

    def watches(
        self, cell: Cell, call: UnlearningCall, evaluator: Evaluator, lm: LanguageModel
    ) -> dict[str, StoppingCallback]:
        assert isinstance(evaluator, LumeEvaluator)
        return self.stop_watch(cell, call, lm, evaluator.encoder)

    def workload(self) -> Workload:
        s = self.settings
        forget = 6 * s.people + 2 * (s.biographies + s.stories)
        return Workload(
            forget,
            answers=(2 + s.measured) * forget,
            tokens=TOKENS,
            model_bytes=weights_bytes(s.original, s.model),
            training_records=(1 + s.kept) * forget * s.train_epochs,
        )

    def write(self, found: Found, tuned: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Path], list[str]]:
        """As of every benchmark; below the tables stands what SemEval's aggregate lacks."""
        rows, files, notes = super().write(found, tuned)
        if lacking := self.lacking:
            note = f"The aggregate is partial: without {', '.join(lacking)}."
            table = dataclasses.replace(self.shown, notes=f"{self.shown.notes}\n- {note}")
            files = write_tables(self.settings.folder, f"rkld bench {self.name}", table, found, rows)
            notes.append(note)
        return rows, files, notes

    @property
    def lacking(self) -> list[str]:
        """What SemEval's aggregate needs and these settings do not measure."""
        tasks = [TASKS[task] for task, n in self.settings.forgotten.items() if not n]
        return [*(f"{task[:-1]} {task[-1]}" for task in tasks), *([] if self.settings.mmlu else ["MMLU"])]


class LumeEvaluator(Evaluator):
    """Asks any model for continuations and answers, which are encoded once."""

    def __init__(self, task: Task, parts: Mapping[str, Sequence[Part]], encoder: Encoder, settings: LumeSettings):
        """
        Args:
            parts: set → of each of its records, in the task's order, what it is.
        """
        self.asked, self.parts, self.encoder, self.settings = task.asked, parts, encoder, settings
        self.members = [[encoder.encode(record) for record in task.asked[name]] for name in ("forget", "strangers")]

    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        scores: dict[str, float] = {}
        for name, parts in self.parts.items():
            with progress.bar(f"{name}: answers", len(parts)) as advance:
                found = measure(
                    lm,
                    self.encoder,
                    self.asked[name],
                    max_new_tokens=self.settings.max_new_tokens,
                    progress=advance,
                )
            _check(found.probabilities)
            assert found.answers is not None
            assert found.tofu_rouge_l_recalls is not None
            values = [
                recall if part.kind == "sc" else float(same(record.answer, answer))
                for part, record, answer, recall in zip(
                    parts, self.asked[name], found.answers, found.tofu_rouge_l_recalls, strict=True
                )
            ]
            scores |= task_scores(name, parts, values) | {f"{name}_probability": found.probability}
        scores |= self._membership(lm)
        if self.settings.mmlu:
            scores["mmlu"] = general_ability(lm, ["mmlu"])["mmlu"]["accuracy"]
        return Measured({"n": len(self.parts["forget"]), **scores, **aggregates(scores)})

    def _membership(self, lm: LanguageModel) -> dict[str, float]:
        forget, strangers = (loss_scores(answer_losses(lm, encoded)) for encoded in self.members)
        value = auc(forget, strangers)
        return {"membership_auc": value, "membership": 1 - 2 * abs(value - 0.5)}


def _check(probabilities: Iterable[float]) -> None:
    if any(math.isnan(one) for one in probabilities):
        raise Diverged("the likelihoods of the answers are no numbers")


def same(gold: str, answer: str) -> bool:
    """SemEval's exact match: the same letters but for case and white space around them."""
    return gold.strip().lower() == answer.strip().lower()


def task_scores(name: str, parts: Sequence[Part], values: Sequence[float]) -> dict[str, float]:
    """Means of a set's values (n,) by task and kind, and by kind alone over all tasks; where there are any."""
    kinds = dict(zip(("sc", "qa"), KINDS, strict=True))
    groups: dict[str, list[float]] = {}
    for part, value in zip(parts, values, strict=True):
        for where in (f"{name}_{part.task}_{kinds[part.kind]}", f"{name}_{kinds[part.kind]}"):
            groups.setdefault(where, []).append(value)
    return {where: fmean(some) for where, some in groups.items()}


def aggregates(scores: Mapping[str, float]) -> dict[str, float | None]:
    """The harmonic mean of those task scores that are there ("partial"), and SemEval's "aggregate"; None without."""
    there = [1 - scores[name] if name.startswith("forget") else scores[name] for name in SCORES if name in scores]
    partial = harmonic_mean(np.clip(there, 0, 1)) if there else None
    others = [scores[name] for name in ("membership", "mmlu") if name in scores]
    whole = partial is not None and len(there) == len(SCORES) and len(others) == 2
    return {"partial": partial, "aggregate": fmean([partial, *others]) if whole and partial is not None else None}


# Records


def read_parts(source: str, what: str) -> Iterator[Part]:
    """The parts of a file of LUME, in its order.

    Raises:
        UserError: a row without ``id``, ``input``, ``output`` and ``task`` as LUME has them.
    """
    tasks = {name: task for task, name in TASKS.items()}
    for where, row in rows_of(source, what):
        values = [row.get(name) for name in ("id", "input", "output", "task")] if isinstance(row, Mapping) else []
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        if len(texts) != 4:
            raise UserError(f"{where}: a record of LUME needs the texts 'id', 'input', 'output' and 'task'.")
        number, before, behind, task = texts
        found = _PART.fullmatch(number)
        if found is None or task not in tasks:
            raise UserError(
                f"{where}: a record of LUME has an 'id' that ends in sc or qa and a digit, and a 'task' of "
                f"{', '.join(tasks)}."
            )
        whose, kind = found.groups()
        yield Part(whose, tasks[task], kind, _row(kind, before, behind))


def _row(kind: str, before: str, behind: str) -> dict[str, Any]:
    if kind == "qa":  # a bare value: all of it is personal
        return {"question": before, "answer": behind, "spans": [behind.strip()]}
    gap = "" if before[-1].isspace() or behind[0].isspace() else " "
    return {"prompt": before, "completion": gap + behind}


def _grouped(parts: Iterable[Part]) -> dict[str, dict[str, list[Part]]]:
    """Task → whose → parts, each with the name of whom it is about, where that is known."""
    groups: dict[str, dict[str, list[Part]]] = {}
    for part in parts:
        groups.setdefault(part.task, {}).setdefault(part.whose, []).append(part)
    return {task: {whose: _named(task, some) for whose, some in people.items()} for task, people in groups.items()}


def _named(task: str, parts: Sequence[Part]) -> list[Part]:
    name = _name(task, parts)
    return [dataclasses.replace(part, row={**part.row, "subject": name}) if name else part for part in parts]


def _name(task: str, parts: Sequence[Part]) -> str | None:
    """Of a person the name in the question of the birth date; of a biography its title, without what is in brackets."""
    if task == "people":
        asked = (re.fullmatch(r"What is the birth date of (.+)\?", part.row.get("question", "")) for part in parts)
        return next((found[1].strip() for found in asked if found), None)
    if task == "biographies":
        titles = (part.row["prompt"].strip().partition("\n")[0] for part in parts if part.kind == "sc")
        return next((title for text in titles if (title := re.sub(r"\s*\([^)]*\)", "", text).strip())), None)
    return None


def _rows(parts: Iterable[Part]) -> list[dict[str, Any]]:
    return [dict(part.row) for part in parts]
