"""What a benchmark's cells would come to refuse, refused before any model is made or any cell is run."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

from rkld.benching.benchmark import Benchmark
from rkld.benching.cell_runs import unlearning_call
from rkld.benching.cells import Cell
from rkld.benching.relearning import check_relearning
from rkld.errors import Diverged
from rkld.pipeline.preparing import Inputs, choose, prepare, read_inputs


def check_cells(benchmark: Benchmark, cells: Sequence[Cell]) -> None:
    """Read the inputs of every variant on every split; prepare its run, where the original is there already.

    A variant's seeds differ in nothing that is refused: each is checked on its first. Originals are loaded once each,
    and none is kept.

    Args:
        cells: those that are still to be run.

    Raises:
        UserError: as of :func:`rkld.pipeline.preparing.read_inputs` and :func:`rkld.pipeline.preparing.prepare`.
    """
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if cell.variant is not None:
            first.setdefault((cell.split, cell.variant.name), cell)
    if benchmark.settings.relearning:
        for split, seed in dict.fromkeys((cell.split, cell.seed) for cell in cells if benchmark.relearns(cell)):
            check_relearning(benchmark.task(split, seed), split)
    by_original: dict[str | Path, list[Cell]] = {}
    for cell in first.values():
        for _ in _inputs(benchmark, [cell]):  # every one without its model first, which takes no time
            pass
        original = benchmark.model_folder("original", cell.split, cell.seed)
        if isinstance(original, str) or original.exists():
            by_original.setdefault(original, []).append(cell)
    for original, some in by_original.items():
        lm, _ = benchmark.load(original)
        for inputs in _inputs(benchmark, some):
            prepare(inputs, lm.model, lm.tokenizer)
        del lm
        gc.collect()


def _inputs(benchmark: Benchmark, some: Sequence[Cell]) -> Iterator[Inputs]:
    """What each cell's run reads, by the settings that :func:`rkld.benching.cell_runs.run_cell` gives it."""
    for cell in some:
        try:
            call = unlearning_call(benchmark, cell, benchmark.task(cell.split, cell.seed))
        except Diverged:  # of the cell from which it goes on: nothing is run
            continue
        data = {name: source for name, source in call.data.items() if name != "holdout"}
        settings, objects = choose({"model": call.model, **data}, {**call.settings, "stop": "last"})
        yield read_inputs(settings, **{name: objects.get(name) for name in data})
