"""How much memory and time a run will take, from a short probe: a few of its own steps, measured.

The probe is the run in small: the heaviest step it will come to, by the same trainer from the same kind of cache, with
a learning rate of zero; and a few generated tokens. Everything else is counted.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import methods
from rkld.evaluation.frames import FEW, GLANCE
from rkld.evaluation.generation import generation_batch_size, greedy
from rkld.evaluation.likelihood import answer_losses
from rkld.losses.answers import to_labels
from rkld.losses.micro_batches import longest, plan_steps, pools, split, steps_per_epoch, units
from rkld.losses.objective import Objective, Term, answer
from rkld.methods.base_vector import BaseVector
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.state import fingerprint, trainable_state
from rkld.pipeline import health
from rkld.pipeline.arguments import training_arguments
from rkld.pipeline.health import EVERYDAY_TOKENS, everyday_prompts
from rkld.pipeline.preparing import MEASURED, Prepared, check_every, floor_records
from rkld.pipeline.replaying import kept_answers
from rkld.pipeline.watching import WATCHED, watch_every
from rkld.records.encoding import Encoded
from rkld.records.replay import ANSWER_TOKENS
from rkld.runfolder.kept_answers import kept_files
from rkld.settings.unlearning import Settings
from rkld.stopping.references import NAMES
from rkld.teacher.cache import HiddenCache, Part
from rkld.teacher.logits import Teacher
from rkld.training.strengthening import OF_TOKENS, fill_cache
from rkld.training.terms import build_objective, build_terms, cached_parts, with_other_answers
from rkld.training.trainer import ObjectiveTrainer, fine_tune, fit

ANSWERED = 8
"""Replay prompts that the probe has answered, to know how long the answers will be."""


PROBED_TOKENS = 6
"""Tokens per answer that the probe generates."""


Unit = Sequence[tuple[str, Encoded]]
"""As :func:`rkld.losses.micro_batches.units` makes them."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take on this machine.

    Attributes:
        seconds: wall time by phase, in the order of the phases.
        peak_bytes: of the whole process; on a GPU, of what torch allocates there.
        retraining: wall time of as many epochs of fine-tuning on the retain records, as ``--method retrain`` would.
        stop: the rule that may end the run before; None where the last step is taken.
    """

    seconds: Mapping[str, float]
    peak_bytes: int
    retraining: float = 0.0
    stop: str | None = None

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def peak_bytes() -> int:
    """The most memory held so far: on a GPU what torch has allocated there, else of the whole process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts with the size of the process that started this one
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def estimate(prepared: Prepared) -> Estimate:
    """Probe the model, which ends as it began, and add up."""
    settings, lm = prepared.settings, prepared.lm
    kept = _kept(prepared)
    trainable = [p for p in lm.model.parameters() if p.requires_grad]
    adapted = new_adapter(lm, rank=settings.lora_rank) if settings.lora else lm
    try:
        with tempfile.TemporaryDirectory(prefix="rkld-") as folder:
            return _Probe(prepared, adapted, Path(folder), kept).estimate(prepared.load_seconds)
    finally:
        if adapted is not lm:
            adapted.model.unload()
            for parameter in trainable:
                parameter.requires_grad_(True)


def rough_estimate(prepared: Prepared) -> Estimate:
    """The same from one pass over a batch and a few generated tokens, without training and without whole answers."""
    with tempfile.TemporaryDirectory(prefix="rkld-") as folder, torch.random.fork_rng():
        probe = _Rough(prepared, prepared.lm, Path(folder), _kept(prepared))
        return probe.estimate(prepared.load_seconds)


def _kept(prepared: Prepared) -> list[bool]:
    """Of each replay prompt whether an earlier run has kept the answer to it."""
    if not prepared.settings.keep_replay or not kept_files():
        return [False] * len(prepared.prompts)
    found = kept_answers(prepared.settings, fingerprint(prepared.lm), prepared.lm, prepared.encoder)
    return [answer is not None for answer in found.find(prepared.prompts)]


class _Probe:
    """Rates of this model on this machine, measured on records of this run."""

    def __init__(self, prepared: Prepared, lm: LanguageModel, folder: Path, kept: Sequence[bool] = ()):
        """
        Args:
            lm: the model that is trained, with its adapter where it gets one.
            kept: of each replay prompt whether its answer is there already.
        """
        self.kept = kept or [False] * len(prepared.prompts)
        self.lm, self.folder, self.encoder, self.inputs = lm, folder, prepared.encoder, prepared.inputs
        self.comparison = prepared.comparison
        self.settings: Settings = prepared.settings
        self.method = prepared.method
        self.forget, self.retain = prepared.forget, prepared.retain
        self.unlearned = [*prepared.forget, *prepared.reworded]
        sets: dict[str, Sequence[Encoded]] = {"forget": self.unlearned}
        self.prompts: list[tuple[int, ...]] = []
        self.said: list[int] = []
        if prepared.prompts and self.settings.replay_weight:
            self.prompts = prepared.prompts
            said = self._said(self.prompts)
            self.said = [said[i % len(said)] for i in range(len(self.prompts))]
            sets["replay"] = [_answered(str(i), ids, n) for i, (ids, n) in enumerate(zip(self.prompts, self.said))]
        if self.retain:
            sets["retain"] = self.retain
        sets = with_other_answers(sets, self.encoder, self.method, self.settings.refusals, self.settings.seed)
        self.args = replace(
            training_arguments(self.settings, folder / "probe"),
            num_train_epochs=2,
            learning_rate=0.0,
            checkpoint_minutes=math.inf,
        )
        self.cache = HiddenCache(folder / "teacher", {})
        if self.method.trains:
            self.terms = build_terms(sets, Teacher(self.cache, alpha=self.args.alpha), lm, self.args)
        else:  # nothing is trained but what the vectors are of
            self.terms = [Term("forget", "forget", answer, to_labels)]
        self.sets = dict(Objective.of(sets, self.terms).sets)

    def _said(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Tokens of the model's own answers to some of the prompts, from all over them."""
        some = prompts[:: -(-len(prompts) // ANSWERED)]
        cap = self.settings.max_new_tokens or ANSWER_TOKENS
        return [max(1, len(a.ids)) for a in greedy(self.lm, some, max_new_tokens=cap)]

    def estimate(self, load_seconds: float) -> Estimate:
        s = self.settings
        generating = self._generating()
        student = not isinstance(self.method, methods.Assisted)
        pace = {"forget": self.unlearned, "retain": self.retain}[self.method.epochs_of]
        per_run = s.epochs * steps_per_epoch(len(pools(pace)), s.batch_size)
        if student:  # of which the first set that the terms read may be another than that whose passes count
            per_epoch = steps_per_epoch(len(pools(next(iter(self.sets.values())))), s.batch_size)
            steps = self._steps(self.sets, math.ceil(per_run / per_epoch))[:per_run]
        else:
            steps = self._steps(self.sets, s.strengthen_epochs)
        step_seconds, strengthening_seconds, reading = self._train(max(steps, key=self._positions))
        given, epochs = [self.forget], self._tuning_epochs
        if isinstance(self.method, BaseVector):
            given = self.method.tuned_on(self.unlearned, self.retain)
        first = [step for records in given for step in self._steps({"forget": records}, epochs)] if epochs else []
        retraining = self._steps({"retain": self.retain}, s.epochs) if self.retain else []

        measured = [*self.forget, *self.retain[:MEASURED]]
        measuring = reading(measured) + generating([e.prompt_length for e in measured], _answer_lengths(measured, s))
        otherwise = self.forget[:: max(1, math.ceil(len(self.forget) / FEW))] * len(GLANCE)
        measuring += generating([e.prompt_length for e in otherwise], _answer_lengths(otherwise, s))
        known = self.forget[: health.READ] * (1 + NAMES)  # and the same about invented people
        prompts = [len(self.encoder.prompt(prompt)) for prompt in everyday_prompts()]
        measuring += generating(prompts, [EVERYDAY_TOKENS] * len(prompts))
        drawn = len(steps) * s.batch_size
        replayed = [(len(ids), n) for ids, n, kept in zip(self.prompts, self.said, self.kept) if not kept][:drawn]
        # Likelihoods are made from states.
        read = {Part("original" if states in OF_TOKENS else states, name) for states, name in cached_parts(self.terms)}
        writing = self._writing()
        return Estimate(
            seconds={
                "loading": load_seconds,
                "before": measuring + reading(known),
                "replay": generating([length for length, _ in replayed], [n for _, n in replayed]),
                "cache": sum(reading(self.sets[part.records][:drawn]) for part in read),
                "strengthening": strengthening_seconds(first) if student else step_seconds(steps),
                "stop": self._checks(len(steps), reading),
                "distillation": step_seconds(steps) + self._watching(len(steps), reading)
                if student and self.method.trains
                else 0.0,
                "after": load_seconds + measuring,  # of the saved model, which is opened anew
                "writing": writing,
            },
            peak_bytes=peak_bytes(),
            retraining=strengthening_seconds(retraining) if first else step_seconds(retraining),
            stop=None if self.comparison is None or isinstance(self.method, BaseVector) else s.stop,
        )

    @property
    def _tuning_epochs(self) -> int:
        """Passes over the forget records before the student is trained on anything."""
        if isinstance(self.method, BaseVector):
            return self.method.tuning_epochs
        student = not isinstance(self.method, methods.Assisted)
        return self.settings.strengthen_epochs if student and self.method.strengthens else 0

    def _checks(self, steps: int, reading: Callable) -> float:
        """Seconds of reading the stopping rule's aim and the student at every check, if none ends the run."""
        found = self.comparison
        if found is None:
            return 0.0
        matches = found.matched.distinct_matches if found.matched else []
        answers = [self.encoder.encode(r) for r in found.questions for _ in range(2 + len(r.extra["perturbed_answer"]))]
        checks = 1 + -(-steps // check_every(self.settings, steps // self.settings.epochs))
        return reading(matches) + checks * reading([*found.records, *answers])

    def _watching(self, steps: int, reading: Callable) -> float:
        """Seconds of reading, now and then, the few records whose figures are shown meanwhile."""
        kept = self.retain or [_answered("", self.encoder.prompt(p), EVERYDAY_TOKENS) for p in everyday_prompts()]
        watched = [*(self.forget[:WATCHED] if self.comparison is None else ()), *kept[:WATCHED]]
        every = watch_every(check_every(self.settings, steps // self.settings.epochs), steps)
        return steps / every * reading(watched)

    def _steps(self, sets: Mapping[str, Sequence[Encoded]], epochs: int) -> list[Sequence[Unit]]:
        """The records of every optimizer step, as the run will draw them if no replayed answer is dropped."""
        sizes = {name: len(records) for name, records in sets.items()}
        first = pools(next(iter(sets.values())))
        planned = plan_steps(sizes, self.settings.batch_size, epochs, self.settings.seed, first)
        return [units(sets, step) for step in planned]

    def _positions(self, step: Sequence[Unit]) -> int:
        """Positions of a step's forward passes, padding included."""
        parts = split([longest(unit) for unit in step], self.args.gradient_accumulation_steps)
        return sum(sum(len(step[i]) for i in part) * longest(step[part[0]]) for part in parts if part)

    def _train(self, heaviest: Sequence[Unit]) -> tuple[Callable, Callable, Callable]:
        """Two steps on the same records, at a learning rate of zero; the second counts.

        Returns:
            seconds of a training as a function of its steps' records, of distillation and of strengthening (which
            needs no teacher), and of reading records without training.
        """
        sets: dict[str, list[Encoded]] = {}
        for name, e in (record for unit in heaviest for record in unit):
            sets.setdefault(name, []).append(e)
        swapped = floor_records(self.inputs, sets.get("forget", []), self.encoder, self.lm)
        # Something must be read, also for methods that cache nothing: it says how long measuring takes.
        parts = cached_parts(self.terms) - {Part("strengthened", "forget")} | {Part("original", next(iter(sets)))}
        started = time.perf_counter()
        fill_cache(self.lm, self.cache, sets, self.args, parts=parts, swapped=swapped)
        read = [*swapped, *(e for part in parts for e in sets[part.records] if part.states not in OF_TOKENS)]
        per_token = (time.perf_counter() - started) / sum(len(e.ids) for e in read)
        if self.method.cached and self.method.strengthens:  # any states will do: here the original's
            states = [(e.key, self.cache.read("original/forget", e.key)) for e in sets["forget"]]
            self.cache.write("strengthened/forget", states)
            if not self.lm.is_adapter:
                self.cache.write_head("strengthened", self.lm)
        if isinstance(self.method, methods.Assisted) or not self.method.trains:
            objective = Objective.of(sets, self.terms)
        else:
            objective = build_objective(sets, Teacher(self.cache, alpha=self.args.alpha), self.lm, self.args)
        clock = _Clock()
        started = time.perf_counter()
        fit(ObjectiveTrainer(self.lm, self.args, objective, [clock]))
        return (
            self._seconds(clock, heaviest, started),
            self._strengthening(sets.get("forget") or self.forget[: self.settings.batch_size]),
            lambda records: per_token * sum(len(e.ids) for e in records),
        )

    def _strengthening(self, forget: Sequence[Encoded]) -> Callable:
        if not self._tuning_epochs:
            return lambda steps: 0.0
        clock, started = _Clock(), time.perf_counter()
        fine_tune(self.lm, forget, replace(self.args, output_dir=str(self.folder / "strengthening")), [clock])
        return self._seconds(clock, [[("forget", e)] for e in forget], started)

    def _seconds(self, clock: _Clock, measured: Sequence[Unit], started: float) -> Callable:
        """Of a training as a function of its steps' records: what it takes before and after them, the optimizer's, and
        those of the passes by their positions.

        Args:
            started: when the measured training began; it has ended now.
        """
        apart = time.perf_counter() - started - (clock.ended - clock.began)
        per_position = clock.passes / self._positions(measured)

        def seconds(steps: Sequence[Sequence[Unit]]) -> float:
            each = (clock.optimizer + per_position * self._positions(step) for step in steps)
            return apart + sum(each) if steps else 0.0

        return seconds

    def _generating(self) -> Callable[[Sequence[int], Sequence[int]], float]:
        """Seconds of generating answers, as a function of the lengths of prompts and answers.

        A batch runs as long as its longest answer; a token costs a part that all rows share (reading the weights)
        and one of its own: two batch sizes tell them apart.
        """
        prompts = sorted((e.ids[: e.prompt_length] for e in self.forget), key=len)[-8:]
        few, many = prompts[:2], (prompts * 8)[:8]
        greedy(self.lm, few, max_new_tokens=1)  # warm
        seconds = {}
        for batch in (few, many):
            for n in (1, 1 + PROBED_TOKENS):
                started = time.perf_counter()
                greedy(self.lm, batch, max_new_tokens=n)
                seconds[len(batch), n] = time.perf_counter() - started
        token = {
            len(b): max(0.0, seconds[len(b), 1 + PROBED_TOKENS] - seconds[len(b), 1]) / PROBED_TOKENS
            for b in (few, many)
        }
        own = max(0.0, (token[len(many)] - token[len(few)]) / max(1, len(many) - len(few)))
        shared = max(0.0, token[len(many)] - own * len(many))
        prompt_token = seconds[len(many), 1] / sum(map(len, many))

        def total(prompt_lengths: Sequence[int], answer_lengths: Sequence[int]) -> float:
            found, at_once = prompt_token * sum(prompt_lengths), generation_batch_size(self.lm)
            order = sorted(range(len(prompt_lengths)), key=lambda i: -prompt_lengths[i])
            for start in range(0, len(order), at_once):
                rows = order[start : start + at_once]
                found += max(answer_lengths[i] for i in rows) * (shared + own * len(rows))
            return found

        return total

    def _writing(self) -> float:
        """Seconds of writing what a run writes: the original, its student and the model, of all or of the adapter."""
        weights = sum(p.numel() * p.element_size() for p in trainable_state(self.lm).values())
        merged = sum(p.numel() * p.element_size() for p in self.lm.model.parameters()) if self.settings.merge else 0
        block = bytes(16 << 20)
        started = time.perf_counter()
        (self.folder / "block").write_bytes(block)
        return (3 * weights + merged) * (time.perf_counter() - started) / len(block)


TRAINED = 4.0
"""Passes that a training step takes for one of reading: forwards, backwards, and the loss to the teacher."""


class _Rough(_Probe):
    """The same from less: a step is so many passes over its records, and replayed answers have half of their room."""

    def _said(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        return [(self.settings.max_new_tokens or ANSWER_TOKENS) // 2 or 1]

    def _train(self, heaviest: Sequence[Unit]) -> tuple[Callable, Callable, Callable]:
        read = [e for _, e in (record for unit in heaviest for record in unit)]
        started = time.perf_counter()
        answer_losses(self.lm, read)
        per_token = (time.perf_counter() - started) / sum(len(e.ids) for e in read)

        def training(steps: Sequence[Sequence[Unit]]) -> float:
            return TRAINED * per_token * sum(map(self._positions, steps))

        return training, training, lambda records: per_token * sum(len(e.ids) for e in records)


def _answered(key: str, prompt: Sequence[int], n: int) -> Encoded:
    """A prompt with an answer of n tokens."""
    answer = (False,) * len(prompt) + (True,) * n
    return Encoded(key, (*prompt, *[0] * n), answer, answer, len(prompt))


def _answer_lengths(records: Sequence[Encoded], settings: Settings) -> list[int]:
    """Tokens of the given answers, up to the longest that will be generated."""
    lengths = [len(e.ids) - e.prompt_length for e in records]
    return [min(settings.max_new_tokens or length, length) for length in lengths]


class _Clock(TrainerCallback):
    """Seconds of the last of several steps: of its records, read from disk, and passes; and of the optimizer."""

    began: float = 0.0
    """When the first step began."""
    ended: float
    """When the step before ended."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = self.began or self._now()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.passed = self._now()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step > 1:
            self.passes, self.optimizer = self.passed - self.ended, self._now() - self.passed
        self.ended = self._now()

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
