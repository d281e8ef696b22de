"""A benchmark from beginning to end: models, cells, tuning, then tables and plots of all that is finished."""

from __future__ import annotations

import shutil
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rkld.benching.benchmark import Benchmark
from rkld.benching.cell_checks import check_cells
from rkld.benching.cell_runs import References, clean, earlier, finished, make_cell, teacher_folder
from rkld.benching.cells import Cell
from rkld.benching.jobs import Jobs
from rkld.benching.model_making import make_model
from rkld.benching.planning import Prediction, disk, predict, rough_model_seconds
from rkld.benching.provenance import note_provenance
from rkld.benching.registry import open_benchmark
from rkld.benching.tuning import choose_rates, tuned_cells, tuning_cells
from rkld.errors import machine_errors_explained
from rkld.progress import NoProgress, without_noise
from rkld.runfolder.lock import hold


@dataclass(frozen=True)
class Bench:
    """What a benchmark has written.

    Attributes:
        rows: of its table: one for each split, method, moment and seed.
        files: tables and plots, in the order of their making.
        notes: what could not be made or used, and why.
    """

    rows: Sequence[Mapping[str, Any]]
    files: Sequence[Path]
    notes: Sequence[str]


MADE = ("cells", "models", "teachers")
"""What a benchmark's folder is known by."""


@machine_errors_explained()
@without_noise()
def bench(benchmark: str | type[Benchmark], progress: NoProgress | None = None, **settings: Any) -> Bench:
    """Run every cell that is not finished, and write tables and plots of all.

    Args:
        benchmark: a registered name ("tofu", "people", "book"), ``FILE.py:NAME``, or a class of your own.
        progress: shows what is going on.
        settings: by the names of the benchmark's ``settings_class``.

    Raises:
        UserError: no such benchmark; bad settings or data; a variant that cannot be trained; a cell that was run with
            other settings; a folder that another process works in. Nothing has been made then, unless the original
            had to be.
    """
    opened, progress = open_benchmark(benchmark, settings), progress or NoProgress()
    opened.check()
    folder, tuning = opened.settings.folder, tuning_cells(opened)
    with hold(folder, marks=MADE):
        check_cells(opened, [cell for cell in (*tuning, *opened.cells()) if not finished(opened, cell)])
        tried = _run(opened, tuning, progress)
        tuned = choose_rates(opened, tried)
        found = _run(opened, [*opened.cells(), *tuned_cells(opened, tuned)], progress)
        rows, files, notes = opened.write(found, tuned)
        note_provenance(opened)
    return Bench(rows, files, [*opened.left_out, *notes])


def plan(benchmark: str | type[Benchmark], **settings: Any) -> list[str]:
    """What :func:`bench` would do with these settings, in lines; nothing is run, made or written."""
    opened = open_benchmark(benchmark, settings)
    opened.check()
    tried = {cell: finished(opened, cell) for cell in tuning_cells(opened)}
    todo = [*tried, *opened.cells()]
    if all(tried.values()):
        results = {cell: content for cell, content in tried.items() if content}
        todo += tuned_cells(opened, choose_rates(opened, results))
    else:  # whichever rate will be chosen, its cells take as long as the default's
        todo += [replace(cell, name=f"{cell.name} (tuned)") for cell in opened.cells() if cell.variant]
    predicted = predict(opened, {cell: tried.get(cell) or finished(opened, cell) for cell in todo})
    places = {opened.model_folder(role, cell.split, cell.seed) for cell in todo for role in opened.references}
    missing = sum(isinstance(place, Path) and not place.exists() for place in places)
    return [*_lines(predicted), *_summary(opened, predicted, missing), *disk(opened, predicted, missing)]


def _lines(predicted: Sequence[Prediction]) -> list[str]:
    def line(one: Prediction) -> str:
        time = "done" if one.done else "?" if one.seconds is None else _duration(one.seconds)
        return f"{one.cell.split:<9} seed {one.cell.seed}  {one.cell.name:<28} {time:>9}  {one.source}"

    return [line(one) + ("  (tuning)" if one.cell.tuning else "") for one in predicted]


def _summary(benchmark: Benchmark, predicted: Sequence[Prediction], models: int) -> list[str]:
    todo = [one for one in predicted if not one.done]
    known = [one.seconds for one in todo if one.seconds is not None]
    rough = "" if all(one.source.startswith("as") for one in todo) else ", roughly: finished cells make it better"
    jobs = benchmark.settings.jobs
    making = models * (rough_model_seconds(benchmark) or 0.0) / min(jobs, max(models, 1))
    time = _duration(sum(known) / min(jobs, len(known)) + making) if known else "unknown" if todo else "none"
    made = f", and {models} models to make" if models else ""
    return [f"\n{len(predicted)} cells, {len(todo)} to run{made}", f"time: {time}{rough if todo else ''}"]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class _Shared:
    """A benchmark for jobs. Another process opens it anew: a class from the user's file cannot be sent to one."""

    benchmark: Benchmark

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.benchmark.origin, vars(self.benchmark.settings))


def _reopened(origin: str | type[Benchmark], settings: Mapping[str, Any]) -> _Shared:
    return _Shared(open_benchmark(origin, settings))


def _run(benchmark: Benchmark, todo: Sequence[Cell], progress: NoProgress) -> dict[Cell, dict[str, Any]]:
    """Cell → what it has written; those that are finished are read.

    What others need comes first: the models, the reference models' figures in their order, the methods'.
    """
    # First: other settings are refused before anything runs.
    known = {cell: finished(benchmark, cell) for cell in todo}
    found = {cell: content for cell, content in known.items() if content}
    for cell in found:
        clean(benchmark, cell)
    missing = [cell for cell in todo if cell not in found]
    shared = _Shared(benchmark)
    models = {  # several cells share one
        benchmark.model_folder(role, cell.split, cell.seed): (shared, role, cell.split, cell.seed)
        for cell in missing
        for role in ("original" if cell.variant else cell.name,)
    }
    with Jobs(benchmark.settings.jobs, progress) as jobs:
        for _ in jobs.each(make_shared_model, list(models.values())):
            pass
        for stage in sorted({_stage(benchmark, cell) for cell in missing}):
            groups = _groups(benchmark, [cell for cell in missing if _stage(benchmark, cell) == stage])
            work = [(shared, group, _references(benchmark, found, group[0])) for group in groups]
            for number, all_written in jobs.each(run_cells, work):
                for cell, written in zip(groups[number], all_written, strict=True):
                    found[cell] = written
                    progress.say(f"[{len(found)}/{len(todo)}] {cell.title}: {_duration(written['seconds'])}")
    shutil.rmtree(benchmark.settings.folder / "teachers", ignore_errors=True)
    return {cell: found[cell] for cell in todo}


def _stage(benchmark: Benchmark, cell: Cell) -> int:
    """When a cell is run: reference models in their order, then what begins with the original, then what goes on."""
    if cell.variant is None:
        return benchmark.references.index(cell.name)
    before = earlier(benchmark, cell)
    return _stage(benchmark, before) + 1 if before else len(benchmark.references)


def _groups(benchmark: Benchmark, some: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that share a teacher: who comes first makes it, so they are run one after another."""
    groups: dict[Hashable, list[Cell]] = {}
    for cell in some:
        groups.setdefault(teacher_folder(benchmark, cell) if cell.variant else cell, []).append(cell)
    return list(groups.values())


def _references(benchmark: Benchmark, found: Mapping[Cell, Mapping[str, Any]], cell: Cell) -> References:
    """What the reference models of the same split and seed have written so far."""
    cells = {name: replace(cell, name=name, variant=None) for name in benchmark.references}
    return {name: found[one] for name, one in cells.items() if one in found and one != cell}


def make_shared_model(shared: _Shared, role: str, split: str, seed: int, progress: NoProgress) -> str | Path:
    """:func:`rkld.benching.model_making.make_model`, as a job."""
    return make_model(shared.benchmark, role, split, seed, progress)


def run_cells(
    shared: _Shared, some: Sequence[Cell], references: References, progress: NoProgress
) -> list[dict[str, Any]]:
    """What each of some cells on the same split and seed has written."""
    benchmark = shared.benchmark
    task, written = benchmark.task(some[0].split, some[0].seed), []
    for cell in some:
        progress.say(cell.title)
        written.append(make_cell(benchmark, cell, task, references, progress))
    if some[0].variant:
        shutil.rmtree(teacher_folder(benchmark, some[0]), ignore_errors=True)
    return written
