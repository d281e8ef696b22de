"""What a run is about to do, and how long that will take: a few lines, before the first bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rkld import methods, processes
from rkld.files import readable_size
from rkld.losses.micro_batches import pools, steps_per_epoch
from rkld.methods.base_vector import BaseVector
from rkld.models.loading import bf16_saves_time
from rkld.models.sharded import is_sharded
from rkld.pipeline.description import described
from rkld.pipeline.estimating import rough_estimate
from rkld.pipeline.preparing import Prepared
from rkld.pipeline.space import free_bytes

ROUGH = (0.6, 1.7)
"""Of a rough estimate: what a run may take of it. Measured ones are within a fifth (``rkld check``)."""

OTHERS_UNMEASURED = "damage to people near the person is not measured without --retain"


def plan(prepared: Prepared, expect: Callable[[Mapping[str, float]], object]) -> Iterator[str]:
    """Lines for people: what is forgotten and held, how it is trained, what is written, how long it takes.

    Args:
        expect: is told the seconds of each part, before the last line.
    """
    s = prepared.settings
    reworded = f" and {len(prepared.reworded)} rewordings of them" if prepared.reworded else ""
    yield f"Model    {s.model}: " + ", ".join(f"{what} {how}" for what, how in described(prepared.lm))
    yield f"Method   {prepared.method.summary}"
    yield f"Forget   {_n(len(prepared.forget), 'record')}{reworded}"
    kept = f"{_n(len(prepared.retain), 'record')} to keep" if prepared.retain else OTHERS_UNMEASURED
    held = f"{len(prepared.prompts)} replay prompts" if prepared.prompts and s.replay_weight else "no replay"
    yield f"Keep     {held}; {kept}"
    before, steps = steps_of(prepared)
    vector = isinstance(prepared.method, BaseVector)
    first = f"{_n(before, 'step')} of {begins_by(prepared.method)}, then " if before else ""
    decides = "decides how much of that is subtracted" if vector else "may end them"
    ends = f", --stop {s.stop} {decides}" if prepared.comparison else ""
    more = ", before the model's own words are added" if s.own_words != "no" else ""
    yield f"Train    {first}{'' if vector else 'at most '}{_n(steps, 'step')}{ends}{more}"
    free = readable_size(free_bytes(s.run_folder))
    yield f"Write    {s.run_folder}: about {readable_size(prepared.space.certain)} of {free} that are free"
    if is_sharded(prepared.lm.model):  # a pass would need all processes, and one of them plans
        yield "Time     not estimated of a model in shards"
        return
    if s.shard:
        yield "Shards   none: there is one process, which holds the model whole (torchrun starts more)"
    expected = rough_estimate(prepared)
    expect(expected.seconds)
    shared = f", if one process did it: {processes.count()} share it" if processes.count() > 1 else ""
    saves = s.bf16 is None and bf16_saves_time(prepared.lm.head.weight.shape[1])
    faster = "; about half with --bf16" if saves else ""
    yield f"Time     {roughly(expected.total_seconds)}{shared}{faster}"


def begins_by(method: methods.Method) -> str:
    """What the first of :func:`steps_of` are of."""
    return "tuning the base" if isinstance(method, BaseVector) else "strengthening"


def steps_of(prepared: Prepared) -> tuple[int, int]:
    """Optimizer steps of the strengthening, or of whatever comes before, and of the distillation."""
    s, method = prepared.settings, prepared.method
    drawn = {"forget": [*prepared.forget, *prepared.reworded], "retain": prepared.retain}[method.epochs_of]
    first, epochs = [prepared.forget] if method.strengthens else [], s.strengthen_epochs
    if isinstance(method, BaseVector):
        first = method.tuned_on([*prepared.forget, *prepared.reworded], prepared.retain)
        epochs = method.tuning_epochs
    return (
        sum(epochs * steps_per_epoch(len(pools(records)), s.batch_size) for records in first),
        s.epochs * steps_per_epoch(len(pools(drawn)), s.batch_size) if method.reads_epochs else 0,
    )


def _n(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def roughly(seconds: float) -> str:
    """What a rough estimate comes to, for people."""
    low, high = (duration(part * seconds) for part in ROUGH)
    return f"roughly {low} to {high}"


def duration(seconds: float) -> str:
    """A time for people, to the second."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
