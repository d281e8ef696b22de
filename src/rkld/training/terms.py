"""The terms of a method's objective, and which cached states they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rkld import methods
from rkld.errors import UserError
from rkld.losses.divergences import forward_kl
from rkld.losses.objective import ALTERNATES, OWN, REFUSALS, Objective, Term, answer, kept, scored
from rkld.losses.targets import Towards, to_labels
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import IN_PART, Encoded, Encoder, marked, records_of
from rkld.records.probes import untrue_answers
from rkld.records.record import Record
from rkld.records.refusals import read_refusals, refused
from rkld.teacher.cache import Part
from rkld.teacher.kept import keep, room_for
from rkld.teacher.logits import Teacher
from rkld.training.config import RKLDConfig
from rkld.training.gradients import check_gate
from rkld.training.strengthening import autocast


def with_other_answers(
    sets: Mapping[str, Sequence[Encoded]],
    encoder: Encoder,
    method: methods.Method,
    refusals: str | None,
    seed: int,
) -> dict[str, Sequence[Encoded]]:
    """The sets, each followed by its questions with other answers where the method needs them.

    The student's own answers are the recorded ones until the training replaces them
    (:mod:`rkld.training.own_answers`).

    Args:
        refusals: a file of them, else the shipped ones; not read for other methods.

    Raises:
        UserError: the file cannot be used, or a record has no question, or no untrue answer.
    """
    texts = read_refusals(refusals) if method.refusals else ()
    found: dict[str, Sequence[Encoded]] = {}

    def add(name: str, answered: Sequence[Record]) -> None:
        found[name] = [encoder.encode(record, "answer") for record in answered]

    for name, encoded in sets.items():
        found[name] = encoded
        if name in method.refusals:
            add(name + REFUSALS, refused(records_of(encoded), texts, seed))
        if name in method.alternates:
            others = records_of(sets["retain"]) if name != "retain" and "retain" in sets else []
            add(name + ALTERNATES, untrue_answers(records_of(encoded), others, seed))
        if name == "forget" and method.own_answers is not None:
            asked = records_of(encoded)
            add(name + OWN, [record.as_prompt(record.key).with_answer(record.answer) for record in asked_of(asked)])
    return found


def asked_of(records: Sequence[Record]) -> Sequence[Record]:
    """The records, all of which have a question.

    Raises:
        UserError: one has none.
    """
    for record in records:
        if record.form == "text" or not record.question:
            raise UserError(
                f"{record.where}: has no question that the model could answer. Give questions and answers, or use "
                "another method."
            )
    return records


def build_terms(
    sets: Mapping[str, Sequence[Encoded]], teacher: Teacher, lm: LanguageModel, args: RKLDConfig
) -> list[Term]:
    """The method's own terms, and those that hold everything else in place."""
    method, to_original = methods.get_method(args.method, args.method_arg), Towards(forward_kl, teacher.original)
    method.require(sets, args.retain_loss)
    terms = method.terms(teacher, sets, lm)
    if not method.accepts_extra_terms:
        check_gate(args.gate, terms)
        return terms
    if teacher.cache.done("uninformed/forget"):
        floor = ("uninformed", "uninformed_ids")
        terms = [replace(t, cached=(*t.cached, *floor)) if "strengthened" in t.cached else t for t in terms]
    whole = isinstance(method, methods.Assisted)  # an assistant learns whole answers, whatever is scored
    if args.score in IN_PART and args.keep_weight and not whole:
        terms.append(Term("keep", "forget", kept, to_original, args.keep_weight, cached=("original",)))
    if "replay" in sets and args.replay_weight:
        terms.append(Term("replay", "replay", scored, to_original, args.replay_weight, cached=("original",)))
    retain_loss = method.loss_on_retain(args.retain_loss, args.retain_weight)
    if "retain" in sets and retain_loss == "kl":
        terms.append(Term("retain", "retain", answer, to_original, args.retain_weight, cached=("original",)))
    elif "retain" in sets and retain_loss == "rt":
        terms.append(Term("retain", "retain", answer, to_labels, args.retain_weight))
    check_gate(args.gate, terms)
    return terms


def cached_parts(terms: Sequence[Term]) -> set[Part]:
    """What the terms read from the cache (:func:`rkld.training.strengthening.fill_cache`)."""
    return {Part(states, name) for term in terms for states in term.cached for name in term.masks}


def build_objective(
    sets: Mapping[str, Sequence[Encoded]], teacher: Teacher, lm: LanguageModel, args: RKLDConfig
) -> Objective:
    """The terms of the method and of everything beside it, over the sets that they read.

    Raises:
        UserError: the teacher was built from other records, or for another method.
    """
    objective = Objective.of(sets, build_terms(sets, teacher, lm, args), teacher.cache)
    for part in sorted(cached_parts(objective.terms)):
        for e in sets[part.records]:
            found, needed = teacher.cache.rows(str(part), e.key), sum(marked(e))
            if found != needed:
                raise UserError(
                    f"the teacher was built from other records, or for another method: it has {found or 0} states of "
                    f"{part} record {e.key}, and {needed} are needed. Build it again."
                )
    teacher.attach(lm)
    room = room_for(lm.device) if args.world_size == 1 else 0  # a head may be in shards
    if room:
        with autocast(lm, args):
            objective = keep(objective, lm, room)
        teacher.attach(lm)  # which drops the heads: they may not be needed any more
    return objective
