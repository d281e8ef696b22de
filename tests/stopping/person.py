"""A person of the embedded world, what others of it know, and evidence by hand."""

from __future__ import annotations

import math
from pathlib import Path

from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.stopping.evidence import Evidence
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

WORLD = people(n=4, seed=0)
ROWS = [{k: r[k] for k in ("question", "answer", "subject", "aliases")} for r in WORLD.forget([0])]
FORGET, HOLDOUT = read_records(ROWS, "forget"), read_records(WORLD.holdout, "holdout")
KNOWN = identifiers(FORGET, ())


def at(step: int, *probabilities: float) -> Evidence:
    """A check that found these probabilities."""
    return Evidence(step, tuple(-math.log(p) for p in probabilities))


def knowing_model(folder: Path) -> Path:
    """The folder of a tiny model that knows the person's records, and nothing else."""
    model, tokenizer = tiny_model(seed=0)
    known = load_model(model, tokenizer=tokenizer)
    encoder = Encoder(known.tokenizer)
    args = RKLDConfig(
        str(folder / "t"), num_train_epochs=25, per_device_train_batch_size=10, learning_rate=3e-3, use_cpu=True
    )
    fine_tune(known, [encoder.encode(r) for r in FORGET], args)
    save_model(known, folder / "model")
    return folder / "model"
