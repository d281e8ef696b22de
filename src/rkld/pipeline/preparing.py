"""What a run works on: records read, model loaded, everything checked before time is spent."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.training_args import OptimizerNames

from rkld import methods
from rkld.errors import UserError, nearest
from rkld.methods.two_models import PairForCausalLM, open_model
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder
from rkld.records.identity import check_disjoint, identifiers
from rkld.records.reading import read_prompts, read_records, read_subjects
from rkld.records.record import Record
from rkld.records.refusals import read_refusals
from rkld.records.replay import generic_prompts, swapped_prompts
from rkld.settings.specification import flag, make
from rkld.settings.unlearning import Settings
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.registry import get_rule
from rkld.text.matching import mentions
from rkld.training.floor import swapped_records

MEASURED = 100
"""Retain records that are measured before and after, drawn by the seed; of the forget records all are."""


@dataclass(frozen=True)
class Inputs:
    """What a run works on, read and checked; no model has been touched."""

    settings: Settings
    forget: list[Record]
    retain: list[Record]
    prompts: list[Record]
    identifiers: tuple[str, ...]
    holdout: list[Record]


def read_inputs(settings: Settings, forget=None, retain=None, replay=None, holdout=None) -> Inputs:
    """Read and check all records. Data sets given as objects stand in for the files of the settings.

    Raises:
        UserError: anything that is wrong with them.
    """
    method = methods.get_method(settings.method, settings.method_arg)
    check_stop(settings)
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
    lm = open_model(
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


def floor_records(
    inputs: Inputs, records: Sequence[Record], encoded: Sequence[Encoded], encoder: Encoder
) -> list[Encoded]:
    """The forget records about other people, where the teacher gets a floor (:mod:`rkld.training.floor`); else none.

    Args:
        records: those that ``encoded`` were made from, and maybe others.
    """
    s = inputs.settings
    if not (s.floor and s.score == "spans" and "strengthened" in methods.get_method(s.method, s.method_arg).cached):
        return []
    by_key = {record.key: record for record in records}
    return swapped_records([by_key[e.key] for e in encoded], encoded, encoder, inputs.identifiers, s.seed)


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
    assisted = isinstance(methods.get_method(settings.method, settings.method_arg), methods.Assisted)
    return get_rule(settings.stop).steers and not assisted


def stop_comparison(inputs: Inputs, encoder: Encoder) -> Comparison | None:
    """What decides when to stop; None where the last step is taken."""
    s, i = inputs.settings, inputs
    if not has_stop(s):
        return None
    return get_rule(s.stop).compare(Material(i.forget, i.holdout, i.retain, i.identifiers, encoder, s.score, s.seed))


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
    return make({**settings, **names}, "arguments", Settings), objects
