"""The settings as the Trainer takes them."""

from __future__ import annotations

from pathlib import Path

import torch

from rkld.settings.unlearning import Settings
from rkld.training.config import RKLDConfig

SMALLEST = 4
"""Forget records of a micro-batch on a CPU: a step of 8 took 7 % less time in two parts, 2 % less in four."""


def micro_batches(batch_size: int) -> int:
    """Parts of an optimizer step where nobody says. On a CPU of :data:`SMALLEST` forget records or more: records of a
    length together need less padding, and nothing is gained by more of them at once."""
    most = 1 if torch.cuda.is_available() else max(1, batch_size // SMALLEST)
    return max(parts for parts in range(1, most + 1) if batch_size % parts == 0)


def training_arguments(settings: Settings, folder: Path, epochs: int, lr: float) -> RKLDConfig:
    """The settings as the Trainer takes them, for strengthening and for distillation."""
    s, bf16, parts = settings, settings.bf16, settings.accumulation or micro_batches(settings.batch_size)
    if bf16 is None:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return RKLDConfig(
        output_dir=str(folder),
        num_train_epochs=epochs,
        learning_rate=lr,
        per_device_train_batch_size=s.batch_size // parts,
        gradient_accumulation_steps=parts,
        method=s.method,
        method_arg=list(s.method_arg),
        alpha=s.alpha,
        score=s.score,
        retain_loss=s.retain_loss,
        retain_weight=s.retain_weight,
        replay_weight=s.replay_weight,
        keep_weight=s.keep_weight,
        seed=s.seed,
        optim=s.optim,
        bf16=bf16,
        checkpoint_minutes=s.checkpoint_minutes,
        logging_steps=10 if torch.cuda.is_available() else 1,  # to read the loss halts a GPU
        save_total_limit=1,
        **({"gradient_checkpointing": True} if s.gradient_checkpointing else {}),
    )
