"""RKLD in TRL's manner: build the teacher, then distil the student."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rkld import methods
from rkld.losses.cache import HiddenCache
from rkld.losses.teacher import Teacher
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.records.encoding import Encoded, Encoder
from rkld.records.reading import read_records
from rkld.records.refusals import read_refusals
from rkld.training.config import RKLDConfig
from rkld.training.identity import cache_identity
from rkld.training.strengthening import fill_cache
from rkld.training.terms import build_objective, build_terms, cached_parts, with_refusals
from rkld.training.trainer import ObjectiveTrainer


class RKLDTrainer(ObjectiveTrainer):
    """Distils a student to a finished teacher, in TRL's manner.

        teacher = rkld.build_teacher(model, train_dataset, "teacher/", processing_class=tokenizer)
        RKLDTrainer(model, RKLDConfig("student/"), teacher=teacher, train_dataset=train_dataset,
                    processing_class=tokenizer).train()

    Args:
        model: anything :func:`rkld.models.loading.load_model` takes; an object is trained in place.
        teacher: built from the same model and the same data sets (:func:`rkld.training.rkld_trainer.build_teacher`).
        train_dataset: the records to forget; replay_dataset: answered prompts to hold to the original;
            retain_dataset: records to keep. Any source of :func:`rkld.records.reading.read_records`.
        processing_class: the tokenizer; by default the one beside the model.
        peft_config: train an adapter; the same as the teacher's.
    """

    def __init__(
        self,
        model,
        args: RKLDConfig,
        *,
        teacher: Teacher,
        train_dataset,
        replay_dataset=None,
        retain_dataset=None,
        processing_class=None,
        peft_config=None,
        callbacks: Sequence = (),
    ):
        lm = load_student(model, processing_class, peft_config)
        sets = encode_sets(lm, args, train_dataset, replay_dataset, retain_dataset)
        super().__init__(lm, args, build_objective(sets, teacher, lm, args), callbacks)


def load_student(model, processing_class=None, peft_config=None) -> LanguageModel:
    """The model to train, with a new adapter where one is asked for: always the same, as the teacher is made with it."""
    lm = load_model(model, tokenizer=processing_class)
    if peft_config is None:
        return lm
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_adapter(lm, config=peft_config)


def encode_sets(lm: LanguageModel, args: RKLDConfig, forget, replay=None, retain=None) -> dict[str, list[Encoded]]:
    """Data sets as the objective names them, encoded in the model's own format; with the method's refusals."""
    encoder = Encoder(lm.tokenizer, context_length=lm.context_length)
    given = {"forget": forget, "replay": replay, "retain": retain}
    records = {name: read_records(source, name) for name, source in given.items() if source is not None}
    sets = {
        name: [encoder.encode(record, args.score if name == "forget" else "answer") for record in found]
        for name, found in records.items()
    }
    method = methods.get_method(args.method, args.method_arg)
    return with_refusals(sets, encoder, method, read_refusals(), seed=0)  # teacher and student see the same


def build_teacher(
    model,
    train_dataset,
    folder: str | Path,
    *,
    args: RKLDConfig | None = None,
    replay_dataset=None,
    retain_dataset=None,
    processing_class=None,
    peft_config=None,
    alpha: float = 8.0,
    score: str = "answer",
) -> Teacher:
    """Make a teacher for :class:`rkld.training.rkld_trainer.RKLDTrainer`, which takes the same model and data sets.

    Args:
        folder: of the cache; a finished one is used again if nothing it was made from has changed.
        args: of the strengthening, and the method if it is not RKLD. Default: the paper's, 5 epochs.
        alpha: ``l_t = l_o − α · ReLU(l_aug − l_o)``; the cache serves any.

    Other arguments as of :class:`rkld.training.rkld_trainer.RKLDTrainer`.
    """
    lm = load_student(model, processing_class, peft_config)
    args = args or RKLDConfig(output_dir=str(Path(folder) / "strengthened"))
    args = replace(args, score=score)
    sets = encode_sets(lm, args, train_dataset, replay_dataset, retain_dataset)
    identity = cache_identity(lm, sets, args)
    # A place of their own: checkpoints of other records or settings must not be gone on from.
    name = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    cache = HiddenCache(Path(folder), identity)
    teacher = Teacher(cache, alpha=alpha)
    held = {f"original/{name}" for name in sets}  # whatever the student's settings will be
    parts = held | cached_parts(build_terms(sets, teacher, lm, args))
    fill_cache(lm, cache, sets, replace(args, output_dir=str(Path(args.output_dir) / name)), parts=parts)
    return teacher
