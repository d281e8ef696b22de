"""What a benchmark is: its records, questions and training data; its models, metrics, identity and costs.

A subclass is a benchmark, and its file is all that there is of it: cells, tuning, tables, the plan and resuming are
made from what it declares (docs/architecture.md has a recipe). Those that ask questions as TOFU does derive from
:class:`rkld.benching.question_benchmark.QuestionBenchmark`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rkld.benching.cells import Cell, Found
from rkld.benching.tables import Table, rows_of, write_tables
from rkld.benching.variants import Variant, variants
from rkld.errors import UserError
from rkld.files import contents
from rkld.methods.two_models import open_model
from rkld.models import smollm2
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_tokenizer, resolve
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.identity import each_once
from rkld.records.probes import untrue_answers
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.registry import file_and_name, source_hash
from rkld.settings.benching import BenchSettings, listed
from rkld.settings.table import specs
from rkld.stopping.callback import StoppingCallback

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Task:
    """The data of one split and seed. What is trained on are rows or a source of rows, as a user gives them."""

    forget: Any
    asked: Mapping[str, list[Record]]
    """Set → the records that models are measured on."""
    retain: Any = None
    replay: Any = "auto"
    """The prompts of methods with ``+replay``."""
    holdout: Any = None
    """Records of others that were never trained on."""
    subject: tuple[str, ...] = ()

    @property
    def forgotten(self) -> list[Record]:
        """The forget records as a run reads them: each once."""
        return each_once(read_records(self.forget, "forget"))[0]


@dataclass(frozen=True)
class Tuning:
    """How learning rates are chosen, on people who are not reported on."""

    split: str
    seed: int
    rates: Sequence[float]
    """Those that every variant is tried with."""
    loss: Callable[[Mapping[str, Any]], tuple[float, ...]]
    """Of the figures; the chosen learning rate has the least. They lack what a training that diverged has not."""


TRAJECTORY = "trajectory.jsonl"
"""In a cell's folder while it runs: the figures of every epoch, where a watch writes them; each row has its "step"."""


@dataclass(frozen=True)
class Measured:
    """What a model showed."""

    figures: Mapping[str, float | int | None]
    """By the names of the benchmark's :attr:`Benchmark.table`."""
    cases: Sequence[Mapping[str, Any]] = ()
    """Of the case study (:func:`rkld.benching.case_study.complete_cases`). Personal data."""
    compared_with: Mapping[str, Any] = field(default_factory=dict)
    """Of a reference model: what other cells need of it. It stands in its ``cell.json`` by these names."""
    logs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Question by question, as :func:`rkld.evaluation.tofu.write_logs` takes them; they lie beside ``cell.json``."""


@dataclass(frozen=True)
class UnlearningCall:
    """What :func:`rkld.pipeline.running.run_unlearning` is called with in a cell."""

    model: str
    data: Mapping[str, Any]
    """"forget", "retain", "replay", "holdout"."""
    settings: Mapping[str, Any]
    steps_per_epoch: int
    """Where every record can be reworded, if any are to be: how often a stop looks."""


class Evaluator(ABC):
    """Measures any state of a model on the questions of one task, which are encoded once."""

    @abstractmethod
    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        """All figures of the model as it is.

        Raises:
            Diverged: a likelihood is no number.
        """


@dataclass(frozen=True)
class Workload:
    """How much there is to compute, for a rough prediction; None where it is unknown."""

    forget: int
    """Records to forget."""
    answers: int
    """Answers whose likelihood is read at each measurement."""
    tokens: int
    """Of a record, about."""
    model_bytes: int | None
    """Of the weights in float32."""
    training_records: int = 0
    """Records times epochs to make an original or a retrained model."""
    model_core_seconds: float | None = None
    """The same as measured, in seconds of one core."""


FLOPS = 1.5e10
"""Per second and CPU core in training, measured once with the tiny model; for the rough figure before any cell is
finished. A GPU is faster by orders of magnitude."""


class Benchmark(ABC):
    """One benchmark, opened with its settings. Made by :func:`rkld.benching.registry.open_benchmark`."""

    settings_class: ClassVar[type[BenchSettings]]
    """Its settings: its options on the command line are made from them."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Command lines for the help."""
    references: ClassVar[tuple[str, ...]] = ("original",)
    """Models that are measured as they are, in this order: each may be compared with those before it."""
    moments: ClassVar[tuple[str, ...]] = ("last",)
    """States of a student that are measured: "last", its last one, and those that :meth:`watches` keeps."""
    table: ClassVar[Table]
    """Its figures, and which of them are shown."""

    files: ClassVar[frozenset[str]] = frozenset()
    """Settings that may name a file, which is known by its content."""
    encoding: ClassVar[tuple[str, ...]] = ()
    """Settings that the unlearning takes over besides those of every benchmark."""

    def __init__(self, settings: Any, origin: str | type[Benchmark], name: str):
        """
        Args:
            settings: of :attr:`settings_class`.
            origin: the class, or ``FILE.py:NAME`` by which another process can find it.
            name: what it is called in tables and in the identity of cells.
        """
        self.settings, self.origin, self.name = settings, origin, name

    def check(self) -> None:
        """Refuse, before anything is made, what :attr:`settings` could not check themselves. UserError."""
        cells = self.cells()  # methods that cannot be used
        given = {self.given_model(role, cell.split, cell.seed) for cell in cells for role in self.references}
        for model in {*given, getattr(self.settings, "model", None)} - {None, "", smollm2.ALIAS}:
            resolve(str(model))  # a folder that is not there

    # Which cells there are

    @abstractmethod
    def splits(self) -> list[str]:
        """What is forgotten, one after another."""

    def comes_after(self, split: str) -> str | None:
        """The split that a method forgets before this one, and from whose model it goes on; None: from the original."""
        return None

    def seeds(self) -> Sequence[int]:
        return range(1)

    def tuning(self) -> Tuning | None:
        """How the variants' learning rates are chosen; None: each keeps its own."""
        return None

    def refusal(self, variant: Variant) -> str | None:
        """Why the benchmark cannot use a variant, as a sentence; None where it can."""
        return None

    @cached_property
    def variants(self) -> list[Variant]:
        """What is compared.

        Raises:
            UserError: one that was named by itself cannot be used; none is left.
        """
        found = [one for one in variants(self.settings.methods) if not self._refused(one)]
        if not found:
            raise UserError(f"--methods leaves no method that the benchmark {self.name} can use.")
        return found

    @property
    def left_out(self) -> list[str]:
        """Of the variants that a group named and that cannot be used, why."""
        named = (f"{one.name}: {why}" for one in variants(self.settings.methods) if (why := self._refused(one)))
        return list(named)

    def _refused(self, one: Variant) -> str | None:
        why = self.refusal(one) or self._without_alternates(one)
        if why and one.name in listed(self.settings.methods):
            raise UserError(f"{one.name}: {why} Take it out of --methods.")
        return why

    def _without_alternates(self, one: Variant) -> str | None:
        """Why a method that needs untrue answers has none, if none can be made of the first split's records."""
        if not one.make().alternates:
            return None
        task = self.task(self.splits()[0], self.seeds()[0])
        retain = read_records(task.retain, "retain") if one.settings()["retain"] and task.retain is not None else []
        try:
            untrue_answers(read_records(task.forget, "forget"), retain, seed=0)
        except UserError as error:
            return f"it teaches untrue answers. {error}"
        return None

    def cells(self) -> list[Cell]:
        """Every cell that is reported, in the order in which they run: what others are compared with first."""
        found = []
        for split in self.splits():
            for seed in self.seeds():
                found += [Cell(split, seed, name) for name in self.references]
                found += [Cell(split, seed, one.name, one) for one in self.variants]
        return found

    # Data and models

    @abstractmethod
    def task(self, split: str, seed: int) -> Task:
        """Read or make the data. UserError where they are not there."""

    @abstractmethod
    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        """Make the model of a role of :attr:`references`; checkpoints go to ``folder``."""

    def given_model(self, role: str, split: str, seed: int) -> str | None:
        """A folder or hub name of a model that is there already; None: it is made."""
        return None

    def model_place(self, role: str, split: str, seed: int) -> str:
        """The part of ``models/`` in which the model is made; cells with the same part share it."""
        return split

    def model_identity(self, role: str, split: str, seed: int) -> dict[str, Any]:
        """What decides which model is made, as JSON has it."""
        found = self.identity(Cell(split, seed, role))
        found.pop("relearning", None)  # is measured of it
        return found

    def model_folder(self, role: str, split: str, seed: int) -> str | Path:
        """Where the model of a role is, or will be made."""
        given = self.given_model(role, split, seed)
        return given or self.settings.folder / "models" / self.model_place(role, split, seed) / role

    @property
    def own_method_files(self) -> tuple[str, ...]:
        """The user's own methods, for folders of two models that name one of them."""
        named = (variant.method for variant in self.variants if file_and_name(variant.method))
        return (*self.settings.method_file, *named)

    def load(self, source: str | Path) -> tuple[LanguageModel, Encoder]:
        lm = open_model(source, method_files=self.own_method_files)
        return lm, Encoder(lm.tokenizer, context_length=lm.context_length)

    def tokenizer_of(self, source: str) -> PreTrainedTokenizerBase:
        """A model's tokenizer, without its weights where they can be left alone."""
        folder = Path(resolve(source))
        whole = (folder / "config.json").is_file()
        return load_tokenizer(folder, trust_remote_code=False) if whole else self.load(source)[0].tokenizer

    # Measuring

    @abstractmethod
    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> Evaluator:
        """What measures the models of a cell.

        Args:
            references: reference model → what its cell has written, of those that come before this one.
        """

    def watches(
        self, cell: Cell, call: UnlearningCall, evaluator: Evaluator, lm: LanguageModel
    ) -> dict[str, StoppingCallback]:
        """Moment → what keeps its state and lets the training go on, of :attr:`moments` but the last step.

        Args:
            lm: the original.
        """
        return {}

    def relearns(self, cell: Cell) -> bool:
        """Whether a share of the forgotten is taught again to the cell's states (:mod:`rkld.benching.relearning`).

        Not while tuning: what judges a method may not have chosen its learning rate.
        """
        return self.settings.relearning and not cell.tuning

    # Identity

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that decides a cell's figures, as JSON has it: the settings that affect them, by the table of settings.

        Reference models are trained by no method: what affects a student or its teacher is none of theirs.
        """
        without = {"nothing"} if cell.variant else {"nothing", "student", "teacher"}
        names = [name for name, spec in specs(type(self.settings)).items() if spec.affects not in without]
        values: dict[str, Any] = {"benchmark": self.name}
        if isinstance(self.origin, str):
            values["benchmark's file"] = source_hash(self.origin)
        values |= {name: self.setting_identity(name, cell) for name in names}
        if cell.variant is not None:
            own = self.unlearning(cell.variant)
            own |= {f"with {name}": own.pop(name) for name in ("retain", "replay")}  # whether, not what
            values |= {name: value for name, value in own.items() if name not in self.files}
            values["method's file"] = source_hash(cell.variant.method)
        if self.relearns(cell):  # else the identity is that of before there was the setting
            values["relearning"] = True
        as_json: dict[str, Any] = json.loads(json.dumps(values))
        return as_json

    def setting_identity(self, name: str, cell: Cell) -> Any:
        """A setting's value, of a file its hash: one that moved is the same, one that changed is not."""
        value = getattr(self.settings, name)
        path = Path(value) if value and name in self.files else None
        return contents(path) if path and path.is_file() else value

    def unlearning(self, variant: Variant) -> dict[str, Any]:
        """The settings of :func:`rkld.pipeline.running.run_unlearning`: the benchmark's, then the variant's own."""
        names = ("epochs", "strengthen_epochs", "lr", "batch_size", "alpha", "lora", "bf16", *self.encoding)
        return {name: getattr(self.settings, name) for name in names} | variant.settings()

    # What it takes, and what it writes

    @property
    def shown(self) -> Table:
        """:attr:`table`, with what is measured of every benchmark if it is asked for."""
        return self.table.with_relearning() if self.settings.relearning else self.table

    @abstractmethod
    def workload(self) -> Workload:
        """How much there is to compute, for the plan."""

    def write(self, found: Found, tuned: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Path], list[str]]:
        """Write the tables of all finished cells.

        Args:
            tuned: variant → what the tuning chose of its grid.

        Returns:
            the rows, the files, and what could not be made.
        """
        rows = rows_of(found, tuned)
        title = f"rkld bench {self.name}"
        return rows, write_tables(self.settings.folder, title, self.shown, found, rows), []


def weights_bytes(*sources: str | None) -> int | None:
    """Size of the weights in the first of some folders that has any; None where none is a folder with weights.

    The alias is its folder, where it has been fetched.
    """
    folders = (smollm2.model_folder() if source == smollm2.ALIAS else Path(source) for source in sources if source)
    sizes = (sum(path.stat().st_size for path in folder.glob("*.safetensors")) for folder in folders if folder.is_dir())
    return next((size for size in sizes if size), None)
