"""The tiny model of a world of people: trained on everyone, or without some (its retrained twin)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rkld.benching.worlds.people import World
from rkld.benching.worlds.tiny import BATCH_SIZE, EPOCHS, LEARNING_RATE, tiny_model
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune


def train_tiny(
    world: World, folder: Path, without: Sequence[int] = (), callbacks: Sequence = (), seed: int | None = None
) -> LanguageModel:
    """Train the tiny model on a world, by the recipe of :mod:`rkld.benching.worlds.tiny`; 83 s on two cores.

    Args:
        folder: for checkpoints.
        without: positions of people that it never sees. Weights start from the same seed either way.
        seed: of weights and order; by default the world's.
    """
    seed = world.seed if seed is None else seed
    model, tokenizer = tiny_model(seed)
    lm = load_model(model, tokenizer=tokenizer)
    encoder = Encoder(tokenizer)
    records = [encoder.encode(r) for r in read_records(world.training(without or None), "training")]
    args = RKLDConfig(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=BATCH_SIZE,
        seed=seed,
        save_total_limit=1,
        use_cpu=True,
    )
    fine_tune(lm, records, args, callbacks)
    return lm
