"""Probes: questions that would bring a fact to light, made from the forget records themselves.

For each fact of a record (its spans; without any, the names, dates and numbers of its answer) up to three:

- ``question``: the record's own question;
- ``prefix``: the same with the answer begun, up to the fact, for the model to go on from;
- ``cloze``: the sentence of the fact with a blank in its place.

Each is an ordinary record whose answer holds the fact, with ``perturbed_answer`` (the fact replaced by others of its
kind, from the other records), ``paraphrased_answer`` and ``paraphrased_question``. So all metrics on records take them,
and nobody has to write paraphrases. These are mechanical rewordings: written ones are the stronger test.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from rkld.errors import UserError
from rkld.records.record import TEMPLATE_ARGUMENTS, Record, Turn, by_answer
from rkld.text.facts import facts_said
from rkld.text.matching import Matcher, mentions
from rkld.text.normalising import words
from rkld.text.wording import is_said_name, name_mentions, proper_nouns, sentences, with_names

Kind = Literal["question", "prefix", "cloze"]

ALTERNATIVES = 5
"""Wrong answers to a probe, as many as TOFU has."""

_BLANK = "_____"

_CLOZE = "Fill in the blank: {}"

_REWORDED = "Please answer this question: {}"

_ANSWERED = "The answer to that is this: {}"


@dataclass(frozen=True)
class Probe:
    """One way to ask for one fact. Holds personal data.

    A ``prefix`` probe's model goes on from the beginning of the answer
    (:func:`rkld.evaluation.memorisation.blanks`); the others are answered as questions are.
    """

    kind: Kind
    fact: str
    """What must not be said."""
    record: Record
    """The question, and the answer that holds the fact; its key names the forget record, the fact and the kind."""

    def row(self) -> dict[str, Any]:
        """Plain values, one line of a probes file, as :func:`rkld.records.reading.read_records` reads it."""
        subject = {"subject": self.record.subject} if self.record.subject else {}
        turns: dict[str, Any] = {"question": self.record.question, "answer": self.record.answer}
        if len(self.record.turns) > 2 or self.record.template_variables or any(t.fields for t in self.record.turns):
            messages = [turn.message() for turn in self.record.turns]
            turns = {"messages": messages, TEMPLATE_ARGUMENTS: dict(self.record.template_variables)}
        return {**turns, "spans": [self.fact], **subject, "kind": self.kind, **self.record.extra}


def make_probes(
    forget: Sequence[Record], others: Sequence[Record], identifiers: Sequence[str], seed: int = 0
) -> list[Probe]:
    """Probes of every fact of the forget records, the same for the same arguments.

    Args:
        forget: the person's records; plain texts give cloze probes alone.
        others: records about others (retain, holdout): their facts are the wrong answers.
        identifiers: the person's names and aliases, which are not facts themselves.
        seed: of the choice among wrong answers.

    A fact without :data:`ALTERNATIVES` others of its kind gets no ``perturbed_answer``; years and numbers always have
    some, near the right one.

    Raises:
        UserError: no record holds a fact.
    """
    known = _Known(others, forget)
    found: list[Probe] = []
    for record in by_answer(forget):
        for number, fact in enumerate(facts_of(record, identifiers)):
            chance = random.Random(f"{seed} {record.key} {number}")
            wrong = known.alternatives(fact, record, is_said_name(fact, identifiers), chance)
            found += _probes(record, number, fact, wrong, identifiers)
    if not found:
        raise UserError(
            f"None of the {len(forget)} forget records holds a fact to ask for: mark the personal parts as 'spans'."
        )
    return found


def as_probes(records: Sequence[Record]) -> list[Probe]:
    """The probes that records of a probes file are.

    Raises:
        UserError: a record has no ``kind``, an unknown one, or no span.
    """
    found = []
    for record in records:
        kind = record.extra.get("kind")
        if kind not in get_args(Kind) or not record.spans:
            known = "known" if kind in get_args(Kind) else "missing or unknown"
            raise UserError(
                f"{record.where} is no probe: its kind is {known}, "
                f"and it has {len(record.spans)} spans. A probe has a kind ({', '.join(get_args(Kind))}) and one span, "
                "the fact that it asks for."
            )
        found.append(Probe(cast("Kind", kind), record.spans[0], record))
    return found


# The forget records as they are, asked otherwise


def facts_of(record: Record, identifiers: Sequence[str] = ()) -> tuple[str, ...]:
    """The facts whose appearance in an answer is a leak: those of the record's answer that nothing before it says.

    The record's spans; without any, the answer's names, titles, dates and numbers
    (:func:`rkld.text.wording.proper_nouns`). The person's own names are facts only in answers to a question that does
    not name the person: all others say them.
    """
    found = record.spans or proper_nouns(record.answer)
    before = "" if record.form == "text" else record.before
    named = record.form == "text" or bool(name_mentions(record.question, identifiers))
    return tuple(
        fact
        for fact in dict.fromkeys(found)
        if fact.strip()
        and facts_said([fact], record.answer)[0]
        and not facts_said([fact], before)[0]
        and not (named and is_said_name(fact, identifiers))
    )


def paraphrased_questions(records: Sequence[Record]) -> list[Record]:
    """The records that have a question and a ``paraphrased_question``, with that as their question."""
    return [
        record.with_question(reworded)
        for record in records
        if record.question and (reworded := record.extra.get("paraphrased_question"))
    ]


def untrue_answers(records: Sequence[Record], others: Sequence[Record], seed: int) -> list[Record]:
    """The records' questions, under their keys, each with an answer that reads like the recorded one and is not true.

    It is one of the record's ``perturbed_answer`` where it has some, else its own with every fact replaced by another
    of its kind, as in :func:`make_probes`.

    Args:
        others: records about others, whose facts take the place of the person's; years and numbers are moved.

    Raises:
        UserError: a record has no question, no fact, or a fact of which there is no other.
    """
    known, found = _Known(others, records), []
    for record in records:
        if record.form == "text" or not record.question:
            raise UserError(
                f"{record.where}: has no question, so it has no other answer. Give questions and answers, or use "
                "another method."
            )
        chance = random.Random(f"{seed} {record.key}")
        if written := record.extra.get("perturbed_answer"):
            answer = chance.choice([written] if isinstance(written, str) else list(written))
        else:
            answer = _untrue(record, known, chance)
        found.append(record.as_prompt(record.key).with_answer(answer))
    return found


def _untrue(record: Record, known: _Known, chance: random.Random) -> str:
    """The record's answer with its facts replaced. Raises as :func:`untrue_answers`."""
    names, answer = [record.subject] if record.subject else [], record.answer
    for fact in sorted(facts_of(record, names), key=len, reverse=True):
        blanked = _blanked(answer, fact)
        other = known.alternatives(fact, record, is_said_name(fact, names), chance, fewest=1)
        if _BLANK in blanked and not other:
            break
        answer = blanked.replace(_BLANK, chance.choice(other)) if other else blanked
    else:
        if answer != record.answer:
            return answer
    raise UserError(
        f"{record.where}: no answer could be made that reads like the recorded one and is not true. Give some as "
        "'perturbed_answer' in the records, or records with facts of the same kinds with --retain."
    )


def unnamed_questions(records: Sequence[Record], identifiers: Sequence[str]) -> list[Record]:
    """The records with nothing before their answer that names the person: names and parts become "this person".

    What a model says to these is said of anybody, so it shows facts that come without a name. Records without a
    question are left out.
    """

    def unname(text: str) -> str:
        return with_names(text, identifiers, lambda _: "this person")

    found = []
    for record in records:
        if record.form == "text" or not record.question:
            continue
        before = [turn.map_text(unname) for turn in record.turns[: record.answer_index]]
        asked = replace(record, turns=(*before, *record.turns[len(before) :]))
        found.append(asked.with_question(asked.question[:1].upper() + asked.question[1:]))
    return found


# How probes are made


def _probes(
    record: Record, number: int, fact: str, wrong: Sequence[str], identifiers: Sequence[str]
) -> Iterable[Probe]:
    """The probes of one fact."""

    def probe(kind: Kind, made: Record, frame: str, reworded: str) -> Probe:
        """``frame`` is the answer with a place for the fact."""
        extra: dict[str, Any] = {
            "paraphrased_question": reworded,
            "paraphrased_answer": _ANSWERED.format(frame.replace(_BLANK, fact)),
        }
        if wrong:
            extra["perturbed_answer"] = [_ANSWERED.format(frame.replace(_BLANK, one)) for one in wrong]
        key = f"{record.key}.{number}.{kind}"
        return Probe(kind, fact, replace(made.with_spans([fact]), key=key, extra=extra))

    answer = _blanked(record.answer, fact)
    if _BLANK not in answer:  # there in another spelling only
        return
    if record.form != "text" and record.question:
        reworded = _REWORDED.format(record.question)
        yield probe("question", record, answer, reworded)
        if not answer.startswith(_BLANK):
            yield probe("prefix", record, answer, reworded)
    sentence = next(s for s in sentences(answer) if _BLANK in s)
    if identifiers and not name_mentions(f"{sentence} {fact}", identifiers):
        sentence = f"About {record.subject or identifiers[0]}: {sentence}"
    question = _CLOZE.format(sentence)
    cloze = replace(record, form="chat", turns=(Turn("user", question), Turn("assistant", fact)))
    yield probe("cloze", cloze, _BLANK, _REWORDED.format(question))


def _blanked(text: str, fact: str) -> str:
    """The text with a blank in the fact's place, wherever it stands: a second mention would give it away."""
    places = mentions(text, (fact,)) or [match.span() for match in re.finditer(re.escape(fact), text)]
    for start, end in reversed(places):
        text = text[:start] + _BLANK + text[end:]
    return text


class _Known:
    """Facts about others that the forget records do not say, to be taken for wrong answers."""

    def __init__(self, others: Sequence[Record], forget: Sequence[Record]) -> None:
        self.facts: dict[str, tuple[str, str]] = {}  # as compared → (as written, the word before it)
        self.names = {_key(record.subject) for record in others if record.subject}
        for record in others:
            if record.subject:
                self.facts.setdefault(_key(record.subject), (record.subject, ""))
            for fact in record.spans or proper_nouns(record.answer):
                if words(fact):
                    self.facts.setdefault(_key(fact), (fact, _before(record.answer, fact)))
        self.personal = " \n ".join(turn.text for one in forget for turn in one.turns)
        said = Matcher([written for written, _ in self.facts.values()]).said(self.personal)
        self.facts = {key: fact for number, (key, fact) in enumerate(self.facts.items()) if number not in said}

    def alternatives(
        self, fact: str, record: Record, is_name: bool, chance: random.Random, fewest: int = ALTERNATIVES
    ) -> list[str]:
        """Others of the same kind, those first that stand behind the same word and are as long; none where there are
        fewer than ``fewest``.

        For the person's name (``is_name``) other persons' come first; for all else they are of no use.
        """
        shape, before = _shape(fact), _before(record.answer, fact)
        candidates = [
            (key not in self.names, word != before, abs(len(other.split()) - len(fact.split())), chance.random(), other)
            for key, (other, word) in self.facts.items()
            if _shape(other) == shape and (is_name or key not in self.names)
        ]
        chosen = [other for *_, other in sorted(candidates)[:ALTERNATIVES]]
        near = list(range(-30, 0)) + list(range(1, 31))
        chance.shuffle(near)
        taken = {_key(fact), *map(_key, chosen)}
        for step in near:
            if len(chosen) == ALTERNATIVES or not any(c.isdigit() for c in shape):
                break
            other = _moved(fact, step)
            if other is not None and _key(other) not in taken and not mentions(self.personal, (other,)):
                chosen.append(other)
                taken.add(_key(other))
        return chosen if len(chosen) >= fewest else []


def _shape(fact: str) -> str:
    """The kind of a fact as far as its letters tell: a year, a number, a date, a name, other words."""
    if any(c.isdigit() for c in fact):
        return re.sub(r"\d+", lambda n: "0000" if len(n[0]) == 4 else "0", re.sub(r"[^\W\d_]+", "w", fact))
    return "Name" if any(map(str.isupper, fact)) else "words"


def _moved(fact: str, step: int) -> str | None:
    """The fact with its last number of most digits so many higher; None where there is no such number."""
    numbers = list(re.finditer(r"\d+", fact))
    if not numbers:
        return None
    match = max(numbers, key=lambda m: (len(m[0]), m.start()))
    value = int(match[0]) + step
    if value < 1 or len(str(value)) != len(match[0]):
        return None
    return f"{fact[: match.start()]}{value}{fact[match.end() :]}"


def _before(text: str, fact: str) -> str:
    """The word that stands before a fact, such as "in"; "" at the beginning."""
    places = mentions(text, (fact,))
    before = words(text[: places[0][0]]) if places else []
    return before[-1] if before else ""


def _key(fact: str) -> str:
    """A fact as it is compared: without case, accents and punctuation."""
    return " ".join(words(fact)) or fact.strip()


def fact_groups(facts: Iterable[str]) -> list[list[str]]:
    """The facts, each once, in groups: two are in one where one holds the other ("Karachi", "Karachi, Pakistan")."""
    written = list({_key(fact): fact for fact in facts}.values())
    matcher = Matcher(tuple(written))
    group_of = {fact: [fact] for fact in written}
    for fact in written:
        for number in matcher.said(fact):
            mine, other = group_of[fact], group_of[written[number]]
            if mine is not other:
                smaller, larger = sorted((mine, other), key=len)
                larger.extend(smaller)
                group_of.update(dict.fromkeys(smaller, larger))
    return [group for fact, group in group_of.items() if fact == group[0]]
