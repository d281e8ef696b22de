"""One run from its settings to its result: prepare, then phase after phase, each made once and gone on from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from rkld import processes
from rkld.errors import machine_errors_explained
from rkld.models.state import fingerprint
from rkld.pipeline.arguments import check_engine
from rkld.pipeline.fixing import FIXED, before_the_run
from rkld.pipeline.phases import PHASES, Phase, Work
from rkld.pipeline.plan import plan
from rkld.pipeline.preparing import (
    Inputs,
    Prepared,
    check_shardable,
    choose,
    open_in_shards,
    prepare,
    read_inputs,
    teaches_refusals,
)
from rkld.pipeline.publishing import check_publishing, publish
from rkld.pipeline.writers import check_writer
from rkld.progress import NoProgress, chosen
from rkld.records.record import by_answer
from rkld.records.refusals import read_refusals
from rkld.registry import source_hash
from rkld.runfolder.folder import INTERMEDIATE, Run, remove
from rkld.runfolder.lock import MODEL, open_model
from rkld.runfolder.manifest import METRICS, damaged, named
from rkld.runfolder.once import once
from rkld.teacher.cache import INDEX_FILE


@dataclass(frozen=True)
class Result:
    """What a run made.

    Attributes:
        model_path: folder of the unlearned model or adapter, ready for ``from_pretrained``.
        run: the run folder.
        metrics: {"before": …, "after": …} → {"forget": …, "retain": …, "everyday": …} → values.
        answers: per forget record shown: question, before, after.
        warnings: what the user should know of the result.
        unknown: whether the model did not seem to know the records before the run.
        steered: how many of the forget records the stop was decided by; the figures count them, too.
    """

    model_path: Path
    run: Path
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    answers: Sequence[Mapping[str, str]] = field(repr=False)
    warnings: Sequence[str] = ()
    unknown: bool = False
    steered: int = 0


@machine_errors_explained()
def run_unlearning(
    data: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: NoProgress | bool | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    gates: str | None = None,
) -> Result:
    """Make a model forget the records, or go on with a run that was interrupted.

    Args:
        data: models ("model", "control") and data sets ("forget", "retain", "replay", "holdout"), by name or
            as objects.
        values: everything else, by the names of :class:`rkld.settings.unlearning.Settings`.
        tokenizer: of a model that is an object.
        callbacks: for the distillation.
        gates: the fingerprint of those that an audit judges by, noted before the training.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    with processes.together():
        return _run(data, values, tokenizer, progress, callbacks, gates)


def _run(
    data: Mapping[str, Any],
    values: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    progress: NoProgress | bool | None,
    callbacks: Sequence[TrainerCallback],
    gates: str | None,
) -> Result:
    settings, objects = processes.checked(lambda: choose(data, values))
    progress = chosen(progress) if processes.is_main() else NoProgress()
    processes.checked(check_engine)
    processes.checked(partial(check_publishing, settings))
    if settings.shard:
        processes.checked(partial(check_shardable, settings, objects.get("model")))
    given = {name: objects.get(name) for name in ("forget", "retain", "replay", "holdout")}
    inputs = processes.checked(lambda: read_inputs(settings, **given))
    with Run(settings) as run:
        run.manifest = processes.by_main(lambda: reconsidered(run, progress))
        if run.finished:
            progress.say(f"{run.folder} is finished already")
            if not run.purged:  # with the data its hashes are gone, too
                note_records(run, inputs)
            if inputs.request.is_stated:  # the form may say by now what serves and which copies were replaced
                run.state(inputs.request)
                run.save()
        else:
            if settings.teacher:  # which other runs may fill, too
                run.hold(Path(settings.teacher), marks=(INDEX_FILE,))
            torch.manual_seed(settings.seed)
            for warning in inputs.warnings():  # now, while it can be mended; it is said again with the result
                progress.say(f"Warning: {warning}")
            progress.say(f"Loading {settings.model}")
            processes.checked(partial(check_writer, settings))
            sharded = open_in_shards(settings) if settings.shard else None
            prepared = processes.checked(
                lambda: prepare(inputs, objects.get("model"), tokenizer, objects.get("control"), sharded)
            )
            del sharded  # else it would be held beside what the last phase loads
            run.start()
            run.state(inputs.request)
            note_inputs(run, prepared)
            if not run.manifest["phases"]:
                run.manifest.setdefault(FIXED, before_the_run(inputs.forget, run.manifest["salt"], gates))
            _say_plan(prepared, run, progress)
            run.save()
            work = Work.of(prepared, run, progress, callbacks, objects.get("control"))
            del prepared  # one model in memory: the last phase lets the student go
            for phase in PHASES:
                do(phase, work)
        left: list[tuple[str, str]] = []
        # Also after a run that was killed before this.
        if not settings.keep_files and remove(run.folder, INTERMEDIATE, left):
            run.save()
        for name, why in left:
            progress.say(f"Warning: {run.folder / name} holds personal data and could not be removed: {why}")
        if settings.share_model and (run.folder / MODEL).is_dir():  # it may have been given up since
            processes.by_main(partial(open_model, run.folder))
        if settings.push_to_hub and (run.folder / MODEL).is_dir():
            run.manifest["published"] = processes.by_main(lambda: dict(publish(run.folder, settings, progress)))
            run.save()
        return result_of(run, inputs)


def _say_plan(prepared: Prepared, run: Run, progress: NoProgress) -> None:
    """Say what will happen and what should be known before it does; warnings are kept for the result, too."""
    warnings = run.manifest.setdefault("warnings", prepared.inputs.warnings())
    for warning in filter(None, (prepared.template_warning, *prepared.coverage.alarms, *prepared.remarks)):
        if warning not in warnings:
            progress.say(f"Warning: {warning}")
            warnings.append(warning)
    if type(progress) is NoProgress:  # nobody reads it, and to know how long it takes costs a pass
        return
    with processes.alone():  # the others have nobody to tell
        lines = plan(prepared, progress.expect)
        progress.say(next(lines))
        if done := [phase.name for phase in PHASES if run.find(phase.name) is not None]:
            progress.say(f"{run.folder} goes on after: {', '.join(done)}")
        else:
            for line in lines:
                progress.say(line)


def reconsidered(run: Run, progress: NoProgress) -> dict[str, Any]:
    """The run's manifest, after :func:`reconsider`."""
    reconsider(run, progress)
    return run.manifest


def reconsider(run: Run, progress: NoProgress) -> None:
    """Take back the notes of phases whose files are not as they left them: from there on the run does it again.

    Only what is still asked for counts: a phase that is done needs nothing any more of those before it.

    Raises:
        UserError: the model of a finished run is another, or cannot be made again.
    """
    if not run.manifest:
        return
    wanted = run.results()
    lost: dict[str, str] = {}
    again: list[str] = []
    for phase in reversed(PHASES):
        if run.find(phase.name) is not None and (found := phase.lost(run, wanted)):
            lost |= found
            again.insert(0, phase.name)
            run.take_back(phase.name)
        if run.find(phase.name) is None:
            wanted.update(phase.reads)
    if again:
        progress.say(f"{run.folder}: not as it was written ({named(lost)}), so it is done again: {', '.join(again)}")
    if run.finished and (lost := run.changes([METRICS])):
        progress.say(f"{run.folder}: not as it was written ({named(lost)}); the figures shown are the manifest's")


def do(phase: Phase, work: Work) -> None:
    """The phase, unless it is noted as done."""
    if phase.trains:
        work.put_on_adapter()
    if any(work.run.find(name) is None for name in phase.needs):
        raise damaged(work.folder)  # the notes of phases that came before it were taken out
    once(work.run, phase.name, partial(_timed, phase, work))


def _timed(phase: Phase, work: Work) -> dict[str, Any]:
    started = time.time()
    facts = phase.run(work)
    work.run.note_files(phase.leaves)
    return {"seconds": round(time.time() - started, 1), **facts}


def note_inputs(run: Run, prepared: Prepared) -> None:
    """Note all that decides the result at the first start; refuse others when the run is started again."""
    inputs = prepared.inputs
    note_records(run, inputs)
    run.same("fields beside them", run.salted([[r.extra for r in found] for found in (inputs.forget, inputs.retain)]))
    if any(record.rewordings for record in inputs.forget):
        run.same("rewordings", run.salted([[astuple(one) for one in r.rewordings] for r in inputs.forget]))
    run.same("model", prepared.identity or fingerprint(prepared.lm))
    if prepared.base is not None:
        run.same("base", prepared.base)
    run.same("template", prepared.encoder.fingerprint)
    run.same("method's file", source_hash(inputs.settings.method))
    run.same("stopping rule's file", source_hash(inputs.settings.stop))
    if teaches_refusals(inputs.settings, prepared.method):
        run.same("refusals", run.salted(read_refusals(inputs.settings.refusals)))


def note_records(run: Run, inputs: Inputs) -> None:
    """Note the records at the first start; refuse others when the run is started again."""
    run.same("subject", run.salted(inputs.identifiers))
    sets = {"forget records": inputs.forget, "retain records": inputs.retain, "replay prompts": inputs.prompts}
    if inputs.holdout:
        sets["holdout records"] = inputs.holdout
    for name, records in sets.items():
        contents = [(r.form, [astuple(turn) for turn in r.turns], r.template_variables, r.spans) for r in records]
        run.same(name, {"n": len(records), "hash": run.salted(contents)})


def result_of(run: Run, inputs: Inputs) -> Result:
    """The result of a finished run, as its folder has it."""
    answers = run.answers()
    return Result(
        model_path=run.folder / MODEL,
        run=run.folder,
        metrics=run.figures,
        answers=[
            {"question": record.question, "before": before, "after": after}
            for record, before, after in zip(by_answer(inputs.forget), answers["before"], answers["after"])
        ],
        warnings=run.manifest.get("warnings", []),
        unknown=run.manifest["phases"]["before"].get("unknown", False),
        steered=run.manifest["phases"].get("stop", {}).get("steering", {}).get("n", 0),
    )
