"""What a benchmark will take: time and disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rkld.benching.benchmark import FLOPS, Benchmark
from rkld.benching.cells import Cell
from rkld.processes import cores


@dataclass(frozen=True)
class Prediction:
    """Of one cell: seconds, and how they are known; None where nothing is known."""

    cell: Cell
    done: bool
    seconds: float | None
    source: str


def predict(benchmark: Benchmark, found: Mapping[Cell, Mapping[str, Any] | None]) -> list[Prediction]:
    """Time of each cell: as a finished one of its kind took, else of any on its split, else a rough figure.

    Args:
        found: cell → what it has written; None where it is not finished.
    """
    took: dict[tuple[str, str], list[float]] = {}
    of_methods: dict[str, list[float]] = {}
    for cell, content in found.items():
        if content:
            took.setdefault((cell.split, cell.name), []).append(content["seconds"])
            if cell.variant:
                of_methods.setdefault(cell.split, []).append(content["seconds"])
    rough, predicted = rough_seconds(benchmark), []
    for cell, content in found.items():
        same, others = took.get((cell.split, cell.name), []), of_methods.get(cell.split, [])
        if content:
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


def rough_seconds(benchmark: Benchmark) -> float | None:
    """Of one cell: 6 operations per weight and token in training, 2 in reading. None where it is unknown."""
    work, settings = benchmark.workload(), benchmark.settings
    if work.model_bytes is None:
        return None
    passes = 6 * work.forget * (settings.epochs + settings.strengthen_epochs)
    reading = 2 * work.answers * (settings.epochs + 3)
    return (passes + reading) * work.tokens * work.model_bytes / 4 / (FLOPS * cores())


def rough_model_seconds(benchmark: Benchmark) -> float | None:
    """To make an original or a retrained model; None where it is unknown."""
    work = benchmark.workload()
    if work.model_core_seconds is not None:
        return work.model_core_seconds / cores()
    if work.model_bytes is None:
        return None
    return 6 * work.training_records * work.tokens * work.model_bytes / 4 / (FLOPS * cores())


def disk(benchmark: Benchmark, predicted: Sequence[Prediction], models: int) -> Iterator[str]:
    """What lies on the disk at most and in the end, in lines.

    Args:
        models: original and retrained models still to be made.
    """
    size = benchmark.workload().model_bytes
    if size is None:
        yield "disk: unknown until the model is here"
        return
    runs = sum(not one.done and one.cell.variant is not None for one in predicted)
    at_once = min(benchmark.settings.jobs, runs)
    # The original set aside, optimizer and student of a checkpoint, student, model, two kept states.
    working = 9 * size * at_once
    kept = runs * 3 * size if benchmark.settings.keep_models else 0
    yield f"disk: {_gigabytes(models * size + kept)} in the end, {_gigabytes(working)} more while cells run"


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB"
