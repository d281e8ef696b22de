"""Benchmarks whose models are fine-tuned with and without what is to be forgotten: what they have in common.

The retrained model stands beside every method; a run is measured at its last step and where the calibrated stop would
have ended it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from rkld.benching.benchmark import Benchmark, Tuning, UnlearningCall
from rkld.benching.cells import Cell
from rkld.errors import UserError
from rkld.methods.two_models import open_model
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.pipeline.arguments import micro_batches
from rkld.pipeline.preparing import check_every, choose, encode_all, read_inputs, stop_comparison
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.record import Record
from rkld.registry import source_hash
from rkld.settings.benching import FineTunedSettings
from rkld.stopping.calibration import calibrate
from rkld.stopping.callback import StoppingCallback
from rkld.stopping.registry import get_rule
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune


class FineTunedBenchmark(Benchmark):
    """Has an original and a retrained model, seeds, learning rates to be tuned, and the calibrated stop."""

    settings: FineTunedSettings
    settings_class = FineTunedSettings
    references = ("retrained", "original")
    moments: ClassVar[tuple[str, ...]] = ("last", "stop")
    files: ClassVar[frozenset[str]] = frozenset({"chat_template"})
    encoding: ClassVar[tuple[str, ...]] = ("system_prompt", "chat_template", "template_date")

    def check(self) -> None:
        """Refuse an unknown stopping rule, and one that needs what a benchmark has not."""
        if needed := get_rule(self.settings.stop).required:
            raise UserError(
                f"--stop {self.settings.stop} needs {', '.join(f'--{name}' for name in needed)}, which this benchmark "
                "does not take. Give a rule that needs none, such as placebo or chance_rank."
            )
        super().check()

    def seeds(self) -> Sequence[int]:
        return range(self.settings.seeds)

    def tuning_place(self) -> tuple[str, int] | None:
        """Split and seed of people who are not reported on; None: nothing is tuned."""
        return None

    @abstractmethod
    def tuning_loss(self, figures: Mapping[str, Any]) -> tuple[float, ...]:
        """Of a cell's figures; the learning rate with the least is chosen."""

    def tuning(self) -> Tuning | None:
        place, s = self.tuning_place(), self.settings
        return Tuning(*place, [factor * s.peak_lr for factor in s.factors], self.tuning_loss) if place else None

    # Models

    def given_model(self, role: str, split: str, seed: int) -> str | None:
        given: str | None = getattr(self.settings, role)
        for name, value in self.filled_in(split, seed).items():
            given = given and given.replace(f"{{{name}}}", value)
        return given

    def filled_in(self, split: str, seed: int) -> dict[str, str]:
        """What stands for a name in braces in ``--original`` and ``--retrained``."""
        return {"split": split, "seed": str(seed)}

    def load(self, source: str | Path) -> tuple[LanguageModel, Encoder]:
        lm = open_model(source, chat_template=self.settings.chat_template, method_files=self.own_method_files)
        return lm, self.encoder(lm, lm.context_length)

    def encoder(self, lm: LanguageModel, context_length: int | None = None) -> Encoder:
        s = self.settings
        return Encoder(
            lm.tokenizer,
            system_prompt=s.system_prompt,
            template_date=s.template_date,
            context_length=context_length,
        )

    # Measuring

    def identity(self, cell: Cell) -> dict[str, Any]:
        own_rule = source_hash(self.settings.stop) if cell.variant else None
        return super().identity(cell) | ({"stopping rule's file": own_rule} if own_rule else {})

    def stop_watch(
        self, cell: Cell, call: UnlearningCall, lm: LanguageModel, encoder: Encoder
    ) -> dict[str, StoppingCallback]:
        """The watch of the moment "stop"; none where no rule applies."""
        folder = cell.folder(self.settings.folder) / "stop"
        found = calibrated_watch(self.settings.stop, call, lm, encoder, folder)
        return {"stop": found} if found else {}


def calibrated_watch(
    stop: str, call: UnlearningCall, lm: LanguageModel, encoder: Encoder, folder: Path
) -> StoppingCallback | None:
    """The rule as ``rkld unlearn --stop`` would follow it, aimed by the original ``lm``.

    None where that would take the last step: with nothing to compare with, or an aim that cannot steer.
    """
    chosen, objects = choose({"model": call.model, **call.data}, {**call.settings, "stop": stop})
    comparison = stop_comparison(read_inputs(chosen, **{name: objects.get(name) for name in call.data}), encoder)
    if comparison is None:
        return None
    calibration = calibrate(get_rule(chosen.stop), comparison, lm)
    if calibration.refusal:
        return None
    every = check_every(chosen, call.steps_per_epoch)
    return StoppingCallback(comparison.read, calibration.rule, every, folder, ends_training=False)


class Recipe(Protocol):
    """How a benchmark fine-tunes the models that it makes."""

    @property
    def model(self) -> str | None:
        """What is fine-tuned."""

    @property
    def train_epochs(self) -> int: ...

    @property
    def train_lr(self) -> float | None: ...

    @property
    def train_batch(self) -> int:
        """Records per optimizer step."""

    @property
    def bf16(self) -> bool | None: ...


def learn(
    recipe: Recipe,
    records: Sequence[Record],
    folder: Path,
    *,
    encoder: Callable[[LanguageModel], Encoder],
    title: str,
    progress: NoProgress,
    chat_template: str | None = None,
) -> LanguageModel:
    """The model of a recipe, fine-tuned on the records' answers with seed 0.

    Args:
        recipe: a benchmark's settings.
        folder: of checkpoints; an interrupted training goes on from them.
        encoder: makes that of the model.
    """
    assert recipe.train_lr is not None  # a benchmark that chooses it by the model has done so by now
    torch.manual_seed(0)
    lm = load_model(str(recipe.model), chat_template=chat_template)
    batch_size = recipe.train_batch
    encoded, parts = encode_all(encoder(lm), records), micro_batches(batch_size)
    args = RKLDConfig(
        output_dir=str(folder),
        num_train_epochs=recipe.train_epochs,
        learning_rate=recipe.train_lr,
        per_device_train_batch_size=batch_size // parts,
        gradient_accumulation_steps=parts,
        save_total_limit=1,
        bf16=recipe.bf16,
        seed=0,
    )
    with progress.bar(title, recipe.train_epochs * -(-len(encoded) // batch_size)) as advance:
        fine_tune(lm, encoded, args, [TrainingBar(advance)])
    return lm
