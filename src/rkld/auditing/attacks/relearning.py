"""Relearning: fine-tune on a share of the forget records and see how soon the others come back.

What was only hidden returns at once, with records that were not trained on; what a model never knew has to be learned
record by record. So the same attack is run on a never-trained control, and the curves are compared (Lynch et al. 2024,
arXiv 2402.16835; Hu et al. 2024, arXiv 2406.13356).
"""

from __future__ import annotations

import math
import random
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import processes
from rkld.auditing.inputs import Task
from rkld.auditing.reading import Attack, Reader
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.evaluation.arrays import vector
from rkld.evaluation.likelihood import probability
from rkld.evaluation.metric import Aggregate, Measured, Metric, RecordMetric, Values
from rkld.evaluation.statistics import bootstrap
from rkld.models.adapters import check_adapter_fits, new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.state import restore_state, save_state, trainable_state
from rkld.pipeline.preparing import encode_all
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded, Encoder
from rkld.records.record import Record
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.strengthening import fine_tuning_steps
from rkld.training.trainer import fine_tune

BATCH_SIZE = 4
"""Records of an optimizer step, over all processes."""

CHECKS = 10
"""How often the records are looked at along the way, besides the start."""

RANK = 16
"""Of the adapter that is trained where the weights cannot be."""

LEVEL = 0.5
"""Probability of the rest, relative to the original's (to 1 without one), at which it counts as back."""


@dataclass(frozen=True)
class Relearned:
    """How the probabilities of the records rose while some of them were trained on."""

    trained: tuple[str, ...]
    """Keys of the records that were trained on."""
    rest: tuple[str, ...]
    """Keys of the others, n of them."""
    steps: tuple[int, ...]
    """Optimizer steps before each of C checks; 0 first."""
    probabilities: tuple[tuple[float, ...], ...]
    """(C, n): ``exp(−L)`` of each record of the rest, in the order of ``rest``."""
    learned: tuple[float, ...]
    """(C,): mean probability of the records trained on. Where it hardly rises the attack was too weak."""

    @property
    def curve(self) -> tuple[float, ...]:
        """(C,): mean probability of the rest."""
        return tuple(float(np.mean(check)) for check in self.probabilities)


def effort(steps: ArrayLike, values: ArrayLike, level: float) -> float | None:
    """Optimizer steps until ``values`` (C,), seen after ``steps`` (C,), first reach ``level``; None: they never do.

    0 where they begin there; between two checks the way is taken as straight. ValueError for lists of other lengths, or
    steps that do not rise.
    """
    steps, values = vector(steps, "steps"), vector(values, "values")
    if len(steps) != len(values) or (np.diff(steps) <= 0).any():
        raise ValueError(f"{len(values)} values were seen after {len(steps)} steps, which must rise")
    reached = np.flatnonzero(values >= level)
    if not reached.size:
        return None
    i = reached[0]
    if i == 0:
        return float(steps[0])
    way = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + way * (steps[i] - steps[i - 1]))


def draw(records: Sequence[Record], share: float, seed: int = 0) -> list[int]:
    """Positions of ``ceil(share · n)`` of n records, rising; from each person as many as their part of the records.

    The same for every model. Records that name no subject count as one person's.

    Raises:
        UserError: none or all of the records would be drawn.
    """
    n = len(records)
    count = math.ceil(share * n)
    if not 0 < count < n:
        raise UserError(
            f"Relearning on a share of {share} of {n} records trains on {count} and leaves {n - count} to look at: "
            "it needs both. Give more records, or a share between 0 and 1."
        )
    order = list(range(n))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda i: records[i].subject or "")  # stable: each person's stay shuffled
    return sorted(order[(2 * i + 1) * n // (2 * count)] for i in range(count))


def relearn(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    *,
    share: float = 0.2,
    epochs: int = 10,
    lr: float | None = None,
    batch_size: int = BATCH_SIZE,
    lora: bool = False,
    seed: int = 0,
    progress: NoProgress | None = None,
) -> Relearned:
    """:func:`teach` a share of the records (:func:`draw`), and watch the others.

    Raises:
        UserError: too few records, or as of :func:`teach`.
    """
    chosen = set(draw(records, share, seed))
    return teach(
        lm,
        encoder,
        [record for i, record in enumerate(records) if i in chosen],
        [record for i, record in enumerate(records) if i not in chosen],
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        lora=lora,
        seed=seed,
        progress=progress,
    )


def uneven(batch_size: int) -> str:
    """Why a training is not shared by so many processes as these."""
    return (
        f"a step's {batch_size} records cannot be split evenly over {processes.count()} processes: start a number that "
        f"divides {batch_size}"
    )


def teach(
    lm: LanguageModel,
    encoder: Encoder,
    taught: Sequence[Record],
    rest: Sequence[Record],
    *,
    epochs: int = 10,
    lr: float | None = None,
    batch_size: int = 4,
    lora: bool = False,
    seed: int = 0,
    progress: NoProgress | None = None,
) -> Relearned:
    """Train ``lm`` on the answers of some records, watch others, and put the weights back.

    All weights are trained; of an adapter's model, the adapter. The learning rate stays the same throughout, so a curve
    does not depend on how long it goes on. Weights in bfloat16, which would round small steps away, are trained and
    measured in float32.

    Args:
        lr: default: as of an unlearning (:func:`rkld.settings.table.peak_lr`).
        batch_size: records per optimizer step.
        lora: train a new adapter in place of all weights: a weaker attack, where memory is short.

    Raises:
        UserError: the weights are quantised and ``lora`` is not asked for; several processes cannot share a step's
            records evenly.
    """
    if batch_size % processes.count():
        raise UserError(uneven(batch_size))
    progress = progress or NoProgress()
    encoded, watched = encode_all(encoder, taught), encode_all(encoder, rest)
    with _attacked(lm, lora, seed) as attacked, tempfile.TemporaryDirectory() as folder:
        args = RKLDConfig(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=lr,
            lr_scheduler_type="constant",
            per_device_train_batch_size=batch_size // processes.count(),
            checkpoint_minutes=math.inf,
            seed=seed,
            use_cpu=lm.device.type == "cpu",
        )
        steps = fine_tuning_steps(encoded, args)
        watch = _CurveCallback(attacked, encoded, watched, every=math.ceil(steps / CHECKS))
        with progress.bar("relearning", steps) as advance:
            fine_tune(attacked, encoded, args, [watch, TrainingBar(advance)])
    return Relearned(
        trained=tuple(e.key for e in encoded),
        rest=tuple(e.key for e in watched),
        steps=tuple(watch.steps),
        probabilities=tuple(watch.rest_probabilities),
        learned=tuple(watch.learned),
    )


class _CurveCallback(TrainerCallback):
    """Reads the records before the first step, every few steps, and after the last."""

    def __init__(self, lm: LanguageModel, taught: Sequence[Encoded], rest: Sequence[Encoded], every: int):
        self.lm, self.taught, self.rest, self.every = lm, taught, rest, every
        self.steps: list[int] = []
        self.rest_probabilities: list[tuple[float, ...]] = []
        self.learned: list[float] = []

    def look(self, step: int) -> None:
        found = probability(self.lm, [*self.taught, *self.rest])
        self.steps.append(step)
        self.learned.append(float(found[: len(self.taught)].mean()))
        self.rest_probabilities.append(tuple(found[len(self.taught) :].tolist()))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.look(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.look(state.global_step)


@contextmanager
def _attacked(lm: LanguageModel, lora: bool, seed: int) -> Iterator[LanguageModel]:
    """The model to train, in float32; ``lm`` is afterwards what it was, bit by bit, whatever happens."""
    if lora and not lm.is_adapter:
        trained = trainable_state(lm).values()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            attacked = new_adapter(lm, rank=RANK)
        try:
            yield attacked
        finally:
            attacked.model.unload()
            for parameter in trained:
                parameter.requires_grad_(True)
        return
    state = trainable_state(lm)
    dtypes = {name: parameter.dtype for name, parameter in state.items()}
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "weights.safetensors"
        with processes.alone():  # each in a place of its own
            save_state(lm, saved)
        try:
            for parameter in state.values():
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            yield lm
        finally:
            for name, parameter in state.items():
                parameter.grad = None  # of a run that was broken off
                parameter.data = parameter.data.to(dtypes[name])
            restore_state(lm, saved)


def _relearned(reading: Mapping[str, Any]) -> Values:
    return {key: curve[-1] for key, curve in reading["probabilities"].items()}


def _gained(reading: Mapping[str, Any]) -> Values:
    return {key: curve[-1] - curve[0] for key, curve in reading["probabilities"].items()}


def _effort(name: str, measured: Measured, role: str) -> dict[str, Any] | None:
    """Steps until the rest is back, of the reading ``name``; null: not within the budget."""
    reading = measured.of(role, name)
    if not reading:
        return None
    curves = np.array(list(reading["probabilities"].values()))  # (n, checks)
    level = half_of_the_original(measured, list(reading["probabilities"]))
    budget = reading["steps"][-1]

    def steps(rows: np.ndarray) -> float:
        found = effort(reading["steps"], curves[rows].mean(axis=0), level)
        return budget + 1 if found is None else found

    persons = measured.persons(list(reading["probabilities"]))
    drawn = asdict(bootstrap(steps, len(curves), persons, seed=measured.seed))
    never = {end: None for end in ("value", "low", "high") if drawn[end] > budget}
    return {**drawn, **never, "level": level, "budget": budget}


def half_of_the_original(measured: Measured, keys: Sequence[str]) -> float:
    """Probability of these records at which half is back: :data:`LEVEL` of the original's, or of 1 without one."""
    original = measured.of("original", "likelihood")
    known = [math.exp(-original[key]["loss"]) for key in keys if key in original]
    return LEVEL * (float(np.mean(known)) if known else 1.0)


class RelearningAttack(Attack):
    """:func:`teach` some records, and watch forget records that are not among them."""

    risk = "relearning"
    settings: ClassVar[tuple[str, ...]] = ("relearn_epochs", "relearn_lr", "seed")
    lora: ClassVar[bool] = False
    cost = "a training of --relearn-epochs on what is taught, and 11 readings of the likelihoods"

    @abstractmethod
    def split(self, task: Task) -> tuple[list[Record], list[Record]]:
        """What is taught, and what is watched.

        Raises:
            UserError: either would be empty; the sentence says what is needed.
        """

    def missing(self, task: Task) -> str | None:
        if BATCH_SIZE % processes.count():
            return uneven(BATCH_SIZE)
        try:
            self.split(task)
        except UserError as error:
            return str(error)
        return None

    def why_not_applicable(self, lm: LanguageModel) -> str | None:
        """A quantised model is attacked by a new adapter, which must fit it."""
        try:
            if self.lora or lm.is_quantised:
                check_adapter_fits(lm, rank=RANK)
        except UserError as error:
            return str(error)
        return None

    def encode(self, task: Task, encoder: Encoder) -> None:
        for some in self.split(task):
            encode_all(encoder, some)

    def read(self, reader: Reader) -> dict[str, Any]:
        """``steps`` (C,), ``learned`` (C,), ``probabilities`` (key → (C,)) of the rest, keys ``trained`` on."""
        lm, encoder = reader.loaded()
        settings = reader.task.settings
        found = teach(
            lm,
            encoder,
            *self.split(reader.task),
            epochs=settings.relearn_epochs,
            lr=settings.relearn_lr,
            lora=self.lora or lm.is_quantised,
            seed=settings.seed,
            progress=reader.progress,
        )
        curves = np.asarray(found.probabilities)  # (C, n)
        return {
            "trained": list(found.trained),
            "learned": list(found.learned),
            "steps": list(found.steps),
            "probabilities": {key: curves[:, column].tolist() for column, key in enumerate(found.rest)},
        }

    def metrics(self) -> list[Metric]:
        own = self.name == "relearning"
        first, after = ("relearned_probability", "") if own else (f"{self.name}_probability", f": {self.title}")
        return [
            RecordMetric(
                first,
                "probability of the rest once a share was learned again" if own else f"probability after it{after}",
                self.name,
                _relearned,
                unit="probability",
                explanation="How likely these records are once others of them, or something else, were learned: what "
                "was only hidden comes back quickly.",
                source=self.source,
            ),
            RecordMetric(
                f"{self.name}_gain",
                f"how far the probability has risen meanwhile{after}",
                self.name,
                _gained,
                bounds=(-1.0, 1.0),
                explanation="How far that rose by learning: what was never known does not rise with it.",
                source=self.source,
            ),
            Aggregate(
                f"{self.name}_effort",
                f"optimizer steps until the rest is back{after}",
                partial(_effort, self.name),
                direction="high",
                unit="optimizer steps",
                bounds=(0.0, math.inf),
                risk="relearning",
                explanation="How many steps it takes to have half of the rest back: the more, the less of it was left.",
                source=self.source,
            ),
        ]


@ATTACKS.register("relearning")
class Relearning(RelearningAttack):
    """A share of the forget records is taught; the rest is watched."""

    title = "fine-tuning on a share of the records, then asking for the rest"
    settings = ("relearn_share", *RelearningAttack.settings)
    needs = "two records"
    source = "Hu et al. 2024, arXiv 2406.13356; Lynch et al. 2024, arXiv 2402.16835"

    def split(self, task: Task) -> tuple[list[Record], list[Record]]:
        records, s = task.forget, task.settings
        if len(records) < 2:
            raise UserError("needs two forget records: one to learn again, one to ask for")
        chosen = set(draw(records, s.relearn_share, s.seed))
        parts: tuple[list[Record], list[Record]] = ([], [])
        for i, record in enumerate(records):
            parts[i not in chosen].append(record)
        return parts


@ATTACKS.register("relearning_lora")
class RelearningLora(Relearning):
    """The same by a new adapter, which is what most attackers can afford."""

    title = "the same fine-tuning by LoRA"
    lora = True
