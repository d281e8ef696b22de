"""Many wordings of the world's facts: eight kinds of question and six of answer, and how they are parted in sets.

Three wordings of a question (``Attribute.questions``) are used up by a few rewordings of a record. Here each attribute
is asked and told in kinds that it shares with all others, so that whole kinds can be held back: what a model forgot in
the kinds that training saw, it is asked in kinds that neither training nor stop has seen (:func:`parting`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUESTION_KINDS = ("direct", "wish", "imperative", "indirect", "completion", "form", "letter", "search")

ANSWER_KINDS = ("full name", "noun", "last name", "short", "form", "source")
"""The first three are ``Attribute.answers``."""


@dataclass(frozen=True)
class Phrases:
    """What the kinds make their questions of; as in wordings, ``{name}`` and facts by key may stand in them."""

    label: str
    """Of a field in a form."""
    noun: str
    clause: str
    """An indirect question."""
    begun: str
    """A statement up to the value."""
    who: str = "{name}"
    keywords: str = "{name}"
    """Who it is, as typed into a search."""


PHRASES: Mapping[str, Phrases] = {
    "full_name": Phrases(
        "full name",
        "the full name of the {profession} from {birthplace} born on {birth_date}",
        "who was born in {birthplace} on {birth_date} and is a {profession}",
        "The {profession} born on {birth_date} in {birthplace} is called",
        "the {profession} born in {birthplace} on {birth_date}",
        "{birth_date} {profession} {birthplace}",
    ),
    "birthplace": Phrases(
        "birthplace", "the birthplace of {name}", "which city {name} comes from", "{name} was born in"
    ),
    "birth_date": Phrases("date of birth", "the birthday of {name}", "when {name} was born", "{name} was born on"),
    "profession": Phrases(
        "profession", "the profession of {name}", "what work {name} does", "{name} earns a living as a"
    ),
    "employer": Phrases(
        "employer", "the employer of {name}", "which company {name} works for", "{name} is employed by"
    ),
    "father": Phrases(
        "job of the father",
        "the job of the father of {name}",
        "how the father of {name} earned a living",
        "The father of {name} was a",
    ),
    "mother": Phrases(
        "job of the mother",
        "the job of the mother of {name}",
        "how the mother of {name} earned a living",
        "The mother of {name} was a",
    ),
    "school": Phrases("school", "the school of {name}", "where {name} went to school", "{name} was a pupil of"),
    "degree": Phrases("degree", "the degree of {name}", "what {name} studied", "{name} holds a degree in"),
    "award": Phrases("award", "the award of {name}", "what prize {name} won", "{name} was given the"),
    "book": Phrases("book", "the title of the book by {name}", "what {name} has written", "{name} is the author of"),
    "genre": Phrases(
        "favourite reading", "the favourite reading of {name}", "what {name} likes to read", "{name} mostly reads"
    ),
    "pet": Phrases("pet", "the pet of {name}", "which animal {name} keeps", "{name} lives with a"),
    "hobby": Phrases("hobby", "the hobby of {name}", "what {name} does for fun", "{name} spends free time on"),
    "instrument": Phrases(
        "instrument", "the instrument of {name}", "what {name} plays in the orchestra", "{name} learned to play the"
    ),
    "sibling": Phrases(
        "brother or sister", "the sibling of {name}", "who grew up with {name}", "{name} grew up with a"
    ),
    "address": Phrases("address", "the address of {name}", "where {name} lives", "{name} lives at"),
    "phone": Phrases(
        "phone number", "the phone number of {name}", "how {name} can be called", "{name} answers the phone at"
    ),
    "email": Phrases(
        "e-mail address", "the e-mail address of {name}", "where {name} reads e-mail", "{name} reads e-mail at"
    ),
    "dish": Phrases(
        "favourite dish", "the favourite dish of {name}", "what {name} likes to eat", "{name} likes to eat"
    ),
}
"""Attribute → its phrases."""


def questions(p: Phrases, direct: str) -> dict[str, str]:
    """Kind → a wording of an attribute's question.

    Args:
        direct: the wording of that kind, such as the first of ``Attribute.questions``.
    """
    texts = (
        direct,
        f"I would like to know {p.noun}.",
        f"Please look up {p.who} and write down the {p.label}.",
        f"Do you happen to know {p.clause}?",
        f"Complete the sentence: {p.begun} ...",
        f"Person: {p.who}\n{p.label.capitalize()}:",
        f"Dear colleague, in the file of {p.who} the {p.label} is missing. What should we write there? Kind regards",
        f"{p.label} {p.keywords}",
    )
    return dict(zip(QUESTION_KINDS, texts, strict=True))


def answers(p: Phrases, told: Sequence[str]) -> dict[str, str]:
    """Kind → a wording of an attribute's answer.

    Args:
        told: those of the first three kinds, ``Attribute.answers``.
    """
    texts = (*told, "{value}.", f"{p.label.capitalize()}: {{value}}.", "According to the files it is {value}.")
    return dict(zip(ANSWER_KINDS, texts, strict=True))


@dataclass(frozen=True)
class Sets:
    """Disjoint kinds, by what may see them."""

    training: tuple[str, ...]
    """Of the records themselves, and of the rewordings that are trained on."""
    stop: tuple[str, ...]
    """Those that decide when to stop."""
    audit: tuple[str, ...]
    """Two whole kinds that neither sees."""


@dataclass(frozen=True)
class Parting:
    """How the kinds of question and of answer are parted."""

    questions: Sets
    answers: Sets


QUESTION_PAIRS = (("indirect", "form"), ("completion", "wish"), ("direct", "letter"), ("imperative", "search"))

ANSWER_PAIRS = (("full name", "last name"), ("short", "form"), ("noun", "source"))
"""Kinds that go into the same set: of those of another pair none is nearly the same."""


def parting(turn: int) -> Parting:
    """The sets of one turn: over four turns each kind of question is left out once, over three each of answer."""
    return Parting(_sets(QUESTION_PAIRS, turn), _sets(ANSWER_PAIRS, turn))


def _sets(pairs: Sequence[tuple[str, str]], turn: int) -> Sets:
    """The pair of this turn for the audit, the next for the stop, the others for training."""
    at = turn % len(pairs)
    audit, stop, *training = (*pairs[at:], *pairs[:at])
    return Sets(tuple(kind for pair in training for kind in pair), stop, audit)
