"""The phases of a run, in order: records → replay → cache → strengthening → cache → distillation → model.

Each phase writes its result into the run folder (:mod:`rkld.runfolder.folder`) and is skipped when that is found there.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rkld import methods
from rkld.errors import Diverged, UserError
from rkld.evaluation.generation import greedy
from rkld.evaluation.summary import Measurement, measure
from rkld.files import read_jsonl, write_json, write_jsonl
from rkld.losses.cache import HiddenCache
from rkld.losses.micro_batches import plan_steps
from rkld.losses.teacher import Teacher
from rkld.methods.two_models import pair, save_pair
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.saving import save_model
from rkld.models.state import change_state, fingerprint, restore_state, save_state, weights_hash
from rkld.pipeline.arguments import training_arguments
from rkld.pipeline.model_card import model_card
from rkld.pipeline.preparing import (
    Inputs,
    check_every,
    choose,
    floor_records,
    has_stop,
    load,
    measured_retain,
    read_inputs,
    stop_comparison,
)
from rkld.progress import Silent
from rkld.records.coverage import scored_share
from rkld.records.encoding import Encoded, Encoder
from rkld.records.record import Record
from rkld.records.refusals import read_refusals
from rkld.records.replay import own_words, screen
from rkld.registry import source_hash
from rkld.runfolder.folder import INTERMEDIATE, Run, remove
from rkld.stopping.calibration import calibrate
from rkld.stopping.callback import StoppingCallback
from rkld.stopping.registry import get_rule
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.identity import cache_identity
from rkld.training.strengthening import fill_cache, fine_tuning_steps, set_aside
from rkld.training.terms import build_objective, build_terms, cached_parts, with_refusals
from rkld.training.trainer import ObjectiveTrainer, fit

STUDENT = "checkpoints/student.safetensors"
"""The finished student's trained weights, inside the run folder."""


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
        settings: everything else, by the names of :class:`rkld.settings.unlearning.Settings`.

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
        self.run.same("method's file", source_hash(s.method))
        self.run.same("stopping rule's file", source_hash(s.stop))
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
        answered = [
            r.with_answer(text.strip()) for r, text in zip(self.inputs.forget, heard) if r.question and text.strip()
        ]
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
        sets = {
            name: [found[i] for i in sorted({i for step in steps for i in step[name]})] for name, found in sets.items()
        }
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

    def _aim(self, control: Any) -> dict[str, Any]:
        """Read what the rule aims at while the original is here; {} where the last step will be taken."""
        s, found = self.settings, stop_comparison(self.inputs, self.encoder)
        if found is None:
            if has_stop(s):
                advice = get_rule(s.stop).advice
                self._warn(f"There is nothing to compare with for --stop {s.stop}, so the last step is taken. {advice}")
            return {}

        def load_control() -> tuple[LanguageModel, Encoder]:
            return load(dataclasses.replace(s, model=s.control), control, control and self.lm.tokenizer)

        calibration = calibrate(get_rule(s.stop), found, self.lm, load_control if s.control else None)
        if calibration.refusal:
            self._warn(f"--stop {s.stop} cannot steer: {calibration.refusal}. The last step is taken.")
            return {}
        steering = found.material.steering
        return {
            "rule": s.stop,
            "source": found.source,
            "n": len(found.records),
            "aim": calibration.rule.aim,
            "margin": calibration.rule.margin,
            "original": calibration.original_gap,
            "steering": {"n": len(steering.left_out), "hashes": steering.hashes(self.run.manifest["salt"])},
        }

    def _stop(self, steps_per_epoch: int, folder: Path) -> StoppingCallback | None:
        """The checks of the distillation, if a rule is to end it."""
        aim = self.run.manifest["phases"]["stop"]
        if "rule" not in aim:
            return None
        found, every = stop_comparison(self.inputs, self.encoder), check_every(self.settings, steps_per_epoch)
        assert found is not None  # the same inputs gave the aim
        return StoppingCallback(found.read, get_rule(self.settings.stop)(aim["aim"]), every, folder)

    def _stopped(self, stop: StoppingCallback) -> dict[str, Any]:
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
            self.progress.say(
                f"Stopped by {aim['rule']}: step {decision.step} is taken, {decision.gap:+.3f} from its aim"
            )
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
        return {"weights": weights_hash(folder), "metrics": {name: m.values() for name, m in found.items()}}

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
