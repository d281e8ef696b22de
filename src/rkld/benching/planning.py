"""What a benchmark will take: time and disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rkld.benching.cells import REFERENCES, Cell
from rkld.settings.benching import SPLITS, BenchSettings

TINY_BYTES = 10_000_000
"""Weights of the tiny model."""


TINY_SECONDS = 166.0
"""Of one core, to train it: measured once (83 s on two)."""


FLOPS = 1.5e10
"""Per second and CPU core in training, measured once with the tiny model; for the rough figure before any cell is
finished. A GPU is faster by orders of magnitude."""


# What it will take


@dataclass(frozen=True)
class Prediction:
    """Of one cell: seconds, and how they are known; None where nothing is known."""

    cell: Cell
    done: bool
    seconds: float | None
    source: str


def predict(settings: BenchSettings, todo: Sequence[Cell]) -> list[Prediction]:
    """Time of each cell: as a finished one of its kind took, else of any on its split, else a rough figure."""
    took: dict[tuple[str, str], list[float]] = {}
    finished = {cell: cell.found(settings) for cell in todo}
    for cell, found in finished.items():
        if found:
            took.setdefault((cell.split, cell.name), []).append(found["seconds"])
    rough, predicted = _rough_seconds(settings), []
    for cell in todo:
        same = took.get((cell.split, cell.name), [])
        others = [
            s for (split, name), some in took.items() if split == cell.split for s in some if name not in REFERENCES
        ]
        if finished[cell]:
            predicted.append(Prediction(cell, True, 0.0, "finished"))
        elif same:
            predicted.append(Prediction(cell, False, fmean(same), "as the same on another seed"))
        elif cell.variant is None:
            predicted.append(Prediction(cell, False, None if rough is None else rough / 8, "rough"))
        elif others:
            predicted.append(Prediction(cell, False, fmean(others), "as other methods here"))
        else:
            predicted.append(Prediction(cell, False, rough, "rough" if rough else "unknown"))
    return predicted


def _rough_seconds(settings: BenchSettings) -> float | None:
    """6 operations per weight and token in training, 2 in reading; 100 tokens a record (people: 32)."""
    size = _model_bytes(settings)
    if size is None:
        return None
    people = settings.world == "people"
    split = settings.split_names[0]
    forget = 4000 * int(split[-2:]) // 100 if split in SPLITS else 40
    asked = 6 * forget + 7 * 3 * min(settings.value("questions") or 400, 400)  # right and wrong answers
    passes = 6 * forget * (settings.value("epochs") + settings.value("strengthen_epochs"))
    reading = 2 * asked * (settings.value("epochs") + 3)
    tokens = 32 if people else 100
    return (passes + reading) * tokens * size / 4 / _flops()


def rough_model_seconds(settings: BenchSettings) -> float | None:
    """To make an original or a retrained model, by the same reckoning; None where it cannot be told."""
    if settings.world == "people":
        return TINY_SECONDS / (os.cpu_count() or 1)
    size = _model_bytes(settings)
    return size and 6 * (settings.retained or 4000) * settings.train_epochs * 100 * size / 4 / _flops()


def _flops() -> float:
    return FLOPS * (os.cpu_count() or 1)


def _model_bytes(settings: BenchSettings) -> int | None:
    """Size of the weights in float32, where it can be told without loading them."""
    if settings.world == "people":
        return TINY_BYTES
    folders = (Path(source) for source in (settings.original, settings.model) if source)
    sizes = (sum(p.stat().st_size for p in folder.glob("*.safetensors")) for folder in folders if folder.is_dir())
    return next((size for size in sizes if size), None)


def disk(settings: BenchSettings, todo: Sequence[Prediction], models: int) -> Iterator[str]:
    """What lies on the disk at most and in the end, in lines.

    Args:
        models: original and retrained models still to be made.
    """
    size = _model_bytes(settings)
    if size is None:
        yield "disk: unknown until the model is here"
        return
    runs = sum(not one.done and one.cell.variant is not None for one in todo)
    at_once = min(settings.jobs, runs)
    # The original set aside, optimizer and student of a checkpoint, student, model, two kept states.
    working = 9 * size * at_once
    kept = runs * 3 * size if settings.keep_models else 0
    yield f"disk: {_gigabytes(models * size + kept)} in the end, {_gigabytes(working)} more while cells run"


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB"
