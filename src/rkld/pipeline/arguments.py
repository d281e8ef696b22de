"""The settings as the Trainer takes them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from rkld import processes
from rkld.errors import UserError
from rkld.processes import is_set, uses_deepspeed
from rkld.settings.table import SHARED
from rkld.settings.unlearning import Settings
from rkld.training.config import RKLDConfig

SMALLEST = 4
"""Forget records of a micro-batch on a CPU: a step of 8 took 7 % less time in two parts, 2 % less in four."""


def check_engine() -> None:
    """Refuse what ``accelerate launch`` may be set to and a run's phases do not hold under.

    Raises:
        UserError: it is to split the weights over the processes: by FSDP, or by DeepSpeed's ZeRO-3.
    """
    zero3 = uses_deepspeed() and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") not in ("0", "1", "2")
    if not zero3 and not is_set("ACCELERATE_USE_FSDP"):
        return
    engine, instead = ("DeepSpeed's ZeRO-3", "with --zero_stage 2") if zero3 else ("FSDP", "without")
    raise UserError(
        f"accelerate is set to train by {engine}, and rkld unlearn measures, stops and saves a model that is whole in "
        f"every process, or that it has split itself: start it by torchrun, for a model that is too large for one GPU "
        f"with --shard, or by accelerate launch {instead}."
    )


def micro_batches(batch_size: int) -> int:
    """Parts of an optimizer step where nobody says. On a CPU of :data:`SMALLEST` forget records or more: records of a
    length together need less padding, and nothing is gained by more of them at once."""
    most = 1 if torch.cuda.is_available() else max(1, batch_size // SMALLEST)
    return max(parts for parts in range(1, most + 1) if batch_size % parts == 0)


def training_arguments(settings: Settings, folder: Path) -> RKLDConfig:
    """The settings as the Trainer takes them, for distillation (:func:`rkld.training.config.of_strengthening` makes
    those of the strengthening of them).

    Args:
        folder: for checkpoints.

    Raises:
        UserError: a step's records cannot be split evenly over the processes.
    """
    count, size = processes.count(), settings.batch_size
    if size % (count * (settings.accumulation or 1)):
        parted = f" and --accumulation {settings.accumulation}" if settings.accumulation else ""
        raise UserError(
            f"--batch-size {size}, the records of a step of all processes, cannot be split evenly over {count} "
            f"processes{parted}: give a multiple of {count * (settings.accumulation or 1)}."
        )
    parts = settings.accumulation or micro_batches(size // count)
    values = {name: getattr(settings, spec.name) for name, spec in SHARED.items()}
    values |= {
        "per_device_train_batch_size": size // count // parts,
        "method_arg": list(settings.method_arg),
    }
    if settings.gradient_checkpointing:  # newer versions of transformers warn of the name, whatever its value
        values["gradient_checkpointing"] = True
    return RKLDConfig(
        output_dir=str(folder),
        gradient_accumulation_steps=parts,
        logging_steps=10 if torch.cuda.is_available() else 1,  # to read the loss halts a GPU
        save_total_limit=1,
        **values,
    )
