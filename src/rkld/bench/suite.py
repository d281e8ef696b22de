"""The benchmark as a whole: cells one after another, then tables and figures of all that are finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..progress import Silent
from ..settings import make
from .cases import write_cases
from .figures import draw
from .plan import Cell, Prediction, cells, disk, grid, predict, tuning_cells, variants
from .run import clean, run_cell, run_reference
from .settings import BenchSettings
from .table import rows_of, write_tables
from .tasks import Task, make_model, model_folder, task


@dataclass(frozen=True)
class Bench:
    """What a benchmark has written.

    Attributes:
        rows: of ``results.csv``: one for each split, method, moment and seed.
        files: tables and figures, in the order of their making.
        notes: what could not be made, and why.
    """

    rows: Sequence[Mapping[str, Any]]
    files: Sequence[Path]
    notes: Sequence[str]


def bench(progress: Silent | None = None, **settings: Any) -> Bench:
    """Run every cell that is not finished, and write tables and figures of all.

    Args:
        progress: shows what is going on.
        settings: by the names of :class:`rkld.bench.settings.BenchSettings`.

    Raises:
        UserError: bad settings or data; a cell that was run with other settings.
    """
    chosen, progress = make(settings, "arguments", BenchSettings), progress or Silent()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    tuned: dict[str, str] = {}
    if chosen.tune:
        tried = _run(chosen, tuning_cells(chosen), progress)
        tuned = choose_rates(chosen, tried)
    found = _run(chosen, [*cells(chosen), *tuned_cells(chosen, tuned)], progress)
    rows = rows_of(found, tuned.values())
    files, notes = write_tables(chosen, found, rows), []
    if chosen.cases:
        files.append(write_cases(chosen.folder, found))
    try:
        files += draw(chosen.folder, found)
    except ImportError:
        notes.append("No figures: they need matplotlib (pip install 'rkld[plots]'); the tables are written.")
    return Bench(rows, files, notes)


def plan(**settings: Any) -> list[str]:
    """What :func:`bench` would do with these settings, in lines; nothing is run, made or written."""
    chosen = make(settings, "arguments", BenchSettings)
    todo = [*tuning_cells(chosen), *cells(chosen)]
    tried = {cell: cell.found(chosen) for cell in tuning_cells(chosen)}
    if all(tried.values()):
        todo += tuned_cells(chosen, choose_rates(chosen, tried)) if chosen.tune else []
    else:  # whichever rate will be chosen, its cells take as long as the default's
        todo += [replace(cell, name=f"{cell.name} (tuned)") for cell in cells(chosen) if cell.variant]
    predicted = predict(chosen, todo)
    places = {(role, c.split, c.seed): model_folder(chosen, role, c.split, c.seed) for c in todo for role in _ROLES}
    given = {role for role in _ROLES if getattr(chosen, role)}
    missing = {path for (role, *_), path in places.items() if role not in given and not path.exists()}
    return [*_lines(predicted), *_summary(predicted, len(missing)), *disk(chosen, predicted, len(missing))]


_ROLES = ("original", "retrained")


def _lines(predicted: Sequence[Prediction]) -> list[str]:
    def line(one: Prediction) -> str:
        time = "done" if one.done else "?" if one.seconds is None else _duration(one.seconds)
        return f"{one.cell.split:<9} seed {one.cell.seed}  {one.cell.name:<28} {time:>9}  {one.source}"

    return [line(one) + ("  (tuning)" if one.cell.tuning else "") for one in predicted]


def _summary(predicted: Sequence[Prediction], models: int) -> list[str]:
    todo = [one for one in predicted if not one.done]
    known = [one.seconds for one in todo if one.seconds is not None]
    rough = "" if all(one.source.startswith("as") for one in todo) else ", roughly: finished cells make it better"
    time = _duration(sum(known)) if known else "unknown" if todo else "none"
    made = f", and {models} models to make" if models else ""
    return [f"\n{len(predicted)} cells, {len(todo)} to run{made}", f"time: {time}{rough if todo else ''}"]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _run(settings: BenchSettings, todo: Sequence[Cell], progress: Silent) -> dict[Cell, dict[str, Any]]:
    """Cell → what it has written; those that are finished are read."""
    done = {cell: cell.found(settings) for cell in todo}  # first: other settings are refused before anything runs
    found: dict[Cell, dict[str, Any]] = {}
    tasks = _once(lambda split, seed: task(settings, split, seed))
    for number, cell in enumerate(todo, 1):
        if done[cell]:
            clean(settings, cell)
            found[cell] = done[cell]
            continue
        progress.say(f"[{number}/{len(todo)}] {cell.split}, seed {cell.seed}: {cell.name}")
        found[cell] = _one(settings, cell, tasks(cell.split, cell.seed), found, progress)
    shutil.rmtree(settings.folder / "teachers", ignore_errors=True)
    return found


def _one(
    settings: BenchSettings, cell: Cell, what: Task, found: Mapping[Cell, Mapping[str, Any]], progress: Silent
) -> dict[str, Any]:
    make_model(settings, "original" if cell.variant else cell.name, cell.split, cell.seed, progress)
    retrained = replace(cell, name="retrained", variant=None)  # the first to be run
    ratios = found[retrained]["truth_ratios"] if retrained in found else None
    if cell.variant is None:
        return run_reference(settings, cell, what, ratios)
    return run_cell(settings, cell, what, ratios, progress)


def _once(function: Callable[[str, int], Task]) -> Callable[[str, int], Task]:
    """Remembers the last answer: cells come split by split and seed by seed."""
    last: dict[tuple[str, int], Task] = {}

    def call(split: str, seed: int) -> Task:
        if (split, seed) not in last:
            last.clear()
            last[split, seed] = function(split, seed)
        return last[split, seed]

    return call


# Tuning


def choose_rates(settings: BenchSettings, tried: Mapping[Cell, Mapping[str, Any]]) -> dict[str, str]:
    """Variant → the one of its grid with the smallest KS distance at its calibrated stop, on the tuning people.

    Of equals the one with the higher retain probability, then the lower learning rate.
    """
    by_name = {cell.name: found for cell, found in tried.items()}

    def badness(name: str) -> tuple[float, float]:
        moments = by_name[name]["moments"]
        at = moments.get("stop") or moments["single"]
        return at["ks"], -at["retain_probability"]

    return {one.name: min((at.name for at in grid(one, settings)), key=badness) for one in variants(settings)}


def tuned_cells(settings: BenchSettings, tuned: Mapping[str, str]) -> list[Cell]:
    """The tuned variants on the reported seeds, beside the defaults."""
    chosen = {
        one.name: at for one in variants(settings) for at in grid(one, settings) if at.name == tuned.get(one.name)
    }
    return [
        Cell(split, seed, at.name, at)
        for split in settings.split_names for seed in range(settings.seeds)
        for name, at in chosen.items() if at.name != name
    ]  # fmt: skip
