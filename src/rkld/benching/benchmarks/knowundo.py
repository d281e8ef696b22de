"""KnowUnDo: forget what is private, or copied, and keep what is public beside it (Tian et al. 2024, arXiv 2407.01920).

Figures as the authors' code has them, on the questions of ``val``, whose facts the original has learned and no run is
given: the share of the right answer's tokens that the model would say itself after all before them (*accuracy*), and
its *perplexity*; of what is to be forgotten (``unlearn``) and of what is to be kept (``retention``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rkld.benching.benchmark import Evaluator, Measured, Task, UnlearningCall, Workload, weights_bytes
from rkld.benching.cells import Cell
from rkld.benching.fine_tuned import FineTunedBenchmark, learn
from rkld.benching.published import need_folder, text_in
from rkld.benching.registry import BENCHMARKS
from rkld.benching.tables import Table
from rkld.errors import Diverged, UserError
from rkld.evaluation.likelihood import answer_scores
from rkld.files import contents
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded, Encoder
from rkld.records.reading import read_records
from rkld.records.sources import text_of
from rkld.settings.benching import FineTunedSettings
from rkld.settings.specification import setting
from rkld.settings.table import of
from rkld.stopping.callback import StoppingCallback

SETS = ("unlearn", "retention")

PARTS = ("train", "val")
"""Of each set: what runs are given, and what is measured."""

BEFORE = "\n\n"
"""Between a question and its answer; a part of the answer."""

CUT = 256
"""Tokens of question and answer together that are looked at."""

TOKENS = 100
"""Of a record, about."""

_NOTES = """\
- last epoch: the run's end. calibrated stop: where `rkld unlearn --stop` would have ended the same run; it sees no
  retrained model. no student: the method trains none, so there is one point.
- accuracy: percent of the right answer's tokens that are the likeliest, given all before them; mean over answers.
  unlearn: lower is better, down to the retrained model's (any model guesses grammar); retention: higher is better.
- perplexity: exp of the mean over answers of the mean loss per token.
- questions stand as they are: neither behind the authors' instruction to an assistant nor in a chat template."""


@dataclass(frozen=True)
class KnowundoSettings(FineTunedSettings):
    """Which methods forget KnowUnDo's private or copied knowledge, and how; defaults are for SmolLM2-135M."""

    data: str = setting(
        "",
        "A local folder with privacy/unlearn.json, privacy/retention.json and so on, as on the hub. Needed.",
        metavar="FOLDER",
        affects="figures",
    )
    domain: Literal["privacy", "copyright"] = setting("privacy", "What is forgotten.", affects="nothing")
    model: str | None = of(
        "model",
        default="smollm2-135m",
        help="What is fine-tuned to the original and the retrained models.",
        affects="figures",
    )
    train_epochs: int = setting(10, "Passes when these are made (paper: 10).", low=1, affects="figures")
    train_lr: float = setting(
        2e-4, "Their peak learning rate (paper, LoRA: 1e-4).", low=0, high=1, exclusive="low", affects="figures"
    )
    train_batch: int = setting(32, "Their records per step (paper: 32).", low=1, affects="figures")
    out: str = of("out", default="runs/bench_knowundo", help="Folder of models, cells and tables.")
    seeds: int = setting(1, "Seeds 0, 1, … of the unlearning.", low=1, affects="nothing")
    lr: float | None = of("lr", default=5e-5, help="Peak learning rate (paper, LoRA: 5e-5).")
    batch_size: int = of("batch_size", default=16, help="Forget records per step (paper: 16).")
    replay: str = of("replay", help="The prompts of +replay: auto, or a file of them.", metavar="auto|DATA")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune:
            raise UserError("--tune: KnowUnDo has no questions that are not reported on. Leave it out, or set @lr=.")
        if not (self.model or (self.original and self.retrained)):
            raise UserError("no model: give --model, or both --original and --retrained.")


@BENCHMARKS.register("knowundo")
class Knowundo(FineTunedBenchmark):
    """Forget what is private and keep what is public, by every method."""

    settings: KnowundoSettings
    settings_class = KnowundoSettings
    examples = (
        "rkld bench knowundo --data ./KnowUnDo --methods rkld+rt,npo+rt,graddiff --plan",
        "rkld bench knowundo --data ./KnowUnDo --domain copyright --original ./full --retrained ./retention",
    )
    table = Table(
        figures=tuple(f"{each}_{figure}" for each in SETS for figure in ("accuracy", "perplexity")),
        every_epoch=(),
        titles={
            "epoch": "epoch",
            **{f"{each}_{figure}": f"{each} {figure}" for each in SETS for figure in ("accuracy", "perplexity")},
        },
        notes=_NOTES,
        n="questions to forget",
        forgotten=("unlearn_accuracy",),
        utility=("retention_accuracy",),
        remaining="unlearn_accuracy",
    )
    files = FineTunedBenchmark.files | {"replay"}

    def check(self) -> None:
        """Refuse a folder that is none of KnowUnDo, and rows that are none of its."""
        need_folder(self.settings.data, [f"{self.settings.domain}/{each}" for each in SETS], "KnowUnDo")
        assert self.rows  # read, once, before anything is made
        super().check()

    def splits(self) -> list[str]:
        return [self.settings.domain]

    def tuning_loss(self, figures: Mapping[str, Any]) -> tuple[float, ...]:
        raise NotImplementedError("nothing is tuned")

    # Data

    @property
    def _files(self) -> dict[str, Path]:
        return {each: Path(self.settings.data) / self.settings.domain / f"{each}.json" for each in SETS}

    @cached_property
    def rows(self) -> dict[str, dict[str, list[dict[str, str]]]]:
        """Set → part → records. UserError where they are not there, or none of KnowUnDo's."""
        return {each: read_parts(path) for each, path in self._files.items()}

    def task(self, split: str, seed: int) -> Task:
        asked = {each: read_records(self.rows[each]["val"], f"{each} val") for each in SETS}
        return Task(self.rows["unlearn"]["train"], asked, self.rows["retention"]["train"], self.settings.replay)

    def setting_identity(self, name: str, cell: Cell) -> Any:
        """The data are known by what they hold."""
        return contents(*self._files.values()) if name == "data" else super().setting_identity(name, cell)

    # Models

    def model_identity(self, role: str, split: str, seed: int) -> dict[str, Any]:
        """Seeds are of the unlearning, and share their models."""
        names = ("data", "model", "train_epochs", "train_lr", "train_batch", "bf16")
        cell = Cell(split, seed, role)
        return {"benchmark": self.name, **{name: self.setting_identity(name, cell) for name in names}}

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        """Both learn all that is to be kept; the original also all that is to be forgotten, ``val`` and all."""
        s, learned = self.settings, SETS if role == "original" else SETS[1:]
        return learn(
            s,
            read_records([row for each in learned for part in PARTS for row in self.rows[each][part]], "training"),
            folder,
            encoder=self.encoder,
            title=role,
            progress=progress,
            chat_template=s.chat_template,
        )

    # Measuring

    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> KnowundoEvaluator:
        return KnowundoEvaluator(task, encoder)

    def watches(
        self, cell: Cell, call: UnlearningCall, evaluator: Evaluator, lm: LanguageModel
    ) -> dict[str, StoppingCallback]:
        assert isinstance(evaluator, KnowundoEvaluator)
        return self.stop_watch(cell, call, lm, evaluator.encoder)

    def workload(self) -> Workload:
        s = self.settings
        n = {each: {part: len(rows) for part, rows in parts.items()} for each, parts in self.rows.items()}
        return Workload(
            n["unlearn"]["train"],
            answers=sum(parts["val"] for parts in n.values()),
            tokens=TOKENS,
            model_bytes=weights_bytes(s.original, s.model),
            training_records=sum(map(sum, (parts.values() for parts in n.values()))) * s.train_epochs,
        )


class KnowundoEvaluator(Evaluator):
    """Accuracy and perplexity of any model on the answers of ``val``, which are encoded once."""

    def __init__(self, task: Task, encoder: Encoder):
        self.encoder = encoder
        self.encoded = {name: [encoder.encode(record) for record in records] for name, records in task.asked.items()}

    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        figures: dict[str, float | int | None] = {"n": len(self.encoded["unlearn"])}
        with progress.bar("answers", len(self.encoded)) as advance:
            for name, encoded in self.encoded.items():
                figures |= {f"{name}_{figure}": value for figure, value in _figures(lm, encoded).items()}
                advance(1)
        return Measured(figures)


def _figures(lm: LanguageModel, encoded: Sequence[Encoded]) -> dict[str, float | None]:
    """Means over the answers of which a token lies within the first :data:`CUT`; None where none does."""
    lengths = [_looked_at(one) for one in encoded]
    found = [(s, n) for s, n in zip(answer_scores(lm, encoded), lengths, strict=True) if n]
    if not found:
        return {"accuracy": None, "perplexity": None}
    loss = fmean(float(s.losses[:n].mean()) for s, n in found)
    if math.isnan(loss):
        raise Diverged("the likelihoods of the answers are no numbers")
    return {
        "accuracy": 100 * fmean(float((s.margins[:n] > 0).mean()) for s, n in found),
        "perplexity": math.exp(min(loss, 700.0)),  # as large as a number can be
    }


def _looked_at(one: Encoded) -> int:
    """How many of an answer's tokens: those up to :data:`CUT` of the whole, without the end of text behind it."""
    first, n = one.prompt_length, len(one.ids)
    return max(0, min(n - 1, CUT) - first)


def read_parts(path: Path) -> dict[str, list[dict[str, str]]]:
    """Part → records of one of KnowUnDo's files: an object with lists ``train`` and ``val`` of ``text`` and ``labels``.

    Raises:
        UserError: it is none of these; no contents are shown.
    """
    try:
        value = json.loads(text_of(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is broken JSON: fetch it again.") from None
    value = value[0] if isinstance(value, list) and len(value) == 1 else value  # as the hub has it
    parts = {part: value.get(part) if isinstance(value, dict) else None for part in PARTS}
    if not all(isinstance(rows, list) and rows for rows in parts.values()):
        raise UserError(
            f"{path} must hold an object with the lists 'train' and 'val', none of them empty: fetch it again."
        )
    return {
        part: [_row(row, f"{path} {part} record {number}") for number, row in enumerate(rows or (), 1)]
        for part, rows in parts.items()
    }


def _row(row: Any, where: str) -> dict[str, str]:
    return {"prompt": text_in(row, "text", where), "completion": BEFORE + text_in(row, "labels", where)}
