"""One cell: unlearn once, to the last epoch, and measure at each of the benchmark's moments of that run.

The run itself is :func:`rkld.pipeline.running.run_unlearning`. The benchmark's watches follow it without ending it, and
each keeps its own best state so far; figures that need generated answers are read from these at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rkld.benching.benchmark import TRAJECTORY, Benchmark, Evaluator, Measured, Task, UnlearningCall
from rkld.benching.cells import Cell
from rkld.benching.relearning import relearning_figures
from rkld.errors import Diverged, UserError
from rkld.evaluation.tofu import write_logs
from rkld.files import make_folder, read_jsonl
from rkld.losses.micro_batches import steps_per_epoch
from rkld.models.language_model import LanguageModel
from rkld.models.state import restore_state
from rkld.pipeline.running import run_unlearning
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.runfolder.lock import MODEL
from rkld.runfolder.manifest import read_manifest
from rkld.runfolder.once import ResultFiles, once
from rkld.stopping.callback import StoppingCallback
from rkld.stopping.rule import simulate

DIVERGED = "diverged"
"""The note of a cell without figures."""

References = Mapping[str, Mapping[str, Any]]
"""Reference model → what its cell has written, on the same split and seed."""


CELL = "cell"
"""``cell.json`` in a cell's folder."""

BEGUN = "begun"
"""``begun.json`` there while the cell is run: by what settings."""

LOGS = "TOFU_EVAL.{}.json"
"""Of a moment, in a cell's folder: figures question by question, in open-unlearning's form."""


RUN = "run"
"""The run folder in a cell's folder."""


def cell_results(benchmark: Benchmark, cell: Cell) -> ResultFiles:
    """Where a finished cell notes what it has measured."""
    return ResultFiles(cell.folder(benchmark.settings.folder), benchmark.identity(cell))


def finished(benchmark: Benchmark, cell: Cell) -> dict[str, Any] | None:
    """What a finished cell has written; None where it is not finished.

    Raises:
        UserError: it was run, or begun, with other settings.
    """
    results = cell_results(benchmark, cell)
    results.find(BEGUN)
    return results.find(CELL)


def earlier(benchmark: Benchmark, cell: Cell) -> Cell | None:
    """The cell from whose model this one goes on; None: it begins with the original, or is a reference model."""
    split = benchmark.comes_after(cell.split) if cell.variant else None
    return cell.on(split) if split else None


def begins_with(benchmark: Benchmark, cell: Cell) -> str | Path:
    """The model that the cell's run is given.

    Raises:
        UserError: that of the earlier cell was not kept.
        Diverged: the earlier cell has.
    """
    before = earlier(benchmark, cell)
    if before is None:
        return benchmark.model_folder("original", cell.split, cell.seed)
    folder = before.folder(benchmark.settings.folder)
    written = finished(benchmark, before)
    if written and any(moment.get("note") == DIVERGED for moment in written["moments"].values()):
        raise Diverged(f"it goes on from {before.split}, which has diverged")
    if written and not (folder / RUN / MODEL).exists():
        raise UserError(
            f"{cell.title}: it goes on from the model of {before.split}, which is finished and was not kept. Delete "
            f"{folder}, so that it is made again."
        )
    return folder / RUN / MODEL


def make_cell(
    benchmark: Benchmark, cell: Cell, task: Task, references: References, progress: NoProgress
) -> dict[str, Any]:
    """What stands in ``cell.json``: found there, else run and noted. What it was made with is removed then.

    Raises:
        UserError: it was run with other settings.
    """
    run, results = run_reference if cell.variant is None else run_cell, cell_results(benchmark, cell)
    # Noted before the run: its folder knows the settings of the unlearning, but not the rule of the stop, by which an
    # interrupted cell has kept its states.
    if results.find(CELL) is None:
        once(results, BEGUN, dict)
    make = partial(run, benchmark, cell, task, references, progress)
    written: dict[str, Any] = once(results, CELL, make)
    clean(benchmark, cell)
    if before := earlier(benchmark, cell):
        clean(benchmark, before)
    return written


def run_reference(
    benchmark: Benchmark, cell: Cell, task: Task, references: References, progress: NoProgress
) -> dict[str, Any]:
    """Measure a reference model as it is.

    Args:
        references: those that come before it.
    """
    started = time.time()
    lm, encoder = benchmark.load(benchmark.model_folder(cell.name, cell.split, cell.seed))
    look = _Look(benchmark, cell, task, encoder, benchmark.evaluator(cell, task, encoder, references), progress)
    found = look(lm)
    _note_logs(cell.folder(benchmark.settings.folder), {"model": found})
    return _content(started + look.attacked, {"model": {}}, {"model": found}, [], [], found.compared_with)


def run_cell(
    benchmark: Benchmark, cell: Cell, task: Task, references: References, progress: NoProgress
) -> dict[str, Any]:
    """Unlearn and measure; an interrupted cell goes on from its last phase or checkpoint.

    Returns:
        what is to stand in ``cell.json``; of a training that diverged a note in place of figures.
    """
    assert cell.variant is not None
    started, folder = time.time(), cell.folder(benchmark.settings.folder)
    try:
        model = begins_with(benchmark, cell)
    except Diverged as error:
        return _content(started, _diverged(benchmark, cell, error, progress), {}, [], [], {})
    lm, encoder = benchmark.load(model)
    evaluator = benchmark.evaluator(cell, task, encoder, references)
    call = unlearning_call(benchmark, cell, task)
    watches = benchmark.watches(cell, call, evaluator, lm) if cell.trains_student else {}
    del lm
    look = _Look(benchmark, cell, task, encoder, evaluator, progress)
    warnings: Sequence[str] = ()
    last = call.steps_per_epoch * call.settings["epochs"]
    try:
        data = {name: source for name, source in call.data.items() if name != "holdout"}
        result = run_unlearning(
            {"model": call.model, **data},
            {**call.settings, "stop": "last"},
            progress=progress,
            callbacks=list(watches.values()),
        )
        made, _ = benchmark.load(result.model_path)
        phases = (read_manifest(result.run) or {}).get("phases", {})
        last = phases.get("distillation", {}).get("steps") or last
        moments, found = _moments(benchmark, cell, made, look, watches, last)
        warnings = result.warnings
    except Diverged as error:
        moments, found = _diverged(benchmark, cell, error, progress), {}
    _note_logs(folder, found)
    # By the steps that were taken: how many an epoch has depends on how many records could be reworded.
    epochs = call.settings["epochs"]
    for moment in moments.values():
        if "step" in moment:
            moment["epoch"] = moment["step"] * epochs / last
    trajectory = [{"epoch": row["step"] * epochs / last, **row} for row in read_jsonl(folder / TRAJECTORY)]
    return _content(started + look.attacked, moments, found, trajectory, warnings, {})


def _diverged(benchmark: Benchmark, cell: Cell, error: Diverged, progress: NoProgress) -> dict[str, dict[str, Any]]:
    """The moments of a cell without figures."""
    progress.say(f"{cell.name}: {error}")
    names = benchmark.moments if cell.trains_student else ("single",)
    return {name: {"note": DIVERGED} for name in names}


def _note_logs(folder: Path, found: Mapping[str, Measured]) -> None:
    """Write :data:`LOGS` of every moment that has any."""
    for moment, measured in found.items():
        if measured.logs:
            make_folder(folder)
            write_logs(folder / LOGS.format(moment), measured.logs, "open-unlearning")


def unlearning_call(benchmark: Benchmark, cell: Cell, task: Task) -> UnlearningCall:
    """What the cell calls :func:`rkld.pipeline.running.run_unlearning` with."""
    assert cell.variant is not None
    values = benchmark.unlearning(cell.variant)
    retain, replay = values.pop("retain"), values.pop("replay")
    if not cell.variant.make().reads_alpha and "alpha" not in dict(cell.variant.values):
        values.pop("alpha", None)  # else the run would warn of what nobody has given
    if not cell.variant.make().strengthens and "strengthen_epochs" not in dict(cell.variant.values):
        values.pop("strengthen_epochs", None)
    data = {
        "forget": task.forget,
        "retain": task.retain if retain else None,
        "replay": task.replay if replay else "none",
        "holdout": task.holdout,
    }
    values |= {
        "out": str(cell.folder(benchmark.settings.folder) / RUN),
        "seed": cell.seed,
        "subject": task.subject,
        "keep_files": benchmark.settings.keep_models,
        "teacher": str(teacher_folder(benchmark, cell)),
    }
    drawn = len(task.forgotten) * (2 if values.get("reword") else 1)  # one of a record's rewordings an epoch
    return UnlearningCall(str(begins_with(benchmark, cell)), data, values, steps_per_epoch(drawn, values["batch_size"]))


def teacher_folder(benchmark: Benchmark, cell: Cell) -> Path:
    """Of the cache that cells on the same records share, whatever their alpha and divergence.

    Any setting of the unlearning that could decide what a cache holds decides the folder.
    """
    assert cell.variant is not None
    method, values = cell.variant.make(), benchmark.unlearning(cell.variant)
    sets = ["forget", *(name for name in ("retain", "replay") if values[name])]
    sets += [f"{name}_refusals" for name in sets if name in method.refusals]
    sets += [f"{name}_alternates" for name in sets if name in method.alternates]
    other = {name: value for name, value in values.items() if name not in _ONE_CACHE}
    if earlier(benchmark, cell):  # each method has its own teacher then, since it goes on from its own model
        other["after"] = cell.name
    number = hashlib.blake2b(json.dumps(other, sort_keys=True).encode(), digest_size=4).hexdigest()
    return benchmark.settings.folder / "teachers" / cell.split / f"seed{cell.seed}" / f"{'+'.join(sets)}-{number}"


_ONE_CACHE = (
    "method",
    "method_arg",
    "alpha",
    "retain",
    "replay",
    "retain_loss",
    "retain_weight",
    "replay_weight",
    "keep_weight",
    "gate",
    "sam",
)
"""Settings that differ between runs that share a cache. (Which sets there are stands in its folder's name.)"""


@dataclass
class _Look:
    """Measures a state: the benchmark's figures, and what relearning brings back if that is asked for."""

    benchmark: Benchmark
    cell: Cell
    task: Task
    encoder: Encoder
    evaluator: Evaluator
    progress: NoProgress
    attacked: float = 0.0
    """Seconds of relearning so far: they are no cost of the method."""

    def __call__(self, lm: LanguageModel) -> Measured:
        found = self.evaluator(lm, self.progress)
        if not self.benchmark.relearns(self.cell):
            return found
        started = time.time()
        lr = self.benchmark.settings.peak_lr
        after = relearning_figures(lm, self.encoder, self.task, lr, self.cell.seed, self.progress)
        self.attacked += time.time() - started
        return replace(found, figures={**found.figures, **after})


def _moments(
    benchmark: Benchmark,
    cell: Cell,
    lm: LanguageModel,
    look: Callable[[LanguageModel], Measured],
    watches: Mapping[str, StoppingCallback],
    last: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, Measured]]:
    """Moment → where it is, and what was measured there: of the last state (``lm`` as it comes) and of those kept.

    Equal states are measured once.

    Args:
        last: the run's last step.
    """
    if not cell.trains_student:
        return {"single": {}}, {"single": look(lm)}
    at_step = {last: look(lm)}
    moments: dict[str, dict[str, Any]] = {}
    for name in benchmark.moments:
        watch = watches.get(name)
        if watch is None:
            moments[name] = {"step": last} | ({} if name == "last" else {"note": "no rule applies: the last step"})
            continue
        decision = simulate(watch.rule, watch.evidence)
        if decision.step not in at_step:
            restore_state(lm, watch.best)
            at_step[decision.step] = look(lm)
        ended = decision.stop or math.isinf(watch.rule.margin)  # by such a rule no run ends: its best is what is meant
        moments[name] = {"step": decision.step, **({} if ended else {"note": "not reached: the nearest check"})}
    return moments, {name: at_step[moment["step"]] for name, moment in moments.items()}


def _content(
    started: float,
    moments: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Measured],
    trajectory: Sequence[Mapping[str, Any]],
    warnings: Sequence[str],
    compared_with: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``cell.json`` holds. The case study's texts stand there apart from the moments' figures.

    Args:
        started: in seconds, of ``time.time()``, but for what is no cost; of an interrupted cell its last start.
    """
    cases = {name: list(measured.cases) for name, measured in found.items() if measured.cases}
    figures = {name: {**moment, **(found[name].figures if name in found else {})} for name, moment in moments.items()}
    return {
        "moments": figures,
        "trajectory": list(trajectory),
        "warnings": list(warnings),
        **({"cases": cases} if cases else {}),
        **compared_with,
        "seconds": round(time.time() - started, 1),
        "device": "GPU" if torch.cuda.is_available() else "CPU",
    }


def clean(benchmark: Benchmark, cell: Cell) -> None:
    """Remove models, states and answers; also after a cell that was killed before it came to this.

    The run folder stays until every cell that goes on from its model is finished.
    """
    folder = cell.folder(benchmark.settings.folder)
    if not benchmark.settings.keep_models:
        later = [
            cell.on(split)
            for split in benchmark.splits()
            if cell.variant and benchmark.comes_after(split) == cell.split
        ]
        awaited = any(not finished(benchmark, one) for one in later)
        for name in (*(() if awaited else (RUN,)), *benchmark.moments):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / TRAJECTORY).unlink(missing_ok=True)
    (folder / f"{BEGUN}.json").unlink(missing_ok=True)
