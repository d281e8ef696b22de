"""What is said instead (``--instead unknown``): the unlearned student learns to refuse, whoever is not known.

A second training of the finished student: cross-entropy on refusals to the person's questions and to the same about
strangers (:mod:`rkld.records.strangers`), beside forward KL to itself, as it was before, on its answers about those
whom it knows. It comes after the stop, which compares the person with strangers, and moves both alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from rkld.losses.divergences import forward_kl
from rkld.losses.micro_batches import steps_per_epoch
from rkld.losses.objective import Objective, Term, answer
from rkld.losses.targets import Towards, to_labels
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded
from rkld.teacher.cache import HiddenCache, Part
from rkld.teacher.logits import Teacher
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.strengthening import fill_cache
from rkld.training.trainer import ObjectiveTrainer, fit

FEWEST_STEPS = 60
"""Optimizer steps at least: a handful of records would otherwise be passed over before they are learned."""

EPOCHS = 3
"""Passes over the refusals at least."""


def teach_refusals(
    lm: LanguageModel,
    unknown: Sequence[Encoded],
    held: Sequence[Encoded],
    args: RKLDConfig,
    weight: float,
    callbacks: Sequence[TrainerCallback] = (),
    progress: NoProgress | None = None,
) -> int:
    """Train ``lm`` in place; returns the optimizer steps.

    Args:
        unknown: refusals to the person's questions and to strangers'.
        held: what it says of those whom it knows, held to what it is now.
        args: as of the distillation; its ``output_dir`` takes checkpoints and the cache. Its epochs are not used.
        weight: of the second term.
    """
    progress = progress or NoProgress()
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    per_epoch = steps_per_epoch(len(unknown), batch)
    args.num_train_epochs = max(EPOCHS, math.ceil(FEWEST_STEPS / per_epoch))
    cache = HiddenCache(Path(str(args.output_dir)) / "held", {"of": [e.key for e in held]})
    fill_cache(lm, cache, {"held": held}, args, parts={Part("original", "held")}, progress=progress)
    teacher = Teacher(cache, alpha=args.alpha)
    teacher.attach(lm)
    terms = [
        Term("unknown", "unknown", answer, to_labels),
        Term("held", "held", answer, Towards(forward_kl, teacher.original), weight, cached=("original",)),
    ]
    objective = Objective.of({"unknown": unknown, "held": held}, terms, cache)
    with progress.bar("instead", int(args.num_train_epochs) * per_epoch) as advance:
        trainer = ObjectiveTrainer(lm, args, objective, [TrainingBar(advance), *callbacks])
        fit(trainer)
    return int(trainer.state.global_step)
