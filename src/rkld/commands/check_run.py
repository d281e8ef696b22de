"""``rkld check``: what can go wrong is found, and what will be done is counted, before time is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from transformers import PreTrainedTokenizerBase

from rkld.auditing.gates import FEWEST
from rkld.commands.note_request import Noting
from rkld.errors import machine_errors_explained
from rkld.evaluation.likelihood import probability
from rkld.files import readable_size
from rkld.losses.objective import kept
from rkld.models.modes import keeping_dtypes
from rkld.models.source import card_base
from rkld.pipeline import health
from rkld.pipeline.description import described
from rkld.pipeline.estimating import Estimate, estimate
from rkld.pipeline.plan import begins_by, duration, steps_of
from rkld.pipeline.preparing import Inputs, Model, choose, prepare, read_inputs, unsteered
from rkld.pipeline.publishing import check_publishing
from rkld.pipeline.running import note_inputs
from rkld.pipeline.space import Space, free_bytes
from rkld.pipeline.writers import check_writer
from rkld.progress import without_noise
from rkld.records.coverage import Coverage
from rkld.records.encoding import IN_PART
from rkld.records.sources import Source
from rkld.runfolder.folder import Run
from rkld.settings.typed import UnlearnKeywords
from rkld.text.printable import printable


@dataclass(frozen=True)
class Size:
    """A set of records and the tokens they have in total."""

    records: int
    tokens: int

    def named(self, unit: str) -> str:
        return f"{self.records} {unit}, {self.tokens} tokens" if self.records else "none"


@dataclass(frozen=True)
class Report:
    """What a run with these arguments would do. Holds counts and places, no contents but for ``example``."""

    forget: Size
    retain: Size
    replay: Size
    """Prompts without their answers; those that mention the person are left out."""
    scored: int
    """Tokens of the forget records that are unlearned."""
    kept: int
    """Tokens of the forget answers that the keep term holds to the original (score spans or added)."""
    steps: int
    """Optimizer steps of the distillation."""
    strengthening_steps: int
    """Optimizer steps before it (0 for methods that need none)."""
    begins_by: str
    """What these are of, in words."""
    rewordings: tuple[str, ...]
    """How many of which kind are forgotten along with the records, and what was dropped; a writer writes later."""
    own_words: bool
    """Whether the model's own answers join or replace the records: then the counts will change."""
    identifiers: int
    """How many names, aliases and other identifiers of the person are known."""
    coverage: Coverage
    left_out: Mapping[str, tuple[str, ...]]
    """Why given records are left out → where they stand, such as "retain.jsonl line 4"."""
    auditable: int | None
    """Forget records that an audit can ask about, as the others steer the stop; None where none steer."""
    advantage: float | None
    """Nats per token that the records are more probable than the same about invented people; None: nothing to swap."""
    model: Mapping[str, str]
    """The "method", and what the model is opened as: "base" (of an adapter, or by the model card), "weights" and
    "prompts", in words."""
    warnings: tuple[str, ...]
    """What the user should know."""
    run_folder: Path
    estimate: Estimate
    """Time and peak memory, from a short measured probe."""
    retraining: float | None
    """Seconds that ``--method retrain`` would take; None without retain records, or a base that is known."""
    space: Space
    """Of the disk, in the run folder."""
    free: int
    """Bytes that are free on that disk."""
    seconds: float
    """What this check took itself: from the call on, or from the start of the process (:meth:`from_start`)."""
    example: str = field(repr=False)
    """The shortest forget record, with what is unlearned of it in brackets: personal data."""
    tokens: str = field(repr=False)
    """The same, token by token."""

    def from_start(self, starting: float) -> Report:
        """The report with what the process took before the check began: a run takes it, too."""
        expected = replace(self.estimate, seconds={"starting": starting, **self.estimate.seconds})
        return replace(self, seconds=self.seconds + starting, estimate=expected)

    def lines(self) -> Iterator[str]:
        """The report for people, the example left out."""
        yield f"forget       {self.forget.named('records')}"
        yield f"  scored     {self.scored} tokens are unlearned"
        if self.kept:
            yield f"  keep       {self.kept} tokens of the same answers are held to the original"
        yield from (f"{'' if n else 'reworded':<13}{line}" for n, line in enumerate(self.rewordings))
        unmeasured = "" if self.retain.records else ": damage to people near the person is then not measured (--retain)"
        yield f"retain       {self.retain.named('records')}{unmeasured}"
        yield f"replay       {self.replay.named('prompts')}"
        yield from (f"{what:<13}{how}" for what, how in self.model.items())
        steps = f"{self.strengthening_steps} of {self.begins_by}, {self.steps} of distillation"
        yield f"steps        {steps}" + (", before the model's own words are added" if self.own_words else "")
        yield f"run folder   {self.run_folder}"
        checkpoints = readable_size(self.space.checkpoints)
        written = f"about {readable_size(self.space.certain)} will be written, and up to {checkpoints} of checkpoints"
        yield f"disk         {written}; {readable_size(self.free)} are free"
        yield f"memory       about {self.estimate.peak_bytes / 1e9:.1f} GB at most"
        yield f"time         {time_named(self.estimate)}"
        share = self.seconds / max(self.seconds, self.estimate.total_seconds)
        yield f"this check   took {duration(self.seconds)}, {share:.0%} of what the run will take"
        if self.retraining is not None:
            less = "less than unlearning" if self.retraining < self.estimate.total_seconds else "more than unlearning"
            yield (
                f"retraining   about {duration(self.retraining)}, {less}: --method retrain, if the retain records are "
                "all else that the model was tuned on"
            )
        if self.identifiers:
            known = f"{self.coverage.identifiers} places where they stand are unlearned; elsewhere they are kept"
            yield f"identifiers  {self.identifiers} known; {known}"
        else:
            yield "identifiers  none known: give the person's names with --subject, to have mentions found"
        spans = f"{self.coverage.spans} places where they stand are unlearned"
        none = "none are marked, so rkld cannot tell which parts are personal: give them in the records' field 'spans'"
        yield f"spans        {spans if self.coverage.spans.found else none}"
        if self.auditable is not None:
            few = f": fewer than {FEWEST} establish nothing" if self.auditable < FEWEST else ""
            yield f"evidence     {self.auditable} of the records are left for an audit, the others steer the stop{few}"
        if self.advantage is not None:
            yield (
                f"known        {self.advantage:+.2f} nats per token more probable than the same about invented people "
                "(0: not known)"
            )
        for reason, places in self.left_out.items():
            yield f"{len(places)} {reason}:"
            yield from (f"  {where}" for where in places)
        yield from (f"Warning: {warning}" for warning in self.warnings)


def time_named(found: Estimate) -> str:
    """An estimate's time for people; where a rule may end the run, as the bound that it is."""
    bound = f" at most, as --stop {found.stop} may end it sooner" if found.stop else ""
    phases = ", ".join(f"{phase} {duration(t)}" for phase, t in found.seconds.items() if t >= 1)
    return f"about {duration(found.total_seconds)}{bound}" + (f" ({phases})" if phases else "")


@machine_errors_explained()
@without_noise()
def check(
    model: Model | None = None,
    forget: Source | None = None,
    *,
    retain: Source | None = None,
    replay: Source | None = None,
    holdout: Source | None = None,
    control: Model | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    **settings: Unpack[UnlearnKeywords],
) -> Report:
    """Read, load and count all that :func:`rkld.unlearn` would, estimate what it will take, and write nothing.

    Takes the arguments of :func:`rkld.unlearn`. Records are checked before the model is loaded.

    Raises:
        UserError: whatever a run would stop at.
    """
    started = time.perf_counter()
    data = {"forget": forget, "retain": retain, "replay": replay, "holdout": holdout}
    chosen, objects = choose({"model": model, "control": control, **data}, settings)
    inputs = read_inputs(chosen, **{name: objects.get(name) for name in data})
    Noting.of(chosen, objects)
    with keeping_dtypes(objects.get("model")):
        return replace(_report(inputs, objects, processing_class), seconds=time.perf_counter() - started)


def _report(inputs: Inputs, objects: Mapping[str, Any], processing_class: PreTrainedTokenizerBase | None) -> Report:
    chosen = inputs.settings
    run = Run(chosen)  # refuses a folder that holds something else
    check_writer(chosen)
    check_publishing(chosen)
    prepared = prepare(inputs, objects.get("model"), processing_class, objects.get("control"))
    if run.manifest and not run.purged:
        note_inputs(run, prepared)  # refuses others than the run began with; nothing is saved
    encoder, encoded = prepared.encoder, prepared.forget

    method = prepared.method
    before, steps = steps_of(prepared)
    advantage = health.advantage(prepared.lm, encoder, inputs.forget, inputs.identifiers, chosen.score, chosen.seed)
    likely = float(probability(prepared.lm, encoded[: health.READ]).mean())  # of whole answers, as a run has it
    warnings = [
        *inputs.naming,
        prepared.template_warning,
        *prepared.coverage.alarms,
        *prepared.remarks,
        unsteered(chosen, prepared.comparison),
        health.unknown(advantage, likely),
        health.of_anybody(advantage, likely),
    ]
    model = {"method": method.summary, **dict(described(prepared.lm))}
    if chosen.base is None and (named := card_base(prepared.lm.source)):
        model.setdefault("base", f"the model card names {printable(named)}: --base goes back to it")
    expected = estimate(prepared)
    known_base = prepared.lm.is_adapter or chosen.base is not None
    retraining = None
    if known_base and prepared.retain and method.start != "base":
        beside = ("loading", "before", "after", "writing")
        retraining = expected.retraining + sum(expected.seconds[phase] for phase in beside)
    shortest = min(zip(inputs.forget, encoded), key=lambda pair: len(pair[1].ids))[0]
    return Report(
        forget=_size(e.ids for e in encoded),
        retain=_size(e.ids for e in prepared.retain),
        replay=_size(prepared.prompts),
        scored=sum(sum(e.scored) for e in encoded),
        kept=sum(sum(kept(e)) for e in encoded)
        if chosen.score in IN_PART and chosen.keep_weight and method.holds_unscored
        else 0,
        steps=steps,
        strengthening_steps=before,
        begins_by=begins_by(method),
        rewordings=tuple(prepared.rewordings.described()) if prepared.reworded else (),
        own_words=chosen.own_words != "no",
        identifiers=len(inputs.identifiers),
        coverage=prepared.coverage,
        left_out=inputs.left_out,
        auditable=None
        if prepared.comparison is None
        else len(inputs.forget) - len(prepared.comparison.material.steering.left_out),
        advantage=advantage,
        model=model,
        warnings=tuple(filter(None, warnings)),
        run_folder=chosen.run_folder,
        estimate=expected,
        retraining=retraining,
        space=prepared.space,
        free=free_bytes(chosen.run_folder),
        seconds=0.0,  # whoever calls knows
        example=encoder.marked_text(shortest, chosen.score),
        tokens=encoder.describe(shortest, chosen.score),
    )


def _size(ids: Any) -> Size:
    lengths = [len(one) for one in ids]
    return Size(len(lengths), sum(lengths))
