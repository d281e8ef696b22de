"""RKLD in TRL's manner: build the teacher, then distil the student."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from transformers import TrainerCallback

from rkld import methods, processes
from rkld.errors import UserError
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import Dtype, for_training, load_model
from rkld.models.source import check_whole
from rkld.records.encoding import Encoded, Encoder
from rkld.records.reading import read_records
from rkld.records.sources import Source
from rkld.settings.habits import NO_EVALUATION, instead
from rkld.teacher.cache import HiddenCache, Part
from rkld.teacher.logits import Teacher
from rkld.training.config import RKLDConfig, of_strengthening
from rkld.training.identity import cache_identity
from rkld.training.own_answers import DrawOwnAnswers
from rkld.training.strengthening import fill_cache
from rkld.training.terms import build_objective, build_terms, cached_parts, with_other_answers
from rkld.training.trackers import TRACKERS, check_trackers
from rkld.training.trainer import ObjectiveTrainer


class RKLDTrainer(ObjectiveTrainer):
    """Distils a student to a finished teacher, in TRL's manner.

        args = rkld.RKLDConfig("student/")
        teacher = rkld.build_teacher(model, train_dataset, "teacher/", args=args, processing_class=tokenizer)
        RKLDTrainer(model, args, teacher=teacher, train_dataset=train_dataset, processing_class=tokenizer).train()

    These are the strengthening and the distillation of :func:`rkld.unlearn`, with the same settings and defaults. What
    else a run does is left to the caller: self-replay is whatever ``replay_dataset`` holds (none by default), training
    ends after ``num_train_epochs`` (no stopping rule; give one as a callback), the teacher has no floor, answers of the
    model's own do not join the records, nothing is measured before or after, and no identifiers are looked for in
    retain and replay records.

    Args:
        model: anything :func:`rkld.models.loading.load_model` takes; an object is trained in place, cast to the
            ``dtype`` of the arguments before (float32 by default).
        args: of the training; ``alpha`` and ``score`` are these whatever the teacher was built with.
        teacher: built from the same model and the same data sets (:func:`build_teacher`).
        train_dataset: the records to forget; replay_dataset: answered prompts to hold to the original;
            retain_dataset: records to keep. Any source of :func:`rkld.records.reading.read_records`.
        processing_class: the tokenizer; by default the one beside the model.
        peft_config: train an adapter (without target modules: in all linear layers but the head); the same as the
            teacher's.
        callbacks: :class:`transformers.TrainerCallback` objects.

    Raises:
        UserError: the teacher was built from other records, for another method, or for another score.
    """

    def __init__(
        self,
        model: Any,
        args: RKLDConfig | None = None,
        *,
        teacher: Teacher | None = None,
        train_dataset: Source | None = None,
        replay_dataset: Source | None = None,
        retain_dataset: Source | None = None,
        processing_class: Any = None,
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **others: Any,
    ):
        args = _checked(RKLDTrainer, args, train_dataset, others)
        if teacher is None:
            raise UserError(
                "RKLDTrainer needs a teacher: teacher = rkld.build_teacher(model, train_dataset, FOLDER, args=args), "
                "and then RKLDTrainer(model, args, teacher=teacher, train_dataset=train_dataset)."
            )
        assert train_dataset is not None
        lm = load_student(model, processing_class, peft_config, args.dtype)
        sets = encode_sets(lm, args, train_dataset, replay_dataset, retain_dataset)
        teacher = Teacher(teacher.cache, alpha=args.alpha)  # the cache serves any alpha
        objective = build_objective(sets, teacher, lm, args)
        if (how := methods.get_method(args.method, args.method_arg).own_answers) is not None:
            encoder, folder = Encoder(lm.tokenizer, context_length=lm.context_length), Path(str(args.output_dir))
            callbacks = [*callbacks, DrawOwnAnswers(lm, encoder, objective, how, folder, args.seed)]
        super().__init__(lm, args, objective, callbacks)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Nothing: see what is raised.

        Raises:
            UserError: always, with what measures instead.
        """
        raise UserError(f"RKLDTrainer.evaluate: {NO_EVALUATION}")

    def predict(self, *_: Any, **__: Any) -> Any:
        """Nothing, as :meth:`evaluate`."""
        raise UserError(f"RKLDTrainer.predict: {NO_EVALUATION}")


def _checked(
    made: Callable[..., Any], args: Any, train_dataset: Source | None, others: Mapping[str, Any]
) -> RKLDConfig:
    """The arguments of a training; by default :class:`rkld.RKLDConfig`'s.

    Raises:
        UserError: others than those that there are, with what to write instead; no records to forget; a tracker that
            cannot report.
    """
    if others:
        name = next(iter(others))
        hint = instead(name, "trainer", inspect.signature(made).parameters)
        raise UserError(f"{made.__name__}: unknown argument '{name}'.{hint}")
    if args is not None and not isinstance(args, RKLDConfig):
        raise UserError(
            f"{made.__name__}: args is a {type(args).__name__}. Write rkld.RKLDConfig(…), which takes the same names."
        )
    if train_dataset is None:
        raise UserError(f"{made.__name__}: train_dataset is missing: the records to forget.")
    checked = RKLDConfig() if args is None else args
    check_trackers([name for name in checked.report_to if name in TRACKERS], "report_to=")
    return checked


def load_student(
    model: Any, processing_class: Any = None, peft_config: PeftConfig | None = None, dtype: Dtype = "auto"
) -> LanguageModel:
    """The model to train, with a new adapter where one is asked for: always the same, for the teacher has it, too."""
    lm = load_model(model, tokenizer=processing_class, dtype=for_training(dtype))
    if peft_config is None:
        if not lm.is_adapter:
            check_whole(lm, "Pass the loaded model as an object to leave them behind; or peft_config=…")
        return lm
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_adapter(lm, config=peft_config)


def encode_sets(
    lm: LanguageModel, args: RKLDConfig, forget: Source, replay: Source | None = None, retain: Source | None = None
) -> dict[str, Sequence[Encoded]]:
    """Data sets as the objective names them, encoded in the model's own format; with the method's refusals."""
    encoder = Encoder(lm.tokenizer, context_length=lm.context_length)
    given = {"forget": forget, "replay": replay, "retain": retain}
    records = {name: read_records(source, name) for name, source in given.items() if source is not None}
    sets = {
        name: [encoder.encode(record, args.score if name == "forget" else "answer") for record in found]
        for name, found in records.items()
    }
    method = methods.get_method(args.method, args.method_arg)
    if method.needs_base:
        raise UserError(f"the method {method.name} needs the model from before: use rkld.unlearn(…, base=…).")
    return with_other_answers(sets, encoder, method, args.refusals, args.seed)


def build_teacher(
    model: Any,
    train_dataset: Source,
    folder: str | Path,
    *,
    args: RKLDConfig | None = None,
    replay_dataset: Source | None = None,
    retain_dataset: Source | None = None,
    processing_class: Any = None,
    peft_config: PeftConfig | None = None,
    **others: Any,
) -> Teacher:
    """Make a teacher for :class:`RKLDTrainer`, which takes the same model, data sets and arguments.

    Args:
        folder: of the cache; a finished one is used again if nothing it was made from has changed. It holds personal
            data, and beside them the original's weights and the strengthening's checkpoints.
        args: those of the student's training. The strengthening takes ``strengthen_epochs`` passes at a peak rate of
            ``strengthen_lr``, by default as ``learning_rate``; everything else is as in the distillation. Default:
            :class:`rkld.RKLDConfig`'s defaults. ``alpha`` does not enter the cache, which serves any.

    Other arguments as of :class:`RKLDTrainer`.
    """
    with processes.together():
        return _build_teacher(
            model, train_dataset, folder, args, replay_dataset, retain_dataset, processing_class, peft_config, others
        )


def _build_teacher(
    model: Any,
    train_dataset: Source,
    folder: str | Path,
    args: RKLDConfig | None,
    replay_dataset: Source | None,
    retain_dataset: Source | None,
    processing_class: Any,
    peft_config: PeftConfig | None,
    others: Mapping[str, Any],
) -> Teacher:
    strengthened = Path(folder) / "strengthened"
    args = _checked(build_teacher, args or RKLDConfig(str(strengthened)), train_dataset, others)
    lm = load_student(model, processing_class, peft_config, args.dtype)
    args = of_strengthening(args, lm, str(strengthened))
    sets = encode_sets(lm, args, train_dataset, replay_dataset, retain_dataset)
    identity = cache_identity(lm, sets, args)
    # A place of their own: checkpoints of other records or settings must not be gone on from.
    name = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    cache = HiddenCache(Path(folder), identity)
    teacher = Teacher(cache, alpha=args.alpha)
    originals = {Part("original", name) for name in sets}  # whatever the student's settings will be
    parts = originals | cached_parts(build_terms(sets, teacher, lm, args))
    args.output_dir = str(strengthened / name)
    fill_cache(lm, cache, sets, args, parts=parts)
    return teacher
