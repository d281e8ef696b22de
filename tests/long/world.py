"""What the long tests share: a world so small that a run and its audit take seconds, and how results are printed."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rkld.benching.worlds.people import people
from rkld.files import write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune
from tests.helpers import TOKENIZER, model

WORLD = people(n=4, seed=0)
FORGET = [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in WORLD.forget([0])[:8]]
KEPT = WORLD.forget([1])[:4]
STRANGERS = people(n=4, seed=9).forget([0])[:8]

RUN = {"epochs": 3, "strengthen_epochs": 2, "lr": 2e-3, "max_new_tokens": 8, "batch_size": 4, "bf16": False,
       "own_words": "join", "reword": 1, "check_every": 2, "checkpoint_minutes": 0.0}  # fmt: skip
AUDIT = {"attacks": ("none",), "samples": 2, "k": 2, "top": 2, "max_new_tokens": 8}


def make_original(folder: Path, epochs: int = 40) -> Path:
    """A model of 60 000 weights that knows the person: written to ``folder``. After 120 epochs it recites all of it."""
    lm = model(dtype=torch.float32)
    lm = LanguageModel(lm.model, TOKENIZER, "tiny")
    encoded = [Encoder(TOKENIZER).encode(record) for record in read_records(FORGET, "training")]
    args = RKLDConfig(str(folder / "training"), num_train_epochs=epochs, learning_rate=1e-2,
                      per_device_train_batch_size=8, use_cpu=True)  # fmt: skip
    fine_tune(lm, encoded, args)
    save_model(lm, folder / "original")
    return folder / "original"


def write_records(folder: Path) -> dict[str, Path]:
    """The records as files, for the command line: name → path."""
    paths = {name: folder / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    for path, rows in zip(paths.values(), (FORGET, KEPT, STRANGERS)):
        write_jsonl(path, rows)
    return paths


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def report(result: Mapping[str, Any]) -> None:
    """One line of JSON, with the command, the machine and the date."""
    made = {
        "command": f"python -m {Path(sys.argv[0]).parent.parent.name}.long.{Path(sys.argv[0]).stem} "
        + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps({**result, **made}))
