"""A small benchmark: four people, one of them forgotten, with models that are trained for a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rkld.benching.benchmarks import people as module
from rkld.benching.benchmarks.people import People
from rkld.benching.comparing import bench
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

METHODS = "rkld,npo+rt,task_arithmetic"


@pytest.fixture(scope="session")
def four_people() -> type[People]:
    """The benchmark of fictitious people with four of them, the first forgotten."""

    class FourPeople(People):
        """Four people."""

        def task(self, split: str, seed: int) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "people", lambda seed: people(n=4, seed=seed))
                patch.setattr(module, "pair", lambda seed, world: (0,))
                return super().task(split, seed)

    return FourPeople


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the small benchmark, with its two models."""
    folder = tmp_path_factory.mktemp("models")
    small, who = people(n=4, seed=0), (0,)
    for name, rows in {"original": small.records, "retrained": small.retain(who)}.items():
        lm = load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer())
        encoder = Encoder(lm.tokenizer)
        encoded = [encoder.encode(record) for record in read_records(rows, "training")]
        args = RKLDConfig(
            str(folder / "training"),
            num_train_epochs=3,
            learning_rate=2e-3,
            per_device_train_batch_size=16,
            use_cpu=True,
        )
        fine_tune(lm, encoded, args)
        save_model(lm, folder / name)
    return {
        "methods": METHODS,
        "seeds": 1,
        "epochs": 2,
        "strengthen_epochs": 1,
        "batch_size": 10,
        "questions": 3,
        "max_new_tokens": 4,
        "original": str(folder / "original"),
        "retrained": str(folder / "retrained"),
    }


@pytest.fixture(scope="session")
def done(quick: dict[str, Any], four_people: type[People], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished small benchmark."""
    folder = tmp_path_factory.mktemp("done")
    bench(four_people, **quick, out=str(folder))
    return folder
