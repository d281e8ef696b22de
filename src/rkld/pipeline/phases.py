"""The phases of a run, in their order: :data:`PHASES`.

    before → stop → own_words → rewordings → replay → teacher → base → distillation → instead → model → after

Each says what it needs of those before it, what it writes into the run folder, and what of that one process alone does
(in a run of several). :mod:`rkld.pipeline.running` goes through them, and skips those that are noted as done.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import methods, processes
from rkld.errors import Diverged, NotFinite, UserError
from rkld.evaluation.frames import facts_said_otherwise
from rkld.evaluation.generation import greedy
from rkld.evaluation.summary import Measurement, measure
from rkld.files import make_folder, read_jsonl, write_jsonl
from rkld.losses.micro_batches import plan_steps, pools, steps_per_epoch
from rkld.methods.base_vector import BaseVector
from rkld.methods.msa import ModelStateArithmetic
from rkld.methods.two_models import save_two_models, two_models
from rkld.models.adapters import load_saved_adapter, new_adapter, reach
from rkld.models.invented_names import names_like
from rkld.models.language_model import LanguageModel
from rkld.models.modes import dtype_name
from rkld.models.saving import merged, save_model
from rkld.models.sharded import is_sharded
from rkld.models.sharding import in_shards
from rkld.models.source import adapter_dtype, source_dtype
from rkld.models.state import change_state, restore_state, save_state
from rkld.models.writing import adapter_of, gathered_weights
from rkld.pipeline import health
from rkld.pipeline.arguments import training_arguments
from rkld.pipeline.model_card import model_card
from rkld.pipeline.preparing import (
    Inputs,
    Model,
    Prepared,
    check_every,
    encode_all,
    floor_records,
    load,
    load_base,
    load_with_encoder,
    make_encoder,
    measured_retain,
    unsteered,
)
from rkld.pipeline.replaying import kept_answers
from rkld.pipeline.rewording import make_rewordings, score_of, wording_hashes
from rkld.pipeline.rounding import HELD, furthest, round_best, saved_dtype
from rkld.pipeline.subtracting import KeepSubtracting, read_subtracted, try_betas
from rkld.pipeline.watching import WATCHED, Watch, watch_every
from rkld.pipeline.writers import write_rewordings
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded, Encoder, records_of
from rkld.records.record import Record, by_answer
from rkld.records.refusals import read_refusals
from rkld.records.replay import (
    ANSWER_TOKENS,
    fluent,
    held,
    mark_facts,
    nearest_most,
    own_words,
    screen,
    trimmed,
    whole_words,
)
from rkld.records.strangers import known_answers, marks, refusal_shares, unknown_records
from rkld.registry import file_and_name
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.folder import ANSWERS, Run, remove
from rkld.runfolder.kept_answers import Answer
from rkld.runfolder.lock import MODEL
from rkld.runfolder.manifest import METRICS
from rkld.settings.table import peak_lr
from rkld.settings.unlearning import Settings
from rkld.stopping.calibration import calibrate
from rkld.stopping.callback import StoppingCallback, read_checks
from rkld.stopping.comparison import Comparison
from rkld.stopping.evidence import Evidence
from rkld.stopping.registry import get_rule
from rkld.stopping.steering import steering_hashes
from rkld.teacher.cache import INDEX_FILE, HiddenCache, read_index
from rkld.teacher.logits import Teacher
from rkld.training.callbacks import FORGET, GAP, RETAINED, TrainingBar
from rkld.training.config import RKLDConfig, of_strengthening
from rkld.training.identity import cache_identity
from rkld.training.instead import teach_refusals
from rkld.training.own_answers import DrawOwnAnswers
from rkld.training.strengthening import fill_cache, fine_tuning_steps, set_aside
from rkld.training.terms import build_objective, build_terms, cached_parts, with_other_answers
from rkld.training.trackers import trackers
from rkld.training.trainer import ObjectiveTrainer, fit
from rkld.training.weight_vector import LoadBase, as_base, subtract, write_vector

STUDENT = "checkpoints/student.safetensors"
"""The distilled student's trained weights, inside the run folder."""

REFUSING = "checkpoints/refusing.safetensors"
"""The same once it has learned to refuse."""

LOOK_ALIKES = 200
"""Names of nobody, of the form of the person's, whose words join those that strangers' names are made of.

Without them a tiny model refused .85 of the person's questions and .22 of other strangers'; with them .85 and
.75 (.47 on another processor)."""

ASKED, OTHERS = 20, 3
"""Questions about the person whose refusals are counted, and strangers about whom each is asked."""

START = "strengthened/start.safetensors"
"""The base's trained weights, where the student starts with them."""

VECTOR = "strengthened/vector.safetensors"
"""What the forget records change in the base."""

OTHERS_VECTOR = "strengthened/others-vector.safetensors"
"""What the retain records change in the base."""

SMALL_REACH = 0.5
"""Share of the inner weights below which a run warns of how little an adapter reaches."""


@dataclass
class Work:
    """What the phases of one run share: what was prepared, and the model that is trained."""

    inputs: Inputs
    method: methods.Method
    encoder: Encoder
    forget: Sequence[Encoded]
    retain: Sequence[Encoded]
    comparison: Comparison | None
    """What the stopping rule reads; None where the last step is taken."""
    run: Run
    progress: NoProgress
    callbacks: Sequence[TrainerCallback]
    control: Model | None
    """A loaded model in the place of ``--control``."""
    _student: LanguageModel | None
    _teacher: Teacher | None = None
    _adapted: bool = False

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        run: Run,
        progress: NoProgress,
        callbacks: Sequence[TrainerCallback] = (),
        control: Model | None = None,
    ) -> Work:
        """Of a prepared run, whose model it takes over: it is the original, until it is trained."""
        p = prepared
        return cls(
            p.inputs, p.method, p.encoder, p.forget, p.retain, p.comparison, run, progress, callbacks, control, p.lm
        )

    @property
    def student(self) -> LanguageModel:
        """The model that is trained: the original, with ``--lora`` under the adapter of :meth:`put_on_adapter`."""
        assert self._student is not None, "the student was let go"
        return self._student

    def put_on_adapter(self) -> None:
        """With ``--lora``: give the original its adapter, the same in a resumed run; one in shards has it."""
        if not self.settings.lora or self._adapted:
            return
        self._adapted = True
        if not self.student.is_adapter:
            torch.manual_seed(self.settings.seed)
            self._student = new_adapter(self.student, rank=self.settings.lora_rank)
        elif not is_sharded(self.student.model):  # one of the user's own
            return
        share = reach(self.student)
        self.progress.say(f"LoRA: the adapter changes layers that hold {share:.0%} of the inner weights")
        if share < SMALL_REACH:
            self.warn(
                f"the adapter reaches {share:.0%} of the model's inner weights: what the others know of the person "
                "is forgotten only as far as those layers can cover it. Train without --lora where memory allows."
            )

    def let_go(self) -> None:
        """Free the memory of student and teacher."""
        self._student = self._teacher = None
        gc.collect()

    @property
    def settings(self) -> Settings:
        return self.inputs.settings

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def notes(self) -> dict[str, dict[str, Any]]:
        """Phase → what it has noted."""
        phases: dict[str, dict[str, Any]] = self.run.manifest["phases"]
        return phases

    def warn(self, text: str) -> None:
        """Say it now, and keep it for the end, where it will be read."""
        self.progress.say(f"Warning: {text}")
        if text not in self.run.manifest["warnings"]:  # by a phase that is done again
            self.run.manifest["warnings"].append(text)

    def answered(
        self,
        records: Sequence[Record],
        title: str,
        max_new_tokens: int | None = None,
        lm: LanguageModel | None = None,
    ) -> list[Record]:
        """The records with the greedy answers of ``lm``, by default the student."""
        found = self.said(records, title, max_new_tokens, lm)
        return [self.with_own_answer(record, said.text, cut=said.cut) for record, said in zip(records, found)]

    def said(
        self,
        records: Sequence[Record],
        title: str,
        max_new_tokens: int | None = None,
        lm: LanguageModel | None = None,
    ) -> list[Answer]:
        """The greedy answers of ``lm``, by default the student; of those that were cut what is whole."""
        with self.progress.bar(title, len(records)) as advance:
            made = greedy(
                lm or self.student,
                [self.encoder.prompt(record) for record in records],
                max_new_tokens=max_new_tokens or self.settings.max_new_tokens or ANSWER_TOKENS,
                progress=advance,
            )
        return [Answer(said.text if said.finished else trimmed(said.text), not said.finished) for said in made]

    def with_own_answer(self, record: Record, text: str, *, cut: bool) -> Record:
        """A record with what the model answered; without an end mark where that was cut."""
        text = text.strip()
        return self.encoder.answered(record, text, cut=cut) if text else record.with_answer("")

    def measured(self, when: str, lm: LanguageModel, encoder: Encoder) -> dict[str, Measurement]:
        """The figures of a model, set by set; one line each in metrics.jsonl."""
        found = {}
        self.run.withdraw(when)  # of a phase that was interrupted
        for name, records in self.measured_sets().items():
            tokens = health.EVERYDAY_TOKENS if name == "everyday" else self.settings.max_new_tokens
            with self.progress.bar(f"{when}: {name}", len(records)) as advance:
                asked = in_full(lm) if name == "everyday" else lm
                found[name] = measure(asked, encoder, records, max_new_tokens=tokens, progress=advance)
            if name == "forget":  # shown, and never looked at by what trains or stops
                otherwise = facts_said_otherwise(lm, encoder, records, max_new_tokens=tokens)
                found[name] = dataclasses.replace(found[name], otherwise=otherwise)
            self.run.record({"phase": when, "set": name, **found[name].values()})
        return found

    def measured_sets(self) -> dict[str, Sequence[Record]]:
        """What is measured before and after, those sets left out that hold nothing."""
        everyday = read_records(self.folder / Before.file)
        sets = {"forget": self.inputs.forget, "retain": measured_retain(self.inputs), "everyday": everyday}
        return {name: records for name, records in sets.items() if records}

    def watched(self) -> dict[str, Sequence[Encoded]]:
        """What is watched while the student learns; forget records only where no check of a rule reads them."""
        sets = self.measured_sets()
        kept = sets.get("retain") or sets.get("everyday", ())
        return {FORGET: self.forget, RETAINED: encode_all(self.encoder, kept[:WATCHED])}

    def unlearned(self) -> list[Encoded]:
        """The records to forget as they were written, beside or in place of them the model's own words, and all
        rewordings."""
        score = self.settings.score
        own = encode_all(self.encoder, read_records(self.folder / OwnWords.file), score)
        as_given = own if self.settings.own_words == "replace" and own else [*self.forget, *own]
        reworded = read_records(self.folder / Rewordings.file)
        return [*as_given, *(self.encoder.encode(record, score_of(record, score)) for record in reworded)]

    def sets(self) -> dict[str, Sequence[Encoded]]:
        """The records of every term, each set cut down to those that some step will draw."""
        s = self.settings
        sets: dict[str, Sequence[Encoded]] = {"forget": self.unlearned()}
        if replay := read_records(self.folder / Replay.file):
            sets["replay"] = [e for e in (held(self.encoder, pair) for pair in replay) if any(e.scored)]
        if self.retain:
            sets["retain"] = self.retain
        first = self.method.epochs_of
        sizes = {name: len(sets[name]) for name in sorted(sets, key=lambda name: name != first)}
        steps = plan_steps(sizes, s.batch_size, s.epochs, s.seed, pools(sets[first]))
        drawn = {
            name: [found[i] for i in sorted({i for step in steps for i in step[name]})] for name, found in sets.items()
        }
        return with_other_answers(drawn, self.encoder, self.method, s.refusals, s.seed)

    @property
    def strengthening(self) -> RKLDConfig:
        """How the original is strengthened, and assistants are trained."""
        folder = self.folder / "strengthened"
        return of_strengthening(training_arguments(self.settings, folder), self.student, str(folder))

    def tuning(self, method: BaseVector) -> RKLDConfig:
        """How the base is tuned on the forget records."""
        args, s = self.strengthening, self.settings
        args.num_train_epochs = method.tuning_epochs
        args.learning_rate = s.strengthen_lr or method.rate * peak_lr(
            s.lr, self.student.is_adapter, self.student.parameters
        )
        return args

    @property
    def load_base(self) -> LoadBase | None:
        """Loads the model that the original was tuned from; None where it lies under the original's own adapter."""
        apart = "base" in self.run.manifest["records"]
        return partial(load_base, self.settings) if apart else None

    def filled_teacher(self, sets: Mapping[str, Sequence[Encoded]]) -> Teacher:
        """The teacher, with everything in its cache that the terms read."""
        if self._teacher is None:
            s, args = self.settings, self.strengthening
            folder = Path(s.teacher) if s.teacher else self._own_teacher()
            swapped = floor_records(self.inputs, sets["forget"], self.encoder, self.student)
            cache = HiddenCache(folder, cache_identity(self.student, sets, args, swapped))
            self._teacher = Teacher(cache, alpha=s.alpha)
            parts = cached_parts(build_terms(sets, self._teacher, self.student, args))
            fill_cache(self.student, cache, sets, args, parts=parts, swapped=swapped, progress=self.progress)
        return self._teacher

    def _own_teacher(self) -> Path:
        """The cache's folder in the run folder, without an index that cannot be read."""
        folder = self.folder / "teacher"

        def look() -> None:
            if (folder / INDEX_FILE).exists():
                read_index(folder / INDEX_FILE)

        try:
            processes.by_main(look)
        except UserError:
            self.progress.say(f"{folder / INDEX_FILE} is damaged: the teacher is made anew")
            remove(self.folder, [folder.name])
        return folder


class Phase(ABC):
    """One step of a run. What it returns is noted in the manifest, and says that it is done."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Phases before it whose notes or files it reads."""
    writes: ClassVar[tuple[str, ...]] = ()
    """Files and folders in the run folder."""
    leaves: ClassVar[tuple[str, ...]] = ()
    """Of these, what another start will read: its checksums are noted with the phase."""
    reads: ClassVar[tuple[str, ...]] = ()
    """What earlier phases left."""
    describes: ClassVar[tuple[str, ...]] = ()
    """What its note is about: with that it is lost, too."""
    alone: ClassVar[tuple[str, ...]] = ()
    """What of it one process does for all, in a run of several; the rest all do together."""
    trains: ClassVar[bool] = False
    """Whether it works on the student, so that the adapter must be there."""

    @abstractmethod
    def run(self, work: Work) -> dict[str, Any]:
        """Do it, and return what there is to note of it."""

    def lost(self, run: Run, wanted: Collection[str]) -> dict[str, str]:
        """How what is wanted of it differs from what it left: path → "missing", "changed", "added" or "damaged"."""
        return run.changes([name for name in (*self.leaves, *self.describes) if name in wanted])


class Measuring(Phase):
    """A phase that answers the forget questions."""

    def lost(self, run: Run, wanted: Collection[str]) -> dict[str, str]:
        lost = super().lost(run, wanted)
        if ANSWERS in wanted and self.name not in (run.find_answers() or {}):
            lost[ANSWERS] = "damaged"
        return lost


class Before(Measuring):
    """The figures of the original, and whether it knows the records."""

    file: ClassVar[str] = "everyday.jsonl"

    name = "before"
    writes = (file, ANSWERS, METRICS)
    leaves = (file,)
    alone = ("writing answers and figures",)

    def run(self, work: Work) -> dict[str, Any]:
        s, i = work.settings, work.inputs
        everyday, own = health.everyday_prompts(), in_full(work.student)
        answered = work.answered(everyday, "everyday prompts", health.EVERYDAY_TOKENS, own)
        write_records(work.folder / self.file, [record for record in answered if record.answer])
        found = work.measured(self.name, work.student, work.encoder)
        known = health.advantage(work.student, work.encoder, i.forget, i.identifiers, s.score, s.seed)
        likely = found["forget"].probability
        if unknown := health.unknown(known, likely, health.most_said(found["forget"].values())):
            work.warn(unknown)
        if anybody := health.of_anybody(known, likely):
            work.warn(anybody)
        work.run.write_answers(self.name, found["forget"].answers or ())
        figures = {name: m.values() for name, m in found.items()}
        return {"metrics": figures, "cut": _cut(found["forget"]), "unknown": unknown is not None}


def in_full(lm: LanguageModel) -> LanguageModel:
    """The same model, which answers in the dtype of its weights: where answers are compared with its own of another
    time, word by word, bfloat16 would show rounding (.06 of the words of SmolLM2's, unchanged)."""
    return dataclasses.replace(lm, answers_in=None)


def _cut(found: Measurement) -> list[int]:
    """Which of the answers were cut before their end, by their places."""
    return [number for number, was_cut in enumerate(found.cut or ()) if was_cut]


class Stop(Phase):
    """What the stopping rule aims at, read while the original is here; nothing where the last step will be taken."""

    name = "stop"
    needs = ("before",)

    def run(self, work: Work) -> dict[str, Any]:
        s, found = work.settings, work.comparison
        if found is None:
            if warning := unsteered(s, found):
                work.warn(warning)
            return {}

        def load_control() -> tuple[LanguageModel, Encoder]:
            assert s.control is not None
            tokenizer = None if work.control is None else work.student.tokenizer
            return load(dataclasses.replace(s, model=s.control), work.control, tokenizer)

        calibration = calibrate(get_rule(s.stop), found, work.student, load_control if s.control else None)
        if calibration.refusal:
            # Of records that are not known it is said already that there is nothing to forget.
            if not work.notes["before"]["unknown"] or calibration.original_gap > calibration.rule.margin:
                work.warn(f"--stop {s.stop} cannot steer: {calibration.refusal}. The last step is taken.")
            return {}
        steering, salt = found.material.steering, work.run.manifest["salt"]
        return {
            "rule": s.stop,
            "source": found.source,
            "n": len(found.records),
            "aim": calibration.rule.aim,
            "state": calibration.rule.state(),
            "margin": calibration.rule.margin,
            "original": calibration.original_gap,
            "steering": {
                "n": len(steering.left_out),
                "hashes": steering.hashes(salt),
                "holdout": steering_hashes(found.holdout, salt),
            },
        }


class OwnWords(Phase):
    """The model's own answers to the forget questions, as records to forget."""

    file: ClassVar[str] = "own_words.jsonl"

    name = "own_words"
    needs = ("before",)
    writes = leaves = (file,)
    reads = (ANSWERS,)
    alone = ("writing the records",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        i = work.inputs
        if work.settings.own_words == "no":
            return {}
        texts, cut = work.run.answers()["before"], set(work.notes["before"].get("cut", ()))
        asked = by_answer(i.forget)
        own = [
            work.with_own_answer(record, whole_words(text) if n in cut else text, cut=n in cut)
            for n, (record, text) in enumerate(zip(asked, texts))
        ]
        found = own_words([r for r in own if r.question and r.answer.strip()], i.forget, i.identifiers)
        work.progress.say(f"Own words: {len(found)} of {len(asked)} answers hold facts and are unlearned")
        write_records(work.folder / self.file, found)
        return {"records": len(found)}


class Rewordings(Phase):
    """The forget records in other words, to be strengthened and forgotten along with them."""

    file: ClassVar[str] = "rewordings.jsonl"

    name = "rewordings"
    writes = leaves = (file,)
    alone = ("writing the records",)

    def run(self, work: Work) -> dict[str, Any]:
        s, i = work.settings, work.inputs
        own = work.student, work.encoder
        written = processes.by_main(lambda: write_rewordings(i.forget, s, work.progress, own))
        asked_only = work.method.asks
        made, _ = make_rewordings(i.forget, i.identifiers, s, work.encoder, asked_only=asked_only, written=written)
        if not s.reword and not made.records:
            return {}
        if written or s.own_words != "no":  # else the plan has counted them
            for line in made.described():
                work.progress.say(f"Rewordings: {line}")
        write_records(work.folder / self.file, made.records)
        hashes = wording_hashes(made.records, work.run.manifest["salt"])
        return {"kinds": dict(made.kinds), "dropped": dict(made.dropped), "fewer": made.fewer, "hashes": hashes}


class Replay(Phase):
    """The model's answers to the replay prompts; what would rehearse the person is marked, or dropped."""

    file: ClassVar[str] = "replay.jsonl"

    name = "replay"
    needs = ("own_words", "rewordings")
    writes = leaves = (file,)
    reads = (OwnWords.file, Rewordings.file)
    alone = ("writing the records",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        s, i = work.settings, work.inputs
        # No more prompts than the run will draw: the rest would be answered for nothing.
        steps = s.epochs * steps_per_epoch(len(pools(work.unlearned())), s.batch_size)
        prompts = nearest_most(i.prompts, i.forget, i.identifiers, steps * s.batch_size, s.seed)
        if not prompts or not s.replay_weight:
            return {}
        kept = kept_answers(s, work.run.manifest["records"]["model"], work.student, work.encoder)
        asked = [work.encoder.prompt(prompt) for prompt in prompts]
        said, again = self._said(work, prompts, kept.find(asked) if s.keep_replay else [])
        answered = [work.with_own_answer(prompt, one.text, cut=one.cut) for prompt, one in zip(prompts, said)]
        # Where strangers are refused afterwards, less that is said of them is to be held.
        choose = mark_facts if s.instead == "nothing" else screen
        stay, dropped = choose(answered, i.forget, i.identifiers)
        stay, unfit = fluent(stay)
        dropped += unfit
        if s.keep_replay:
            staying = {record.key for record in stay if not record.spans}  # what is kept says nothing of them
            noted = [(ids, one if r.key in staying else None) for ids, r, one in zip(asked, prompts, said)]
            processes.by_main(lambda: kept.note(noted))
        if dropped:
            reasons = "; ".join(f"{n} × {reason}" for reason, n in dropped.most_common())
            marked = sum(bool(record.spans) for record in stay)
            work.progress.say(
                f"Replay: {len(stay)} answers kept ({marked} but for some words), {dropped.total()} dropped ({reasons})"
            )
        if not stay:
            work.warn(
                "No replayed answer could be used, so nothing holds the rest of the model in place. Give other prompts "
                "with --replay FILE."
            )
        write_records(work.folder / self.file, stay)
        return {"prompts": len(prompts), "kept": len(stay), "dropped": dict(dropped), "of_earlier_runs": again}

    def _said(self, work: Work, prompts: Sequence[Record], found: Sequence[Answer | None]) -> tuple[list[Answer], int]:
        """The answers to the prompts: what an earlier run kept, and what is asked for now.

        Returns:
            them, and how many were kept.
        """
        found = processes.agreed(list(found) or [None] * len(prompts))
        missing = [prompt for prompt, one in zip(prompts, found) if one is None]
        again = len(prompts) - len(missing)
        if again:
            work.progress.say(f"Replay: {again} of {len(prompts)} answers were kept by earlier runs of this model")
        new = iter(work.said(missing, "replay") if missing else [])
        return [next(new) if one is None else one for one in found], again


class MakeTeacher(Phase):
    """The cache: the original is read, strengthened, read again and restored."""

    name = "teacher"
    needs = ("own_words", "rewordings", "replay")
    writes = ("teacher", "strengthened")
    reads = (OwnWords.file, Rewordings.file, Replay.file)
    alone = ("writing the cache",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        work.filled_teacher(work.sets())
        return {}


class Base(Phase):
    """What a method needs of the model that the original was tuned from."""

    name = "base"
    needs = ("own_words", "rewordings")
    writes = ("strengthened",)
    leaves = (START, VECTOR, OTHERS_VECTOR)
    reads = (OwnWords.file, Rewordings.file)
    alone = ("writing weights",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        method, student, folder = work.method, work.student, work.folder / "strengthened"
        if isinstance(method, BaseVector):
            for name, records in zip((VECTOR, OTHERS_VECTOR), method.tuned_on(work.unlearned(), list(work.retain))):
                args = work.tuning(method)
                args.output_dir = str((work.folder / name).with_suffix(""))  # of one's own: no other's checkpoints
                write_vector(student, work.load_base, records, args, work.folder / name, work.progress)
        elif method.needs_base:
            with as_base(student, work.load_base, folder):
                save_state(student, work.folder / START)
        return {}


class LogLines(TrainerCallback):
    """Writes what the distillation logs into metrics.jsonl as it comes; a resumed one takes back what it does again."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.run.withdraw(Distillation.name, after=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "loss" in (line := state.log_history[-1]):
            self.run.record({"phase": Distillation.name, **line})


class Distillation(Phase):
    """The student is trained; of a method without a student, its assistant."""

    name = "distillation"
    needs = ("stop", "own_words", "rewordings", "replay", "teacher")
    writes = ("checkpoints", "strengthened", METRICS)
    leaves = (STUDENT,)
    reads = (OwnWords.file, Rewordings.file, Replay.file, *Base.leaves)
    alone = ("writing figures and the chosen state",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        sets = work.sets()
        if isinstance(work.method, methods.Assisted):
            return self._train_assistant(work, work.method, sets)
        folder, epochs = work.folder / "checkpoints", work.settings.epochs
        # A training goes on with its checks, or not at all.
        if read_checks(folder) is None or read_subtracted(folder) is None:
            work.progress.say(f"{folder}: the checks of the stop are damaged, so the training begins again")
            remove(work.folder, ["checkpoints"])
        work.filled_teacher(sets)  # of the original: from here on the student is another
        if isinstance(work.method, BaseVector):
            facts = self._train_negated(work, work.method, sets)
        else:
            if work.method.needs_base:
                restore_state(work.student, work.folder / START)
            work.method.begin(work.student, work.settings.seed)
            figures: dict[str, float] = {}
            stop = self._stopping(work, self._steps(work, sets) // epochs, folder, figures)
            if stop and stop.satisfied:  # of a run that was killed between its last check and this phase's note
                facts = {"steps": stop.evidence[-1].step}
            else:
                facts = {"steps": self._train(work, sets, folder, [stop] if stop else [], figures)}
                if stop and not stop.evidence:  # a callback of the user's ended it before the first check
                    stop.check(work.student, facts["steps"])
            # The next phase may be started again on its own: the student must be on disk.
            make_folder(folder)
            facts |= self._stopped(work, stop) if stop else {}
        save_state(work.student, work.folder / STUDENT)
        return facts

    def _steps(self, work: Work, sets: Mapping[str, Sequence[Encoded]]) -> int:
        args = training_arguments(work.settings, work.folder / "checkpoints")
        return fine_tuning_steps(sets[work.method.epochs_of], args)

    def _train(
        self,
        work: Work,
        sets: Mapping[str, Sequence[Encoded]],
        folder: Path,
        callbacks: Sequence[TrainerCallback] = (),
        figures: dict[str, float] | None = None,
    ) -> int:
        """Train the student as it is; its checkpoints lie in ``folder``, and ``figures`` are logged with the loss.
        Returns the steps."""
        teacher, args = work.filled_teacher(sets), training_arguments(work.settings, folder)
        objective, steps = build_objective(sets, teacher, work.student, args), self._steps(work, sets)
        if work.method.epochs_of not in objective.sets:  # else the first of those that terms read would set the pace
            args.max_steps = steps
        figures = {} if figures is None else figures
        every = watch_every(check_every(work.settings, steps // work.settings.epochs), steps)
        watch = Watch(work.student, work.watched(), every, figures)
        reported = trackers(work.settings.report_to, work.folder)
        with work.progress.bar("distillation", steps) as advance:
            given = [TrainingBar(advance), LogLines(work.run), *callbacks, watch, *reported, *work.callbacks]
            if (how := work.method.own_answers) is not None:
                given.append(DrawOwnAnswers(work.student, work.encoder, objective, how, folder, work.settings.seed))
            trainer = ObjectiveTrainer(work.student, args, objective, given, figures)
            fit(trainer)
        return int(trainer.state.global_step)

    def _train_negated(self, work: Work, method: BaseVector, sets: Mapping[str, Sequence[Encoded]]) -> dict[str, Any]:
        """Subtract the vector and distil; where a rule steers, it says how much of the vector."""
        student, aim, found = work.student, work.notes["stop"], work.comparison
        steers = "rule" in aim and found is not None
        rule = get_rule(work.settings.stop).of_state(aim["state"]) if steers else None
        folder, vector = work.folder / "checkpoints", work.folder / VECTOR
        make_folder(folder)
        save_state(student, folder / "original.safetensors")
        work.run.withdraw("stop", after=-1)  # β is tried before the first step

        def negate(beta: float) -> None:
            restore_state(student, folder / "original.safetensors")
            subtract(student, vector, beta)
            if isinstance(method, ModelStateArithmetic) and work.retain:
                subtract(student, work.folder / OTHERS_VECTOR, -method.retained)

        if rule is None or found is None:
            negate(method.beta)
            return {"steps": self._train(work, sets, folder) if method.trains else 0, "beta": method.beta}

        def judged(beta: float, step: int) -> dict[str, Any]:
            one = processes.agreed(found.read(student, step))
            if not np.isfinite(one.gold_loss).all():
                raise Diverged(f"with β {beta:g} the likelihoods of the records are not finite")
            row = {"phase": "stop", "rule": aim["rule"], "beta": beta, "gap": rule.gap(one)}
            return row | dataclasses.asdict(one)

        def tried(beta: float) -> float:
            negate(beta)
            work.run.record(shown := judged(beta, 0))
            return float(shown["gap"])

        gaps = try_betas(method, rule.margin, tried)
        beta, steps, checks = min(gaps, key=lambda beta: abs(gaps[beta])), 0, len(gaps)
        gap = gaps[beta]
        negate(beta)
        if method.trains:
            more = KeepSubtracting(
                method, {0.0: aim["original"], **gaps}, beta, rule.margin, judged=judged, record=work.run.record,
                subtract=lambda weight: subtract(student, vector, weight),
                every=check_every(work.settings, self._steps(work, sets) // work.settings.epochs), folder=folder,
            )  # fmt: skip
            steps = self._train(work, sets, folder, [more])
            if not more.checks:  # a callback of the user's ended it before the first
                more.check(steps)
            beta, gap, checks = more.beta, more.checks[-1]["found"]["gap"], checks + len(more.checks)
        work.progress.say(
            f"β {beta:.3g} of the base's vector is subtracted, gap to the aim of {aim['rule']} {gap:+.3f}"
        )
        if gap > rule.margin:
            work.warn(
                f"--stop {aim['rule']} was not reached: with β {beta:.3g} the gap to its aim is still {gap:.3f}. Raise "
                f"--method-arg tuning_epochs={method.tuning_epochs} or most={method.most:g}."
            )
        stop = {"rule": aim["rule"], "stop": gap <= rule.margin, "step": steps, "gap": gap, "margin": rule.margin}
        return {"steps": steps, "beta": beta, "steering": aim["steering"], "stop": {**stop, "checks": checks}}

    def _stopping(
        self, work: Work, steps_per_epoch: int, folder: Path, figures: dict[str, float]
    ) -> StoppingCallback | None:
        """The checks of the distillation, if a rule is to end it; ``figures`` takes what each has found."""
        aim, found = work.notes["stop"], work.comparison
        if "rule" not in aim:
            return None
        assert found is not None  # the same inputs gave the aim
        every = check_every(work.settings, steps_per_epoch)
        rule = get_rule(work.settings.stop).of_state(aim["state"])

        def record(one: Evidence) -> None:
            figures.update({FORGET: one.probability, GAP: rule.gap(one)})
            work.run.record({"phase": "stop", "rule": aim["rule"], "gap": figures[GAP], **dataclasses.asdict(one)})

        stop = StoppingCallback(found.read, rule, every, folder, record=record)
        work.run.withdraw("stop")
        for one in stop.evidence:  # of an interrupted training
            record(one)
        figures.clear()
        return stop

    def _stopped(self, work: Work, stop: StoppingCallback) -> dict[str, Any]:
        """Put the chosen check's state back, and note the decision with its evidence."""
        aim, decision = work.notes["stop"], stop.decision
        restore_state(work.student, stop.best)
        if not decision.stop and not work.notes["before"]["unknown"]:  # else more of it would not help
            work.warn(
                f"--stop {aim['rule']} was not reached: at the nearest check, step {decision.step}, the gap to its aim "
                f"is still {decision.gap:.3f}. "
                f"{_further(decision.step, stop.evidence, reads_alpha=work.method.reads_alpha)}"
            )
        elif decision.stop:
            work.progress.say(
                f"Stopped by {aim['rule']}: step {decision.step} is taken, gap to the aim {decision.gap:+.3f}"
            )
        return {
            "steering": aim["steering"],
            "stop": {**dataclasses.asdict(decision), "rule": aim["rule"], "checks": len(stop.evidence)},
        }

    def _train_assistant(
        self, work: Work, method: methods.Assisted, sets: Mapping[str, Sequence[Encoded]]
    ) -> dict[str, Any]:
        """Train the assistant of a method without a student, and keep what the unlearned model is made from.

        That is its weights where these are a function of both models', else the assistant's.
        """
        teacher, args = work.filled_teacher(sets), work.strengthening
        objective = build_objective(sets, teacher, work.student, args)
        make_folder((work.folder / STUDENT).parent)
        with set_aside(work.student, work.folder / "strengthened"):
            with work.progress.bar("strengthening", fine_tuning_steps(sets["forget"], args)) as advance:
                trainer = ObjectiveTrainer(work.student, args, objective, [TrainingBar(advance)])
                fit(trainer)
            if isinstance(method, methods.WeightArithmetic):
                change_state(work.student, work.folder / "strengthened" / "original.safetensors", method.weights)
            save_state(work.student, work.folder / STUDENT)
        return {"steps": trainer.state.global_step}


class Instead(Phase):
    """What is said instead: refusals, of the person and of strangers alike; nothing unless it is asked for."""

    name = "instead"
    needs = ("replay", "distillation")
    writes = ("checkpoints", METRICS)
    leaves = (REFUSING,)
    reads = (Replay.file, STUDENT)
    alone = ("writing the student",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        s, i = work.settings, work.inputs
        if s.instead == "nothing":
            return {}
        folder = work.folder / "checkpoints" / self.name
        known = known_answers(read_records(work.folder / Replay.file), i.retain)
        if not known:
            raise UserError(
                "--instead unknown: no answer about people whom the model knows is left. Give other --replay."
            )
        restore_state(work.student, work.folder / STUDENT)  # before its embeddings say which names are alike
        names = [record.subject for record in known if record.subject]
        names += names_like(work.student, i.identifiers, LOOK_ALIKES, random.Random(s.seed))
        asked = records_of(work.unlearned())
        unknown = unknown_records(asked, names, i.identifiers, read_refusals(s.refusals), s.seed)
        steps = teach_refusals(
            work.student, encode_all(work.encoder, unknown), encode_all(work.encoder, known),
            training_arguments(s, folder), s.replay_weight, work.callbacks, work.progress,
        )  # fmt: skip
        save_state(work.student, work.folder / REFUSING)
        # Of strangers whom it was not taught: it is these whom the person must be like.
        drawn = unknown_records(asked[:ASKED], names, i.identifiers, read_refusals(s.refusals), s.seed + 1, OTHERS)
        hers, taught = {record.question for record in asked}, {record.question for record in unknown}
        drawn = [record for record in drawn if record.question in hers or record.question not in taught]
        shares = refusal_shares(work.answered(drawn, "refusals", ANSWER_TOKENS))
        if marked := marks(shares):
            work.warn(marked)
        return {"steps": steps, "refusals": len(unknown), "known": len(known), "refused": shares}


class SaveModel(Phase):
    """The unlearned model, as ``from_pretrained`` loads it."""

    name = "model"
    needs = ("distillation", "instead")
    writes = leaves = (MODEL,)
    reads = (Before.file, STUDENT, REFUSING)
    alone = ("writing the model",)
    trains = True

    def run(self, work: Work) -> dict[str, Any]:
        s, lm, folder = work.settings, work.student, work.folder / MODEL
        trained = lm.head.weight.dtype
        adapter = lm.is_adapter and not s.merge
        # An adapter that is made here has no source: it is written as PEFT writes it, in the dtype of its training.
        made_in = _adapter_trained(lm) if adapter else trained
        dtype = saved_dtype(s.save_dtype, adapter_dtype(lm) if adapter else source_dtype(lm), made_in)
        moved: dict[str, float] = {}
        if dtype.itemsize < made_in.itemsize:
            sets = {name: encode_all(work.encoder, records) for name, records in work.measured_sets().items()}
            (_, parts), moved = round_best(partial(self._made, work), sets, dtype, s.seed)
            if furthest(moved) > HELD:
                self._not_held(work, moved, dtype)
        else:
            _, parts = self._made(work)
        how: dict[str, Any] = {
            "card": model_card(s, work.run.manifest, lm),
            "dtype": dtype if dtype != made_in else None,
        }
        if isinstance(work.method, methods.LogitArithmetic):
            original, assistant = parts
            how |= {"method": s.method, "method_arg": s.method_arg, "alpha": s.alpha}
            processes.by_main(lambda: save_two_models(original, assistant, folder, **how))
            work.warn(
                "The unlearned model is two models, and model/assistant knows the records better than the original "
                "did: anyone with the folder can recover them."
            )
        else:
            weights = gathered_weights(parts[0])
            processes.by_main(lambda: save_model(parts[0], folder, weights=weights, **how))
        names = {"dtype": dtype_name(made_in), "base_dtype": dtype_name(trained), "saved_dtype": dtype_name(dtype)}
        noted = {name: value if math.isfinite(value) else None for name, value in moved.items()}
        return {"weights": processes.by_main(lambda: weights_hash(folder)), **names, "rounding": noted}

    def _made(self, work: Work) -> tuple[LanguageModel, list[LanguageModel]]:
        """The unlearned model as its figures are read, and what is written of it: itself, or its two models."""
        lm, merge = work.student, work.settings.merge
        if not isinstance(work.method, methods.LogitArithmetic):
            restore_state(lm, work.folder / (REFUSING if work.notes["instead"].get("steps") else STUDENT))
            outcome = merged(lm) if merge else lm
            return outcome, [outcome]
        assistant = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
        restore_state(assistant, work.folder / STUDENT)
        if merge:
            original, assistant = merged(lm), merged(assistant)
        else:  # a copy, as it is rounded in place, and made anew for each way of rounding
            original = dataclasses.replace(lm, model=copy.deepcopy(lm.model, _base_of(lm)))
        return two_models(original, assistant, work.method, work.settings.alpha), [original, assistant]

    def _not_held(self, work: Work, moved: Mapping[str, float], dtype: torch.dtype) -> None:
        """Say that rounding moves the figures: those after the run are of the rounded weights."""
        name, most = max(moved.items(), key=lambda item: abs(item[1]))
        why = "as the source's" if work.settings.save_dtype == "auto" else "as --save-dtype asks"
        work.warn(
            f"The weights are written in {dtype_name(dtype)}, {why}, and rounding them moves the model's loss on the "
            f"{name} records by {most:+.3f} nats a token (up to {HELD} is taken for nothing). The figures after the "
            "run are of the rounded weights; --save-dtype float32 keeps them as they were trained."
        )


def _base_of(lm: LanguageModel) -> dict[int, Any]:
    """The weights of an adapter's base by their ids, for a copy to share: nothing changes them, and they are large."""
    if not lm.is_adapter:
        return {}
    own = {tensor.data_ptr() for tensor in adapter_of(lm.model)[2].values()}
    return {id(weight): weight for weight in lm.model.parameters() if weight.data_ptr() not in own}


def _adapter_trained(lm: LanguageModel) -> torch.dtype:
    """The dtype of the adapter's own weights, which over a base of few bits or of bfloat16 is another one."""
    own = (p.dtype for name, p in lm.model.named_parameters() if "lora_" in name or p.requires_grad)
    return next(own, lm.dtype)


class After(Measuring):
    """The figures of the unlearned model and the last check of the stop, read from the saved folder."""

    name = "after"
    needs = ("before", "stop", "distillation", "model")
    writes = (ANSWERS, METRICS)
    leaves = (METRICS,)
    reads = (Before.file, MODEL)
    describes = (MODEL,)
    alone = ("writing answers and figures",)

    def run(self, work: Work) -> dict[str, Any]:
        try:
            lm, encoder = self._saved(work)
            found = work.measured(self.name, lm, encoder)
            ruined = not all(math.isfinite(m.probability) for m in found.values())
        except NotFinite:
            ruined = True
        if ruined:
            del work.notes["model"]  # first: a note must not outlive the folder it is of
            work.run.save()
            remove(work.folder, [MODEL])
            raise Diverged("the likelihoods of the saved model are not finite")
        work.run.write_answers(self.name, found["forget"].answers or ())
        for warning in self._warnings(work, found):
            work.warn(warning)
        figures = {name: m.values() for name, m in found.items()}
        return {"metrics": figures, "cut": _cut(found["forget"]), **self._confirmed(work, lm)}

    def _warnings(self, work: Work, found: Mapping[str, Measurement]) -> Iterator[str]:
        """What the figures say of the outcome that the user should know."""
        noted = work.notes["before"]
        before = {name: values["probability"] for name, values in noted["metrics"].items()}
        after = {name: measured.probability for name, measured in found.items()}
        if work.settings.score != "spans" and not noted["unknown"] and after["forget"] > before["forget"] / 2:
            yield (
                f"Little was forgotten: probability of the records {before['forget']:.3f} before, "
                f"{after['forget']:.3f} after. Raise {_passes(work.method)} or --lr."
            )
        gentler = [*(["--alpha"] if work.method.reads_alpha else []), "--lr", _passes(work.method)]
        yield from health.suffered(before, after, gentler)
        if "everyday" in found:
            answered = read_records(work.folder / Before.file)
            everyday = found["everyday"]
            otherwise = health.otherwise(everyday.rouge_l, gentler)
            yield from filter(None, [health.broken(answered, everyday.answers or ()), otherwise])

    def _saved(self, work: Work) -> tuple[LanguageModel, Encoder]:
        """The saved model in its saved dtype, with the encoder of its own tokenizer and template.

        An adapter on a model that has no folder of its own cannot be loaded from anywhere: its saved weights are put
        onto that model.
        """
        s, folder = work.settings, work.folder / MODEL
        lm = work.student
        if lm.is_adapter and not s.merge and not lm.has_lasting_source:
            load_saved_adapter(lm, folder)
            return lm, work.encoder
        alike = lm.answers_in
        del lm
        work.let_go()
        files = (*s.method_file, *([s.method] if file_and_name(s.method) else []))
        # An adapter that was saved names the model that it was trained on, which need not be the base.
        noted = work.notes["model"]
        # A run of an earlier version noted the base's dtype as that of its adapter.
        as_saved = {"dtype": noted.get("base_dtype", noted["dtype"]), "chat_template": None, "base": None}
        opening = dataclasses.replace(s, method_file=files, **as_saved)

        def read(device: torch.device | None) -> LanguageModel:
            return load_with_encoder(opening, folder, device=device)[0]

        saved = in_shards(read) if s.shard else read(None)
        encoder = make_encoder(opening, saved.tokenizer, saved.context_length)
        saved.answers_in = alike
        if encoder.fingerprint != work.run.manifest["records"]["template"]:
            raise UserError(
                f"{folder}: the saved model writes records in another format than the one that was unlearned. Give its "
                "template with --chat-template."
            )
        return saved, encoder

    def _confirmed(self, work: Work, lm: LanguageModel) -> dict[str, Any]:
        """The chosen check again, of the saved model."""
        decision, found = work.notes["distillation"].get("stop"), work.comparison
        if decision is None or found is None:
            return {}
        rule = get_rule(work.settings.stop).of_state(work.notes["stop"]["state"])
        gap = rule.gap(found.read(lm, decision["step"]))
        if abs(gap - decision["gap"]) > HELD:
            work.warn(
                f"The saved model is {gap:+.3f} from the aim of --stop {work.settings.stop}, where the student was "
                f"{decision['gap']:+.3f} from it."
            )
        return {"stop": {"gap": gap}}


PHASES: tuple[Phase, ...] = (
    Before(),
    Stop(),
    OwnWords(),
    Rewordings(),
    Replay(),
    MakeTeacher(),
    Base(),
    Distillation(),
    Instead(),
    SaveModel(),
    After(),
)
"""In the order in which they are done."""


def _further(nearest: int, checks: Sequence[Evidence], *, reads_alpha: bool) -> str:
    """What to do where no check reached the aim: more steps help where the last one came nearest."""
    if nearest == checks[-1].step:
        return "Raise --epochs or --lr."
    later = sum(one.step > nearest for one in checks)
    rather = "raise --alpha" if reads_alpha else "another --method or --lr may"
    return f"The {later} later checks were further from it, so more epochs alone will not reach it: {rather}."


def _passes(method: methods.Method) -> str:
    """What says how long the weights are trained."""
    if isinstance(method, BaseVector) and not method.trains:
        return "--method-arg tuning_epochs"
    return "--epochs" if method.reads_epochs else "--strengthen-epochs"


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Records, as JSON lines. Of several processes one writes them, and the others wait."""
    write_jsonl(path, (record.to_dict() for record in records))
    processes.wait()


def read_records(path: Path) -> list[Record]:
    """What :func:`write_records` wrote; none where there is no file."""
    return [Record.from_dict(row) for row in read_jsonl(path)]
