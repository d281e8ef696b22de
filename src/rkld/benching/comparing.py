"""The benchmark as a whole: cells one after another, then tables and figures of all that are finished."""

from __future__ import annotations

import math
import shutil
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rkld.benching.case_study import write_cases
from rkld.benching.cell_runs import clean, run_cell, run_reference, teacher_folder
from rkld.benching.cells import Cell, cells, grid, tuning_cells
from rkld.benching.jobs import Pieces
from rkld.benching.planning import Prediction, disk, predict, rough_model_seconds
from rkld.benching.plots import draw
from rkld.benching.tables import rows_of, write_tables
from rkld.benching.tasks import make_model, model_folder, task
from rkld.benching.variants import variants
from rkld.errors import UserError
from rkld.progress import Silent
from rkld.settings.benching import BenchSettings
from rkld.settings.specification import make
from rkld.stopping.registry import get_rule


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
        settings: by the names of :class:`rkld.settings.benching.BenchSettings`.

    Raises:
        UserError: bad settings or data; a cell that was run with other settings.
    """
    chosen, progress = make(settings, "arguments", BenchSettings), progress or Silent()
    _check_stop(chosen)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    tuned: dict[str, str] = {}
    if chosen.tune:
        tried = _run(chosen, tuning_cells(chosen), progress)
        tuned = choose_rates(chosen, tried)
    found = _run(chosen, [*cells(chosen), *tuned_cells(chosen, tuned)], progress)
    rows = rows_of(found, tuned)
    files, notes = write_tables(chosen, found, rows), []
    if chosen.cases:
        files.append(write_cases(chosen.folder, found))
    try:
        files += draw(chosen.folder, found)
    except ImportError:
        notes.append("No figures: they need matplotlib (pip install 'rkld[plots]'); the tables are written.")
    return Bench(rows, files, notes)


def _check_stop(settings: BenchSettings) -> None:
    """Before models are made: an unknown rule, and one that needs what the benchmark does not give."""
    if needed := get_rule(settings.stop).required:
        raise UserError(f"--stop {settings.stop} needs {', '.join(needed)}, which a benchmark has not; take another.")


def plan(**settings: Any) -> list[str]:
    """What :func:`bench` would do with these settings, in lines; nothing is run, made or written."""
    chosen = make(settings, "arguments", BenchSettings)
    _check_stop(chosen)
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
    return [*_lines(predicted), *_summary(chosen, predicted, len(missing)), *disk(chosen, predicted, len(missing))]


_ROLES = ("original", "retrained")


def _lines(predicted: Sequence[Prediction]) -> list[str]:
    def line(one: Prediction) -> str:
        time = "done" if one.done else "?" if one.seconds is None else _duration(one.seconds)
        return f"{one.cell.split:<9} seed {one.cell.seed}  {one.cell.name:<28} {time:>9}  {one.source}"

    return [line(one) + ("  (tuning)" if one.cell.tuning else "") for one in predicted]


def _summary(settings: BenchSettings, predicted: Sequence[Prediction], models: int) -> list[str]:
    todo = [one for one in predicted if not one.done]
    known = [one.seconds for one in todo if one.seconds is not None]
    rough = "" if all(one.source.startswith("as") for one in todo) else ", roughly: finished cells make it better"
    jobs = settings.jobs
    making = models * (rough_model_seconds(settings) or 0.0) / min(jobs, max(models, 1))
    time = _duration(sum(known) / min(jobs, len(known)) + making) if known else "unknown" if todo else "none"
    made = f", and {models} models to make" if models else ""
    return [f"\n{len(predicted)} cells, {len(todo)} to run{made}", f"time: {time}{rough if todo else ''}"]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _run(settings: BenchSettings, todo: Sequence[Cell], progress: Silent) -> dict[Cell, dict[str, Any]]:
    """Cell → what it has written; those that are finished are read.

    What others need comes first: the models, the retrained models' figures, the originals', the methods'.
    """
    found = {cell: cell.found(settings) for cell in todo}  # first: other settings are refused before anything runs
    for cell, written in found.items():
        if written:
            clean(settings, cell)
    missing = [cell for cell, written in found.items() if not written]
    models = {  # several cells share one
        model_folder(settings, role, cell.split, cell.seed): (settings, role, cell.split, cell.seed)
        for cell in missing
        for role in ("original" if cell.variant else cell.name,)
    }
    with Pieces(settings.jobs, progress) as pieces:
        for _ in pieces.each(make_model, list(models.values())):
            pass
        for stage in ("retrained", "original", None):
            groups = _groups(settings, [cell for cell in missing if (None if cell.variant else cell.name) == stage])
            work = [(settings, group, _truth_ratios(found, group[0])) for group in groups]
            for number, all_written in pieces.each(run_cells, work):
                for cell, written in zip(groups[number], all_written, strict=True):
                    found[cell] = written
                    done = sum(map(bool, found.values()))
                    progress.say(f"[{done}/{len(todo)}] {_title(cell)}: {_duration(written['seconds'])}")
    shutil.rmtree(settings.folder / "teachers", ignore_errors=True)
    return found


def _groups(settings: BenchSettings, some: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that share a teacher: who comes first makes it, so they are run one after another."""
    groups: dict[Hashable, list[Cell]] = {}
    for cell in some:
        key = teacher_folder(settings, cell, cell.unlearning(settings)) if cell.variant else cell
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def _truth_ratios(found: Mapping[Cell, Any], cell: Cell) -> Sequence[float] | None:
    """The retrained model's, on the same split and seed; None where that is what is measured."""
    retrained = found[replace(cell, name="retrained", variant=None)]
    return retrained and retrained["truth_ratios"]


def run_cells(
    settings: BenchSettings, some: Sequence[Cell], ratios: Sequence[float] | None, progress: Silent
) -> list[dict[str, Any]]:
    """What each of some cells on the same split and seed has written."""
    what, written = task(settings, some[0].split, some[0].seed), []
    for cell in some:
        progress.say(_title(cell))
        if cell.variant is None:
            written.append(run_reference(settings, cell, what, ratios))
        else:
            written.append(run_cell(settings, cell, what, ratios, progress))
    if some[0].variant:
        shutil.rmtree(teacher_folder(settings, some[0], some[0].unlearning(settings)), ignore_errors=True)
    return written


def _title(cell: Cell) -> str:
    return f"{cell.split}, seed {cell.seed}: {cell.name}"


# Tuning


def choose_rates(settings: BenchSettings, tried: Mapping[Cell, Mapping[str, Any]]) -> dict[str, str]:
    """Variant → the one of its grid with the smallest KS distance at its calibrated stop, on the tuning people.

    Of equals the one with the higher retain probability, then the lower learning rate.
    """
    by_name = {cell.name: found for cell, found in tried.items()}

    def badness(name: str) -> tuple[float, float]:
        moments = by_name[name]["moments"]
        at = moments.get("stop") or moments["single"]
        return at.get("ks", math.inf), -at.get("retain_probability", 0.0)  # none where the training diverged

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
