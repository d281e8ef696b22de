"""What a run works on: records read, model loaded, everything that can be refused refused before time is spent.

``rkld check``, the estimate and ``rkld unlearn`` all go through :func:`prepare`, so that what one of them refuses all
of them refuse, with the same sentence, before the model has answered anything. Audits and benchmarks open their models
by :func:`load_with_encoder` and encode their records by :func:`encode_all` before the first of them is read.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.training_args import OptimizerNames

from rkld import methods, processes
from rkld.errors import UserError, nearest
from rkld.losses.micro_batches import pools, steps_per_epoch
from rkld.losses.objective import Term
from rkld.methods.base_vector import BaseVector
from rkld.methods.two_models import TwoModelCausalLM, open_model
from rkld.models.adapters import check_adapter_fits, new_adapter
from rkld.models.checks import check_mergeable, check_weights_trainable, first_line
from rkld.models.language_model import LanguageModel
from rkld.models.loading import Dtype, for_training, gpu_computes_in_bf16, resolve
from rkld.models.sharding import in_shards, try_optimizer
from rkld.models.source import card_base, check_whole
from rkld.models.state import check_same_weights, fingerprint
from rkld.pipeline.arguments import training_arguments
from rkld.pipeline.description import template_warning
from rkld.pipeline.rewording import check_rewording, make_rewordings
from rkld.pipeline.space import Space, require_space, run_space
from rkld.records.coverage import Coverage, scored_share
from rkld.records.encoding import IN_PART, Encoded, Encoder, Score
from rkld.records.identity import (
    all_about_the_person,
    apart,
    check_disjoint,
    check_request,
    each_once,
    identifiers,
    naming,
)
from rkld.records.reading import read_prompts, read_records, read_rewordings, read_subjects
from rkld.records.record import Record, by_answer
from rkld.records.refusals import read_refusals
from rkld.records.replay import generic_prompts, people_of, swapped_prompts
from rkld.records.rewording import Made
from rkld.records.sources import Source
from rkld.runfolder.manifest import check_outside
from rkld.runfolder.request import NOTHING_STATED, RequestForm
from rkld.settings.specification import flag, known_names, make
from rkld.settings.table import TABLE
from rkld.settings.unlearning import Settings
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.registry import get_rule
from rkld.teacher.cache import INDEX_FILE, HiddenCache, read_index
from rkld.teacher.logits import Teacher
from rkld.text.printable import printable
from rkld.training.config import with_rate
from rkld.training.floor import swapped_records
from rkld.training.gradients import TWO_GRADIENTS
from rkld.training.own_answers import ANSWERS_ITSELF
from rkld.training.terms import build_terms, with_other_answers
from rkld.training.trackers import check_trackers
from rkld.training.weight_vector import check_outer_factors

MEASURED = 100
"""Retain records that are measured before and after, drawn by the seed; of the forget records all are."""


Model: TypeAlias = "str | os.PathLike[str] | PreTrainedModel | PeftModel"
"""A folder, a hub name, or a loaded model."""


class Opening(Protocol):
    """Settings that say how models are loaded and records written: of a run, an audit or a benchmark."""

    @property
    def method_file(self) -> Sequence[str]: ...
    @property
    def dtype(self) -> Dtype: ...
    @property
    def base(self) -> str | None: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def allow_pickle(self) -> bool: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def system_prompt(self) -> str | None: ...
    @property
    def template_date(self) -> str: ...
    @property
    def max_length(self) -> int | None: ...


@dataclass(frozen=True)
class Inputs:
    """What a run works on, read and checked; no model has been touched."""

    settings: Settings
    forget: list[Record]
    retain: list[Record]
    prompts: list[Record]
    identifiers: tuple[str, ...]
    holdout: list[Record]
    left_out: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Why given records are left out → where they stand, such as "retain.jsonl line 4"."""
    naming: tuple[str, ...] = ()
    """What is to be said of names and records that do not fit each other (:func:`rkld.records.identity.naming`)."""
    request: RequestForm = NOTHING_STATED
    """What is stated of the request."""

    def warnings(self) -> list[str]:
        """What the user should know of the records, a sentence or two each. Neither contents nor names of files."""
        found = [f"{len(places)} {reason}." for reason, places in self.left_out.items()]
        return [*found, *self.naming]


_HELD = (
    "{what} mention the person and are left out, as they would hold in place what is to be forgotten; if others are "
    "meant by the name, give the person's full name with --subject"
)


def read_inputs(
    settings: Settings,
    forget: Source | None = None,
    retain: Source | None = None,
    replay: Source | None = None,
    holdout: Source | None = None,
) -> Inputs:
    """Read and check all records. Data sets given as objects stand in for the files of the settings.

    Of records that say the same one is used. Records to keep, replay prompts and holdout records that mention the
    person are left out (:attr:`Inputs.left_out`).

    Raises:
        UserError: anything that is wrong with them.
    """
    method = methods.get_method(settings.method, settings.method_arg)
    check_trackers(settings.report_to)
    check_stop(settings)
    check_rewording(settings)
    if teaches_refusals(settings, method):
        read_refusals(settings.refusals)
    optimizers = [name.value for name in OptimizerNames]
    if settings.optim not in optimizers:
        raise UserError(f"unknown optimizer '{settings.optim}'.{nearest(settings.optim, optimizers)}")
    check_folders(settings)
    subjects = read_subjects(settings.subject)
    left_out: dict[str, tuple[str, ...]] = {}

    def leave_out(why: str, records: Sequence[Record]) -> None:
        if records:
            left_out[why] = tuple(record.where for record in records)

    def read(source: Source | None, name: str) -> list[Record]:
        if source is None:
            return []
        records, repeated = each_once(read_records(source, name))
        leave_out(f"{name} records say the same as one before them and count once", repeated)
        return records

    def of_others(records: list[Record], name: str, known: Sequence[str]) -> list[Record]:
        about, others = apart(records, known)
        if about and not others:
            raise all_about_the_person(len(records), name)
        leave_out(_HELD.format(what=f"{name} records"), about)
        return others

    forget_records = read(forget if forget is not None else settings.forget, "forget")
    if settings.rewordings is not None:
        forget_records, strange = read_rewordings(settings.rewordings, forget_records)
        if strange:
            left_out["rows of rewordings are about none of the forget records and are left out"] = tuple(strange)
    retain_records = read(retain if retain is not None else settings.retain, "retain")
    strangers = read(holdout if holdout is not None else settings.holdout, "holdout")
    check_disjoint(forget_records, retain_records)
    check_disjoint(forget_records, strangers, ("forget", "holdout"))
    check_disjoint(retain_records, strangers, ("retain", "holdout"))
    known = identifiers(forget_records, subjects)
    retain_records, strangers = of_others(retain_records, "retain", known), of_others(strangers, "holdout", known)
    # A prompt about the person would have the student rehearse the original's answer to it.
    about, prompts = apart(_replay_prompts(settings, replay, forget_records, retain_records, known), known)
    if replay is not None or settings.replay != "auto":
        leave_out(_HELD.format(what="replay prompts"), about)
    _check_instead(settings, method, forget_records, keeps=bool(retain_records or replay is not None))
    own = method.retain_loss == "none"  # its own terms hold them
    held = own or method.loss_on_retain(settings.retain_loss, settings.retain_weight) != "none"
    there = {"retain": retain_records if held else [], "replay": prompts if settings.replay_weight else []}
    if retain_records and not any(there.values()) and "retain" in method.needs:
        raise UserError(
            f"the method {settings.method} needs what holds the rest, and --retain-weight {settings.retain_weight:g} "
            f"or --retain-loss {settings.retain_loss} leaves the retain records out: give it otherwise, or --replay."
        )
    method.require([name for name, found in there.items() if found], settings.retain_loss)
    fit = tuple(naming(forget_records, subjects))
    request = RequestForm.read(settings.request, settings.note)
    check_request(request, known)
    return Inputs(settings, forget_records, retain_records, prompts, known, strangers, left_out, fit, request)


def teaches_refusals(settings: Settings, method: methods.Method) -> bool:
    """Whether the run reads refusals."""
    return bool(method.refusals) or settings.instead == "unknown"


def _check_instead(settings: Settings, method: methods.Method, forget: Sequence[Record], keeps: bool) -> None:
    """Refuse ``--instead unknown`` where it would refuse everybody, or nobody.

    Args:
        keeps: records or prompts about others were given as objects, or records to keep in a file.
    """
    if settings.instead == "nothing":
        return
    if isinstance(method, methods.Assisted):
        raise UserError(f"--instead {settings.instead} trains a student, and the method {settings.method} has none.")
    if not any(record.question for record in forget):
        raise UserError(f"--instead {settings.instead}: no forget record has a question that could be refused.")
    if not keeps and settings.replay in ("auto", "none"):
        raise UserError(
            f"--instead {settings.instead} needs questions about people whom the model knows, or it refuses these, "
            "too: give some with --replay DATA, or records with --retain DATA."
        )


def _replay_prompts(
    settings: Settings,
    given: Source | None,
    forget: Sequence[Record],
    retain: Sequence[Record],
    known: Sequence[str],
) -> list[Record]:
    """The user's prompts or shipped ones, and the forget questions about other people."""
    if given is None and settings.replay == "none":
        return []
    if given is None and settings.replay == "auto":
        people = people_of(retain, known)
        return swapped_prompts(forget, known, settings.seed, people) + generic_prompts()
    prompts = read_prompts(given if given is not None else settings.replay)
    people = people_of([*retain, *prompts], known)
    return [*prompts, *swapped_prompts(forget, known, settings.seed, people, invented=False)]


def measured_retain(inputs: Inputs) -> list[Record]:
    """Of the retain records those that are measured."""
    return random.Random(inputs.settings.seed).sample(inputs.retain, min(MEASURED, len(inputs.retain)))


def check_shardable(settings: Settings, model: object = None) -> None:
    """Refuse to split over processes what is trained beside another model, or is there already.

    Raises:
        UserError: so.
    """
    if model is not None:
        raise UserError(
            "shard=True, and the model is an object, which is there already: give its folder or name, or split it with "
            "rkld.load_sharded and train it with rkld.RKLDTrainer."
        )
    method = methods.get_method(settings.method, settings.method_arg)
    if not method.trains or method.needs_base or isinstance(method, methods.Assisted):
        raise UserError(
            f"--shard: the method {settings.method} needs another model beside the one that is trained, which would "
            "lie whole in every process. Give another method, such as rkld."
        )
    for option, value in {"--merge": settings.merge, "--control": settings.control}.items():
        if value:
            raise UserError(
                f"--shard and {option}: a second model would lie whole in every process. Leave out one of the two."
            )
    if settings.writer and not settings.writer_endpoint:
        raise UserError(
            "--shard and --writer: the writer would lie whole in the first process. Let rkld reword write the "
            "rewordings, and give them with --rewordings; or serve the writer, and give --writer-endpoint."
        )
    if settings.trust_remote_code:
        raise UserError(
            "--shard and --trust-remote-code: the other processes cannot be handed a class of the model's own code. "
            "Leave out one of the two."
        )
    if processes.launched() == 1:
        return
    for option, given in {"--gate": settings.gate != "none", "--sam": settings.sam > 0}.items():
        if given:
            raise UserError(
                f"--shard and {option}: {TWO_GRADIENTS}, which one process can do. Leave out one of the two."
            )
    if method.own_answers is not None:
        raise UserError(f"--shard: {ANSWERS_ITSELF}, which one process can do. Give another method, such as rkld.")
    with tempfile.TemporaryDirectory(prefix="rkld-") as folder:
        training_arguments(settings, Path(folder))


def open_in_shards(settings: Settings) -> tuple[LanguageModel, str]:
    """The model to train, each process its own part, with the adapter of ``--lora``; all processes together.

    Returns:
        it, and its fingerprint before the adapter was put on.

    Raises:
        UserError: as of :func:`load` and :func:`check_trainable`; an optimizer that takes no shards.
    """
    method = methods.get_method(settings.method, settings.method_arg)

    found = ""

    def read(device: torch.device | None) -> LanguageModel:
        nonlocal found
        lm, _ = load(settings, device=device)
        check_trainable(settings, lm, method)
        found = fingerprint(lm)
        if settings.lora and not lm.is_adapter:
            torch.manual_seed(settings.seed)
            lm = dataclasses.replace(lm, model=new_adapter(lm, rank=settings.lora_rank).model)
        return lm

    lm = in_shards(read)
    processes.checked(partial(_check_optimizer_takes_shards, settings, lm))
    return lm, processes.agreed(found)


def _check_optimizer_takes_shards(settings: Settings, lm: LanguageModel) -> None:
    with tempfile.TemporaryDirectory(prefix="rkld-") as folder:
        args = with_rate(training_arguments(settings, Path(folder)), lm)
    kind, given = Trainer.get_optimizer_cls_and_kwargs(args, lm.model)
    try:
        try_optimizer(lm.model, lambda parameters: kind(parameters, **given))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"--optim {settings.optim} cannot train weights in shards ({first_line(error)}). Leave it out, or give "
            "another, such as adamw_torch."
        ) from None


def load(
    settings: Settings,
    model: Model | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: torch.device | None = None,
) -> tuple[LanguageModel, Encoder]:
    """The model to train and the encoder of its records, as the settings say."""
    settings = dataclasses.replace(settings, dtype=for_training(settings.dtype))
    lm, encoder = load_with_encoder(settings, model if model is not None else settings.model, tokenizer, device)
    if isinstance(lm.inner, TwoModelCausalLM):
        raise UserError(f"{settings.model} is two models used as one; they can be measured, but not trained.")
    lm.answers_in = answers_in(settings, lm)
    return lm, encoder


def answers_in(settings: Settings, lm: LanguageModel) -> torch.dtype | None:
    """What the models of a run compute their answers in: bfloat16 where training does.

    Not where an adapter is, or will be: autocast casts frozen weights again for every token, which takes longer than is
    gained, and what is said before and after must be computed alike.
    """
    wanted = gpu_computes_in_bf16() if settings.bf16 is None else settings.bf16
    apart = settings.lora or lm.is_adapter or lm.dtype != torch.float32
    return torch.bfloat16 if wanted and not apart else None


def load_with_encoder(
    settings: Opening,
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: torch.device | None = None,
) -> tuple[LanguageModel, Encoder]:
    """A model and the encoder of its records.

    Args:
        settings: of a run or of an audit: both say how models are loaded and records written.
    """
    lm = open_model(
        model,
        method_files=settings.method_file,
        dtype=settings.dtype,
        base=settings.base,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        chat_template=settings.chat_template,
        tokenizer=tokenizer,
        device=device,
    )
    return lm, make_encoder(settings, lm.tokenizer, lm.context_length)


def make_encoder(settings: Opening, tokenizer: PreTrainedTokenizerBase, context_length: int | None = None) -> Encoder:
    """Writes records in the model's own format, as the settings say."""
    return Encoder(
        tokenizer,
        system_prompt=settings.system_prompt,
        template_date=settings.template_date,
        context_length=context_length,
        max_length=settings.max_length,
    )


def floor_records(inputs: Inputs, encoded: Sequence[Encoded], encoder: Encoder, lm: LanguageModel) -> list[Encoded]:
    """The forget records about other people, where the teacher gets a floor (:mod:`rkld.training.floor`); else none."""
    s = inputs.settings
    method = methods.get_method(s.method, s.method_arg)
    floor = s.score == "spans" if s.floor is None else s.floor and s.score in IN_PART
    if not (floor and "strengthened" in method.cached and encoded and inputs.identifiers):
        return []
    return swapped_records(encoded, encoder, lm, inputs.identifiers, s.score, s.seed)


def check_stop(settings: Settings) -> None:
    """Refuse a stopping rule that is not there, or without the settings that it needs.

    Raises:
        UserError: so.
    """
    rule = get_rule(settings.stop)
    missing = [flag(name) for name in rule.required if getattr(settings, name) is None]
    if missing:
        raise UserError(f"--stop {settings.stop} ({rule.help}) needs {' and '.join(missing)}, which is not given.")


def has_stop(settings: Settings) -> bool:
    """Whether a rule is to end the training; else its last step is taken."""
    method = methods.get_method(settings.method, settings.method_arg)
    return get_rule(settings.stop).steers and not isinstance(method, methods.Assisted) and method.start != "base"


def unsteered(settings: Settings, comparison: Comparison | None) -> str | None:
    """What is to be known where a rule is to end the training and has nothing to compare with; else None."""
    if comparison is not None or not has_stop(settings):
        return None
    advice = get_rule(settings.stop).advice
    return f"There is nothing to compare with for --stop {settings.stop}, so the last step is taken. {advice}"


def stop_comparison(inputs: Inputs, encoder: Encoder) -> Comparison | None:
    """What decides when to stop; None where the last step is taken."""
    s = inputs.settings
    if not has_stop(s):
        return None
    return get_rule(s.stop).compare(_material(inputs, encoder))


def _material(inputs: Inputs, encoder: Encoder) -> Material:
    s, i = inputs.settings, inputs
    return Material(i.forget, i.holdout, i.retain, i.identifiers, encoder, s.score, s.seed)


def check_every(settings: Settings, steps_per_epoch: int) -> int:
    """Optimizer steps between two checks of the stopping rule."""
    return settings.check_every or max(1, steps_per_epoch // 2)


DATA = ("model", "control", "forget", "retain", "replay", "holdout")
"""Settings that may be given as objects: loaded models, and data sets."""


def choose(data: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Settings, and apart from them what was given as an object rather than by name."""
    objects = {name: value for name, value in data.items() if value is not None and not isinstance(value, str | Path)}
    names = {
        name: f"<{type(value).__name__}>" if name in objects else str(value)
        for name, value in data.items()
        if value is not None  # else the default
    }
    known_names(settings, "arguments", Settings)  # first: train_dataset=… is no missing forget
    for name in ("model", "forget"):
        if not names.get(name):
            raise UserError(f"No {name} is given: rkld.unlearn(model, forget=…) and rkld.check need both.")
    return make({**settings, **names}, "arguments", Settings), objects


# Everything that can be refused


@dataclass(frozen=True)
class Prepared:
    """A run that passed every check: its inputs, the model, and its records as token ids."""

    inputs: Inputs
    method: methods.Method
    lm: LanguageModel
    """The original. With ``--lora`` its adapter is not there yet, but for ``--shard``."""
    base: str | None
    """Fingerprint of the model that the original was tuned from, where the method needs one that lies apart."""
    encoder: Encoder
    forget: list[Encoded]
    rewordings: Made
    """Those that were given, and those that rules make; a writer has written nothing yet."""
    reworded: list[Encoded]
    retain: list[Encoded]
    prompts: list[tuple[int, ...]]
    """Replay prompts as token ids."""
    coverage: Coverage
    comparison: Comparison | None
    """What the stopping rule reads; None where the last step is taken."""
    space: Space
    load_seconds: float
    identity: str | None = None
    """Fingerprint of an original in shards, whose adapter is there already."""

    @property
    def template_warning(self) -> str | None:
        """What is to be known where conversations are written without a chat template; else None."""
        records = (*self.inputs.forget, *self.inputs.retain)
        return template_warning(self.lm.template_source, self.lm.tokenizer, records)

    @property
    def unread(self) -> list[str]:
        """What is to be known of what is given and nothing reads."""
        s, found = self.settings, []
        if s.base is not None and not self.lm.is_adapter and not self.method.needs_base:
            found.append(
                f"--base is given, and the method {s.method} does not read it. --method base_vector does, with replay "
                "or retain records, and best without --lora."
            )
        if s.alpha != TABLE["alpha"].default and not self.method.reads_alpha:
            found.append(f"--alpha is given, and the method {s.method} does not read it: --method rkld does.")
        # The vector's tuning has a length of its own, and the learning rate of strengthening.
        read = dict.fromkeys(("strengthen_epochs", "strengthen_gain", "strengthen_lr"), self.method.strengthens)
        read["strengthen_lr"] |= isinstance(self.method, BaseVector)
        found += [
            f"{flag(name)} is given, and the method {s.method} does not read it: it strengthens nothing."
            for name, is_read in read.items()
            if not is_read and getattr(s, name) != TABLE[name].default
        ]
        if s.floor and not (s.score in IN_PART and "strengthened" in self.method.cached):
            needs = "a method with a strengthened teacher, and --score spans or added"
            found.append(f"--floor is given, and nothing reads it: it needs {needs}.")
        if s.sam and self.method.start != "original":
            found.append(f"--sam is given, and the method {s.method} does not read it: no term of it forgets.")
        if not has_stop(s):
            what = f"--stop {s.stop}" if not get_rule(s.stop).steers else f"the method {s.method}, which no rule ends,"
            given = {"--holdout": bool(self.inputs.holdout), "--control": s.control is not None}
            found += [f"{option} is given, and {what} does not read it." for option in given if given[option]]
        return found

    @property
    def remarks(self) -> list[str]:
        """What is to be known of the settings on this model before the run."""
        return [*self.unread, *self.method.remarks(self.lm)]

    @property
    def settings(self) -> Settings:
        return self.inputs.settings


def prepare(
    inputs: Inputs,
    model: Model | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    control: PreTrainedModel | PeftModel | None = None,
    sharded: tuple[LanguageModel, str] | None = None,
) -> Prepared:
    """Load the model, encode every record, and refuse whatever the run would come to refuse later.

    The model has not answered anything when this returns. Records were read before (:func:`read_inputs`).

    Args:
        model: a loaded model, in place of the one that the settings name.
        tokenizer: the tokenizer of a loaded model.
        control: a loaded model in the place of ``--control``.
        sharded: what :func:`open_in_shards` returned, in the place of ``model``.

    Raises:
        UserError: what a run with these settings would stop at.
    """
    settings = inputs.settings
    if control is None:
        _check_control(inputs)
    started = time.perf_counter()
    if sharded is None:
        (lm, encoder), identity = load(settings, model, tokenizer), None
    else:
        lm, identity = sharded
        encoder = make_encoder(settings, lm.tokenizer, lm.context_length)
    load_seconds = time.perf_counter() - started
    if control is not None and _reads_control(settings):
        beside = LanguageModel(control, lm.tokenizer, "control")
        _encode_steering(inputs, make_encoder(settings, lm.tokenizer, beside.context_length))
    method = methods.get_method(settings.method, settings.method_arg)
    if sharded is None:
        check_trainable(settings, lm, method)
    base = check_base(settings, lm, method)
    forget, retain = encode_all(encoder, inputs.forget, settings.score), encode_all(encoder, inputs.retain)
    rewordings, reworded = make_rewordings(inputs.forget, inputs.identifiers, settings, encoder, asked_only=method.asks)
    coverage = scored_share(encoder, inputs.forget, forget, inputs.identifiers, settings.score)
    coverage.require(settings.score)
    prompts = [encoder.prompt(prompt) for prompt in inputs.prompts]
    for record in by_answer((*inputs.forget, *measured_retain(inputs))):  # all are answered, before and after
        encoder.encode(record)
        encoder.prompts(record)
    comparison = stop_comparison(inputs, encoder)
    sets, terms = _check_terms(inputs, lm, encoder, method, [*forget, *reworded], retain)
    space = run_space(settings, method, lm, sets, terms, stops=comparison is not None)
    require_space(settings.run_folder, space)
    return Prepared(
        inputs, method, lm, base, encoder, forget, rewordings, reworded, retain, prompts, coverage, comparison, space,
        load_seconds, identity,
    )  # fmt: skip


def _reads_control(settings: Settings) -> bool:
    return has_stop(settings) and settings.control is not None and "control" in get_rule(settings.stop).required


def _check_control(inputs: Inputs) -> None:
    """Load the control that ``--control`` names and encode what it will read, before the model takes up memory."""
    settings = inputs.settings
    if settings.control is None:
        return
    resolve(settings.control)
    if _reads_control(settings):
        lm, encoder = load(dataclasses.replace(settings, model=settings.control))
        _encode_steering(inputs, encoder)
        del lm
        gc.collect()


def _encode_steering(inputs: Inputs, encoder: Encoder) -> None:
    """The steering records as the control reads them. UserError at one that cannot be encoded."""
    _material(inputs, encoder).encoded_steering()


def check_folders(settings: Settings) -> None:
    """Refuse folders that cannot be written, and a teacher's that holds something else.

    Raises:
        UserError: so.
    """
    folders = {"--out": settings.run_folder} | ({"--teacher": Path(settings.teacher)} if settings.teacher else {})
    for option, folder in folders.items():
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not above.is_dir():
            raise UserError(f"{folder}: {above} is a file. Give another folder with {option}.")
        if not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: {above} cannot be written to. Give another folder with {option}.")
    check_outside(settings.run_folder, settings.model)
    if settings.teacher and (index := Path(settings.teacher) / INDEX_FILE).exists():
        read_index(index)


def encode_all(encoder: Encoder, records: Iterable[Record], score: Score = "answer") -> list[Encoded]:
    """All records as ids and masks. UserError at the first that cannot be encoded."""
    return [encoder.encode(record, score) for record in records]


def load_base(settings: Settings) -> LanguageModel:
    """The model that ``--base`` names, as the original is loaded.

    Raises:
        UserError: it cannot be loaded, or has an adapter of its own.
    """
    assert settings.base is not None
    found, _ = load(dataclasses.replace(settings, model=settings.base, base=None, chat_template=None))
    if found.is_adapter:
        raise UserError(f"--base {settings.base} is an adapter: merge it with its own base first.")
    return found


def check_base(settings: Settings, lm: LanguageModel, method: methods.Method) -> str | None:
    """Refuse a base that is not what the original ``lm`` was tuned from, or the lack of one that the method needs.

    Returns:
        the fingerprint of a base that lies apart; None where there is none, or it lies under the original's adapter.

    Raises:
        UserError: so.
    """
    if not method.needs_base:
        return None
    if lm.is_adapter:
        check_outer_factors(lm)
        return None
    if settings.lora and method.start == "base":
        raise UserError(
            f"the method {settings.method} trains the base, and an adapter of it would not fit the original: leave out "
            "--lora, or give the base with an adapter as MODEL."
        )
    if settings.base is None:
        raise UserError(
            f"the method {settings.method} needs the model that this one was tuned from: give its folder or hub name "
            f"with --base.{proposed_base(lm.source)}"
        )
    base = load_base(settings)
    ours, theirs = lm.tokenizer.get_vocab(), base.tokenizer.get_vocab()
    if differing := [token for token in theirs if ours.get(token) != theirs[token]]:
        raise UserError(
            f"--base {settings.base}: {len(differing)} of its tokens have no or another number in {lm.source}, so "
            "that was not tuned from it. Give the model that it was tuned from."
        )
    check_same_weights(lm, base)
    found = fingerprint(base)
    if found == fingerprint(lm):
        raise UserError(f"--base {settings.base} is the model itself. Give the one that it was tuned from.")
    return found


def proposed_base(model: str) -> str:
    """A sentence that proposes what the model's card names as its base; empty where that names none."""
    named = card_base(model)
    return f" Its model card names {printable(named)}: --base {printable(named)}." if named else ""


def check_trainable(settings: Settings, lm: LanguageModel, method: methods.Method) -> None:
    """Refuse a model that cannot be trained, or written, as the settings ask.

    Raises:
        UserError: so.
    """
    adapter = settings.lora or lm.is_adapter
    if settings.merge and not adapter:
        raise UserError("--merge has nothing to merge: the model is no adapter, and --lora is not given.")
    if method.changes_all and adapter:
        raise UserError(
            f"the method {settings.method} changes all weights, and an adapter's difference is a product of two "
            "factors: leave out --lora, or merge the adapter first."
        )
    if method.start == "negated" and method.trains and has_stop(settings) and processes.uses_deepspeed():
        raise UserError(
            f"the method {settings.method} subtracts more of its vector while it trains, and DeepSpeed would overwrite "
            "that: start it by torchrun, or give --stop last."
        )
    if settings.gate != "none" or settings.sam:
        processes.require_alone(processes.count(), TWO_GRADIENTS)
    if method.own_answers is not None:
        processes.require_alone(processes.count(), ANSWERS_ITSELF)
    if (settings.gate != "none" or settings.sam) and (isinstance(method, methods.Assisted) or not method.trains):
        raise UserError(
            f"the method {settings.method} trains no student, whose gradients --gate and --sam are about: leave them "
            "out."
        )
    if isinstance(method, methods.LogitArithmetic) and adapter and not settings.merge and not lm.has_lasting_source:
        raise UserError(
            f"the method {settings.method} leaves two models, and here both would be adapters on a model that has no "
            "folder, so they could not be loaded from anywhere: save the model and give its folder, or give --merge."
        )
    check_weights_trainable(lm, adapter=adapter)
    if not settings.text_only and (not adapter or settings.merge):
        check_whole(lm, "Give --text-only to leave them behind; or --lora")
    if settings.merge:
        check_mergeable(lm)
    if settings.gradient_checkpointing and not lm.inner.supports_gradient_checkpointing:
        raise UserError(
            f"{type(lm.inner).__name__} does not support gradient checkpointing: leave out --gradient-checkpointing."
        )
    if settings.lora:
        check_adapter_fits(lm, rank=settings.lora_rank)
    try:
        with tempfile.TemporaryDirectory(prefix="rkld-") as folder:
            args = with_rate(training_arguments(settings, Path(folder)), lm)
        Trainer.get_optimizer_cls_and_kwargs(args, lm.model)
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(
            f"the training cannot be set up: {first_line(error)}. Change --optim or what it names."
        ) from None


def _check_terms(
    inputs: Inputs,
    lm: LanguageModel,
    encoder: Encoder,
    method: methods.Method,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
) -> tuple[dict[str, Sequence[Encoded]], list[Term]]:
    """Make the objective's terms once, with what refusals and the floor read, for what they refuse.

    Returns:
        as many records of each set as a run can draw, of replay a single one; and the terms.
    """
    s, i = inputs.settings, inputs
    sets: dict[str, Sequence[Encoded]] = {"forget": forget}
    if i.prompts and s.replay_weight:
        sets["replay"] = encode_all(encoder, [prompt.with_answer("x") for prompt in i.prompts[:1]])
    if retain:
        sets["retain"] = retain
    sets = with_other_answers(sets, encoder, method, s.refusals, s.seed)
    floor_records(inputs, forget, encoder, lm)
    with tempfile.TemporaryDirectory(prefix="rkld-") as folder:
        args = training_arguments(s, Path(folder))
        terms = build_terms(sets, Teacher(HiddenCache(Path(folder) / "teacher", {}), alpha=s.alpha), lm, args)
    drawn = s.epochs * s.batch_size * steps_per_epoch(len(pools(sets[method.epochs_of])), s.batch_size)
    return {name: records[:drawn] for name, records in sets.items()}, terms
