"""The phases of a run, in order: records → replay → cache → strengthening → cache → distillation → model.

Each phase writes its result into the run folder (:mod:`rkld.run`) and is skipped when that is found there.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.training_args import OptimizerNames

from . import methods
from .calibration import Calibration, Evidence, Stop, calibration, scorable
from .coverage import scored_share
from .encoding import Encoded, Encoder
from .errors import Diverged, UserError, nearest
from .evaluation.generation import greedy
from .evaluation.likelihood import probability
from .evaluation.summary import Measurement, measure
from .files import read_jsonl, write_json, write_jsonl
from .floor import swapped_records
from .models import (
    LanguageModel, change_state, fingerprint, load_model, new_adapter, restore_state, save_model, save_pair, save_state,
)  # fmt: skip
from .objective import plan_steps
from .pair import PairForCausalLM, pair
from .progress import Silent, TrainingBar
from .records import Record, check_disjoint, identifiers, mentions, read_prompts, read_records, read_subjects
from .refusals import read_refusals
from .replay import generic_prompts, own_words, screen, swapped_prompts
from .run import INTERMEDIATE, Run, remove
from .settings import Settings, make
from .strengthening import cache_identity, fill_cache, fine_tuning_steps, set_aside
from .teacher import HiddenCache, Teacher
from .trainer import (
    ObjectiveTrainer, RKLDConfig, build_objective, build_terms, cached_parts, fit, with_refusals,
)  # fmt: skip


MEASURED = 100
"""Retain records that are measured before and after, drawn by the seed; of the forget records all are."""

SMALLEST = 4
"""Forget records of a micro-batch on a CPU: a step of 8 took 7 % less time in two parts, 2 % less in four."""

STUDENT = "checkpoints/student.safetensors"
"""The finished student's trained weights, inside the run folder."""

_COMPARED_WITH = {
    "placebo": "Name the person with --subject, or give records of others with --holdout.",
    "exposure": "Give records of others with --holdout, or 'perturbed_answer' in the forget records.",
}


@dataclass(frozen=True)
class Inputs:
    """What a run works on, read and checked; no model has been touched."""

    settings: Settings
    forget: list[Record]
    retain: list[Record]
    prompts: list[Record]
    identifiers: tuple[str, ...]
    holdout: list[Record]


@dataclass(frozen=True)
class Result:
    """What a run made.

    Attributes:
        model_path: folder of the unlearned model or adapter, ready for ``from_pretrained``.
        run: the run folder.
        metrics: {"before": …, "after": …} → {"forget": …, "retain": …} → values.
        answers: per forget record shown: question, before, after.
        warnings: what the user should know of the result.
    """

    model_path: Path
    run: Path
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    answers: Sequence[Mapping[str, str]] = field(repr=False)
    warnings: Sequence[str] = ()


def read_inputs(settings: Settings, forget=None, retain=None, replay=None, holdout=None) -> Inputs:
    """Read and check all records. Data sets given as objects stand in for the files of the settings.

    Raises:
        UserError: anything that is wrong with them.
    """
    method = methods.get_method(settings.method, settings.method_arg)
    if method.refusals:
        read_refusals(settings.refusals)
    optimizers = [name.value for name in OptimizerNames]
    if settings.optim not in optimizers:
        raise UserError(f"unknown optimizer '{settings.optim}'.{nearest(settings.optim, optimizers)}")
    subjects = read_subjects(settings.subject)
    forget_records = read_records(forget if forget is not None else settings.forget, "forget")
    source = retain if retain is not None else settings.retain
    retain_records = read_records(source, "retain") if source is not None else []
    check_disjoint(forget_records, retain_records)
    known = identifiers(forget_records, subjects)
    strangers = _read_holdout(settings, holdout, forget_records, retain_records, known)
    if replay is not None:
        prompts = read_prompts(replay)
    elif settings.replay == "none":
        prompts = []
    elif settings.replay == "auto":
        prompts = swapped_prompts(forget_records, known, settings.seed) + generic_prompts()
    else:
        prompts = read_prompts(settings.replay)
    # A prompt about the person would have the student rehearse the original's answer to it.
    prompts = [p for p in prompts if not any(mentions(turn.content, known) for turn in p.turns)]
    there = {"retain": retain_records, "replay": prompts if settings.replay_weight else []}
    method.require([name for name, found in there.items() if found], settings.retain_loss)
    return Inputs(settings, forget_records, retain_records, prompts, known, strangers)


def _read_holdout(
    settings: Settings, source, forget: Sequence[Record], retain: Sequence[Record], known: Sequence[str]
) -> list[Record]:
    source = source if source is not None else settings.holdout
    if source is None:
        return []
    records = read_records(source, "holdout")
    check_disjoint(forget, records, ("forget", "holdout"))
    check_disjoint(retain, records, ("retain", "holdout"))
    strangers = [r for r in records if not any(mentions(turn.content, known) for turn in r.turns)]
    if not strangers:
        raise UserError(f"all {len(records)} holdout records mention the person: --holdout is for records of others.")
    return strangers


def measured_retain(inputs: Inputs) -> list[Record]:
    """Of the retain records those that are measured."""
    return random.Random(inputs.settings.seed).sample(inputs.retain, min(MEASURED, len(inputs.retain)))


def load(settings: Settings, model=None, tokenizer=None) -> tuple[LanguageModel, Encoder]:
    """The model to train and the encoder of its records, as the settings say."""
    lm, encoder = opened(settings, model if model is not None else settings.model, tokenizer)
    if isinstance(lm.inner, PairForCausalLM):
        raise UserError(f"{settings.model} is two models that speak as one; these can be measured, but not trained.")
    return lm, encoder


def opened(settings, model, tokenizer=None) -> tuple[LanguageModel, Encoder]:
    """A model and the encoder of its records.

    Args:
        settings: of a run or of an audit: both say how models are loaded and records written.
    """
    lm = load_model(
        model,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        chat_template=settings.chat_template,
        tokenizer=tokenizer,
    )
    return lm, encoder_of(settings, lm.tokenizer, lm.context_length)


def encoder_of(settings, tokenizer, context_length: int | None = None) -> Encoder:
    return Encoder(
        tokenizer,
        system_prompt=settings.system_prompt,
        template_date=settings.template_date,
        context_length=context_length,
        max_length=settings.max_length,
    )


def micro_batches(batch_size: int) -> int:
    """Parts of an optimizer step where nobody says. On a CPU of :data:`SMALLEST` forget records or more: records of a
    length together need less padding, and nothing is gained by more of them at once."""
    most = 1 if torch.cuda.is_available() else max(1, batch_size // SMALLEST)
    return max(parts for parts in range(1, most + 1) if batch_size % parts == 0)


def training_arguments(settings: Settings, folder: Path, epochs: int, lr: float) -> RKLDConfig:
    """The settings as the Trainer takes them, for strengthening and for distillation."""
    s, bf16, parts = settings, settings.bf16, settings.accumulation or micro_batches(settings.batch_size)
    if bf16 is None:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return RKLDConfig(
        output_dir=str(folder),
        num_train_epochs=epochs,
        learning_rate=lr,
        per_device_train_batch_size=s.batch_size // parts,
        gradient_accumulation_steps=parts,
        method=s.method,
        method_arg=list(s.method_arg),
        alpha=s.alpha,
        score=s.score,
        retain_loss=s.retain_loss,
        retain_weight=s.retain_weight,
        replay_weight=s.replay_weight,
        keep_weight=s.keep_weight,
        seed=s.seed,
        optim=s.optim,
        bf16=bf16,
        checkpoint_minutes=s.checkpoint_minutes,
        logging_steps=10 if torch.cuda.is_available() else 1,  # to read the loss halts a GPU
        save_total_limit=1,
        **({"gradient_checkpointing": True} if s.gradient_checkpointing else {}),
    )


def floor_records(
    inputs: Inputs, records: Sequence[Record], encoded: Sequence[Encoded], encoder: Encoder
) -> list[Encoded]:
    """The forget records about other people, where the teacher gets a floor (:mod:`rkld.floor`); else none.

    Args:
        records: those that ``encoded`` were made from, and maybe others.
    """
    s = inputs.settings
    if not (s.floor and s.score == "spans" and "strengthened" in methods.get_method(s.method, s.method_arg).cached):
        return []
    by_key = {record.key: record for record in records}
    return swapped_records([by_key[e.key] for e in encoded], encoded, encoder, inputs.identifiers, s.seed)


def steered(inputs: Inputs, encoder: Encoder) -> Calibration | None:
    """What decides when to stop; None where the last step is taken."""
    s, i = inputs.settings, inputs
    if s.stop == "last" or isinstance(methods.get_method(s.method, s.method_arg), methods.Assisted):
        return None
    return calibration(s.stop, i.forget, i.holdout, i.retain, i.identifiers, encoder, s.score, s.seed)


def check_every(settings: Settings, steps_per_epoch: int) -> int:
    """Optimizer steps between two checks of the stopping rule."""
    return settings.check_every or max(1, steps_per_epoch // 2)


def choose(data: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Settings, and apart from them what was given as an object rather than by name."""
    objects = {name: value for name, value in data.items() if value is not None and not isinstance(value, str | Path)}
    names = {n: f"<{type(value).__name__}>" if n in objects else value and str(value) for n, value in data.items()}
    for name in ("model", "forget"):
        if not names[name]:
            raise UserError(f"No {name} is given: rkld.unlearn(model, forget=…) and rkld.check need both.")
    return make({**settings, **names}, "arguments"), objects


def unlearn(
    model: Any = None,
    forget: Any = None,
    *,
    retain: Any = None,
    replay: Any = "auto",
    holdout: Any = None,
    control: Any = None,
    processing_class: Any = None,
    progress: Silent | None = None,
    callbacks: Sequence = (),
    **settings: Any,
) -> Result:
    """Make a model forget the records; what every face of rkld calls.

    Args:
        model: folder, hub name, alias, adapter folder, or a loaded model (trained in place).
        forget, retain: a file, a data set, a ``datasets.Dataset`` or a list of dicts.
        replay: "auto", "none", a file, or prompts as data like the others.
        holdout: records of people the model was never trained on, in the same forms (``stop="placebo"``).
        control: a model that has never seen the records, in the forms of ``model`` (``stop="control"``).
        processing_class: the tokenizer, where ``model`` is an object.
        progress: shows what is going on (:class:`rkld.progress.Bars` in a terminal).
        callbacks: :class:`transformers.TrainerCallback` objects for the distillation.
        settings: everything else, by the names of :class:`rkld.settings.Settings`.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    data = {"forget": forget, "retain": retain, "replay": replay, "holdout": holdout}
    chosen, objects = choose({"model": model, "control": control, **data}, settings)
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise UserError(
            f"this was started as {processes} processes, each of which would write {chosen.run_folder}. Start it as one; "
            "to train on several GPUs, give rkld.build_teacher and rkld.RKLDTrainer to torchrun or accelerate."
        )
    inputs = read_inputs(chosen, **{name: objects.get(name) for name in data})
    work = _Work(inputs, Run(chosen), progress or Silent(), callbacks)
    if work.run.done("model"):
        work.progress.say(f"{work.run.folder} is finished already")
        if not work.run.purged:  # with the data its hashes are gone, too
            work.same_records()
        work.clean()
        return work.result()
    return work.go(objects.get("model"), processing_class, objects.get("control"))


class _Work:
    """One run: the phases share the model, the encoder and the run folder."""

    def __init__(self, inputs: Inputs, run: Run, progress: Silent, callbacks: Sequence):
        self.inputs, self.settings, self.run = inputs, inputs.settings, run
        self.progress, self.callbacks = progress, callbacks
        self.method = methods.get_method(self.settings.method, self.settings.method_arg)

    def go(self, model, tokenizer, control=None) -> Result:
        s = self.settings
        torch.manual_seed(s.seed)
        self.progress.say(f"Loading {s.model}")
        self.lm, self.encoder = load(s, model, tokenizer)
        self.forget = self._encode(self.inputs.forget, s.score)
        self.retain = self._encode(self.inputs.retain, "answer")
        if s.merge and not (s.lora or self.lm.is_adapter):
            raise UserError("--merge has nothing to merge: the model is no adapter, and --lora is not given.")
        if isinstance(self.method, methods.WeightArithmetic) and (s.lora or self.lm.is_adapter):
            raise UserError(
                f"the method {s.method} changes all weights, and an adapter's difference is a product of two factors: "
                "leave out --lora, or merge the adapter first."
            )
        scored_share(self.encoder, self.inputs.forget, self.forget, self.inputs.identifiers).require(s.score)
        for prompt in self.inputs.prompts:
            self.encoder.prompt(prompt)

        self.run.start()
        self.same_records()
        self.run.same("model", fingerprint(self.lm))
        self.run.same("template", self.encoder.fingerprint)
        self.run.same("method's file", methods.source_hash(s.method))
        self.run.manifest.setdefault("warnings", [])
        self.run.save()
        self._phase("before", self._before)
        self._phase("stop", lambda: self._aim(control))
        if s.lora:
            torch.manual_seed(s.seed)  # the adapter's random half is the same in a resumed run
            self.lm = new_adapter(self.lm, rank=s.lora_rank)
        self._phase("own_words", self._own_words)
        self._phase("replay", self._replay)
        self._phase("distillation", self._distil)
        self._phase("model", self._write_model)
        self.clean()
        return self.result()

    def clean(self) -> None:
        """Remove what only the phases needed; also after a run that was killed before it came to this."""
        if not self.settings.keep_files and remove(self.run.folder, INTERMEDIATE):
            self.run.save()

    # Records -----------------------------------------------------------------------------------------------------

    def _encode(self, records: Sequence[Record], score: str) -> list[Encoded]:
        return [self.encoder.encode(record, score) for record in records]

    def same_records(self) -> None:
        """Note the inputs at the first start; refuse others when the run is started again."""
        i, run = self.inputs, self.run
        run.same("subject", run.salted(i.identifiers))
        sets = {"forget records": i.forget, "retain records": i.retain, "replay prompts": i.prompts}
        for name, records in {**sets, **({"holdout records": i.holdout} if i.holdout else {})}.items():
            contents = [(r.form, [dataclasses.astuple(t) for t in r.turns], r.spans) for r in records]
            run.same(name, {"n": len(records), "hash": run.salted(contents)})

    def _phase(self, name: str, work) -> None:
        if not self.run.done(name):
            started = time.time()
            facts = work() or {}
            self.run.finish(name, started, **facts)

    def _warn(self, text: str) -> None:
        """Say it now, and keep it for the end, where it will be read."""
        self.progress.say(f"Warning: {text}")
        self.run.manifest["warnings"].append(text)

    def _answers(self, records: Sequence[Record], title: str) -> list[Record]:
        """The model's own greedy answers, as records."""
        with self.progress.bar(title, len(records)) as advance:
            made = greedy(
                self.lm,
                [self.encoder.prompt(r) for r in records],
                max_new_tokens=self.settings.max_new_tokens,
                progress=advance,
            )
        return [record.with_answer(generated.text.strip()) for record, generated in zip(records, made)]

    def _own_words(self) -> dict:
        if self.settings.own_words == "no":
            return {}
        heard = json.loads((self.run.folder / "answers.json").read_text(encoding="utf-8"))["before"]
        answered = [r.with_answer(text.strip()) for r, text in zip(self.inputs.forget, heard) if r.question and text.strip()]
        said = own_words(answered, self.inputs.forget, self.inputs.identifiers)
        self.progress.say(f"Own words: {len(said)} of {len(self.inputs.forget)} answers hold facts and are unlearned")
        _write_records(self.run.folder / "own_words.jsonl", said)
        return {"records": len(said)}

    def _replay(self) -> dict:
        """Answer the prompts; those that would rehearse the person are dropped."""
        s = self.settings
        # No more prompts than the run will draw: the rest would be answered for nothing.
        steps = s.epochs * -(-len(self.inputs.forget) // s.batch_size)
        order = torch.randperm(len(self.inputs.prompts), generator=torch.Generator().manual_seed(s.seed)).tolist()
        prompts = [self.inputs.prompts[i] for i in sorted(order[: steps * s.batch_size])]
        if not prompts or not s.replay_weight:
            return {}
        stay, dropped = screen(self._answers(prompts, "replay"), self.inputs.forget, self.inputs.identifiers)
        if dropped:
            self.progress.say(f"Replay: {len(stay)} answers kept, {sum(dropped.values())} dropped ({dict(dropped)})")
        if not stay:
            self._warn("No replayed answer could be used, so nothing holds the rest of the model in place. Give other "
                       "prompts with --replay FILE.")  # fmt: skip
        _write_records(self.run.folder / "replay.jsonl", stay)
        return {"prompts": len(prompts), "kept": len(stay), "dropped": dict(dropped)}

    # The teacher -------------------------------------------------------------------------------------------------

    def _sets(self) -> dict[str, list[Encoded]]:
        """The records of every term, each set cut down to those that some step will draw."""
        s = self.settings
        own = _read_records(self.run.folder / "own_words.jsonl")
        written = [] if s.own_words == "replace" and own else list(self.inputs.forget)
        sets = {"forget": self._encode(written + own, s.score)}
        if replay := _read_records(self.run.folder / "replay.jsonl"):
            sets["replay"] = self._encode(replay, "answer")
        if self.retain:
            sets["retain"] = self.retain
        steps = plan_steps({name: len(found) for name, found in sets.items()}, s.batch_size, s.epochs, s.seed)
        sets = {name: [found[i] for i in sorted({i for step in steps for i in step[name]})] for name, found in sets.items()}
        records = {"forget": written + own, "retain": self.inputs.retain}
        refusals = read_refusals(s.refusals) if self.method.refusals else ()
        return with_refusals(sets, records, self.encoder, self.method, refusals, s.seed)

    def _strengthening(self) -> RKLDConfig:
        s, folder = self.settings, self.run.folder / "strengthened"
        return training_arguments(s, folder, s.strengthen_epochs, s.strengthen_lr or s.peak_lr)

    def _teacher(self, sets: Mapping[str, list[Encoded]]) -> Teacher:
        s, own = self.settings, _read_records(self.run.folder / "own_words.jsonl")
        args = self._strengthening()
        folder = Path(s.teacher) if s.teacher else self.run.folder / "teacher"
        swapped = floor_records(self.inputs, [*self.inputs.forget, *own], sets["forget"], self.encoder)
        cache = HiddenCache(folder, cache_identity(self.lm, sets, args, swapped))
        teacher = Teacher(cache, alpha=s.alpha)
        parts = cached_parts(build_terms(sets, teacher, self.lm, args))
        fill_cache(self.lm, cache, sets, args, parts=parts, swapped=swapped, progress=self.progress)
        return teacher

    # When to stop ------------------------------------------------------------------------------------------------

    def _aim(self, control) -> dict:
        """Read what the rule aims at while the original is here; {} where the last step will be taken."""
        s, found = self.settings, steered(self.inputs, self.encoder)
        if found is None:
            if s.stop != "last" and not isinstance(self.method, methods.Assisted):
                self._warn(f"There is nothing to compare with for --stop {s.stop}, so the last step is taken. "
                           f"{_COMPARED_WITH[s.stop]}")  # fmt: skip
            return {}
        aim = None
        if found.placebo:
            aim = found.placebo.level(self.lm)
        elif s.stop == "control":
            other, encoder = load(dataclasses.replace(s, model=s.control), control, control and self.lm.tokenizer)
            records = [scorable(record, encoder, s.score) for record in found.steering.records]
            aim = float(probability(other, records, mask="scored").mean())
        original = found.check(self.lm, self.encoder, 0)
        if why := found.refusal(aim, original):
            self._warn(f"--stop {s.stop} cannot steer: {why}. The last step is taken.")
            return {}
        rule = found.rule(aim)
        return {
            "rule": s.stop, "source": found.source, "n": len(found.records), "aim": aim,
            "margin": rule.margin, "original": rule.gap(original), "steering": list(found.steering.keys),
        }  # fmt: skip

    def _stop(self, steps_per_epoch: int, folder: Path) -> Stop | None:
        """The checks of the distillation, if a rule is to end it."""
        aim = self.run.manifest["phases"]["stop"]
        if "rule" not in aim:
            return None
        found, every = steered(self.inputs, self.encoder), check_every(self.settings, steps_per_epoch)

        def check(step: int) -> Evidence:
            return found.check(self.lm, self.encoder, step)

        return Stop(self.lm, check, found.rule(aim["aim"]), every, folder)

    def _stopped(self, stop: Stop) -> dict:
        """Put the chosen check's state back, and note the decision with its evidence."""
        aim, decision = self.run.manifest["phases"]["stop"], stop.decision
        restore_state(self.lm, stop.best)
        for one in stop.evidence:
            line = {"phase": "stop", "rule": aim["rule"], "gap": stop.rule.gap(one)}
            self.run.record({**line, **dataclasses.asdict(one)})
        if not decision.stop:
            self._warn(f"--stop {aim['rule']} was not reached: at the nearest check, step {decision.step}, the records "
                       f"are still {decision.gap:+.3f} from its aim. Raise --epochs or --lr.")  # fmt: skip
        else:
            self.progress.say(f"Stopped by {aim['rule']}: step {decision.step} is taken, {decision.gap:+.3f} from its aim")
        return {
            "steering": aim["steering"],
            "stop": {**dataclasses.asdict(decision), "rule": aim["rule"], "checks": len(stop.evidence)},
        }

    # Distillation ------------------------------------------------------------------------------------------------

    def _distil(self) -> dict:
        s, sets = self.settings, self._sets()
        if isinstance(self.method, methods.Assisted):
            return self._assist(self.method, sets)
        teacher = self._teacher(sets)
        args = training_arguments(s, self.run.folder / "checkpoints", s.epochs, s.peak_lr)
        objective = build_objective(sets, teacher, self.lm, args)
        steps = fine_tuning_steps(sets["forget"], args)
        stop = self._stop(steps // s.epochs, Path(args.output_dir))
        with self.progress.bar("distillation", steps) as advance:
            given = [TrainingBar(advance), *([stop] if stop else []), *self.callbacks]
            trainer = ObjectiveTrainer(self.lm, args, objective, given)
            fit(trainer)
        for line in trainer.state.log_history:
            if "loss" in line:
                self.run.record({"phase": "distillation", **line})
        # The next phase may be started again on its own: the student must be on disk.
        Path(args.output_dir).mkdir(exist_ok=True)
        facts = self._stopped(stop) if stop else {}
        save_state(self.lm, self.run.folder / STUDENT)
        return {"steps": trainer.state.global_step, **facts}

    def _assist(self, method: methods.Assisted, sets: Mapping[str, list[Encoded]]) -> dict:
        """Train the assistant of a method without a student, and keep what the unlearned model is made from.

        That is its weights where these are a function of both models', else the assistant's.
        """
        teacher, args = self._teacher(sets), self._strengthening()
        objective = build_objective(sets, teacher, self.lm, args)
        (self.run.folder / STUDENT).parent.mkdir(exist_ok=True)
        with set_aside(self.lm, self.run.folder / "strengthened"):
            with self.progress.bar("strengthening", fine_tuning_steps(sets["forget"], args)) as advance:
                trainer = ObjectiveTrainer(self.lm, args, objective, [TrainingBar(advance)])
                fit(trainer)
            if isinstance(method, methods.WeightArithmetic):
                change_state(self.lm, self.run.folder / "strengthened" / "original.safetensors", method.weights)
            save_state(self.lm, self.run.folder / STUDENT)
        return {"steps": trainer.state.global_step}

    # Evidence and model ------------------------------------------------------------------------------------------

    def _measure(self, when: str) -> dict[str, Measurement]:
        found = {}
        for name, records in {"forget": self.inputs.forget, "retain": measured_retain(self.inputs)}.items():
            if records:
                with self.progress.bar(f"{when}: {name}", len(records)) as advance:
                    found[name] = measure(
                        self.lm, self.encoder, records, max_new_tokens=self.settings.max_new_tokens, progress=advance
                    )
                self.run.record({"phase": when, "set": name, **found[name].values()})
        return found

    def _before(self) -> dict:
        found = self._measure("before")
        write_json(self.run.folder / "answers.json", {"before": found["forget"].answers})
        return {"metrics": {name: m.values() for name, m in found.items()}}

    def _write_model(self) -> dict:
        original = self.lm
        if paired := isinstance(self.method, methods.LogitArithmetic):
            assistant = dataclasses.replace(original, model=copy.deepcopy(original.model))
            restore_state(assistant, self.run.folder / STUDENT)
            self.lm = pair(original, assistant, self.method, self.settings.alpha)
            self._warn("The unlearned model is two models, and model/assistant knows the records better than the original "
                       "did: whoever has the folder has them.")  # fmt: skip
        else:
            restore_state(self.lm, self.run.folder / STUDENT)
        found = self._measure("after")
        if not all(math.isfinite(m.probability) for m in found.values()):
            raise Diverged("the probability of the answers is no number")
        answers = json.loads((self.run.folder / "answers.json").read_text(encoding="utf-8"))
        write_json(self.run.folder / "answers.json", {**answers, "after": found["forget"].answers})
        before = self.run.manifest["phases"]["before"]["metrics"]["forget"]["probability"]
        if found["forget"].probability > before / 2 and self.settings.score != "spans":
            self._warn(f"The records are still known: probability {before:.3f} before, {found['forget'].probability:.3f} "
                       "after. Raise --epochs or --lr.")  # fmt: skip
        card = model_card(self.settings, self.run.manifest)
        folder, merge = self.run.folder / "model", self.settings.merge
        if paired:
            facts = {name: getattr(self.settings, name) for name in ("method", "method_arg", "alpha")}
            save_pair(original, assistant, facts, folder, merge=merge, card=card)
        else:
            save_model(self.lm, folder, merge=merge, card=card)
        return {"metrics": {name: m.values() for name, m in found.items()}}

    def result(self) -> Result:
        phases, folder = self.run.manifest["phases"], self.run.folder
        path = folder / "answers.json"
        said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"before": [], "after": []}
        return Result(
            model_path=folder / "model",
            run=folder,
            metrics={"before": phases["before"]["metrics"], "after": phases["model"]["metrics"]},
            answers=[
                {"question": record.question, "before": before, "after": after}
                for record, before, after in zip(self.inputs.forget, said["before"], said["after"])
            ],
            warnings=self.run.manifest.get("warnings", []),
        )


def _write_records(path: Path, records: Sequence[Record]) -> None:
    write_jsonl(path, (record.to_dict() for record in records))


def _read_records(path: Path) -> list[Record]:
    return [Record.from_dict(row) for row in read_jsonl(path)]


def model_card(settings: Settings, manifest: Mapping[str, Any]) -> str:
    """What was done to the model, and nothing about whom."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    n = manifest["records"]["forget records"]["n"]
    method = methods.get_method(settings.method, settings.method_arg)
    return f"""---
library_name: transformers
tags: [unlearning, rkld]
---
# Unlearned with rkld

Some records ({n}) were unlearned from this model. Method: {method.name}.
Settings: alpha {settings.alpha:g}, {settings.epochs} epochs at a peak learning rate of {settings.peak_lr:g}, batch size
{settings.batch_size}, scored tokens: {settings.score}, self-replay: {"none" if settings.replay == "none" else "yes"}.

Made with {versions}. The run's manifest holds the evidence; this card holds no personal data.
"""
