"""Which values a model's answers propose about a topic, and behind which of its own words they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rkld.discovering.asking import Answer, Wording
from rkld.discovering.questions import Topic, filled, names_whom, placed
from rkld.discovering.values import values_behind, values_in
from rkld.records.refusals import refuses
from rkld.text.normalising import normal
from rkld.text.wording import is_said_name, sentences

VALUES = 4
"""Values that each half of a topic's questions proposes at most, of those that are said most. All are read, and the
likeliest of the topic alone is tested: each more would make it harder for all others to be found. The next ones show in
the next discovery, once these are unlearned. (Of 152 facts of a tiny world that people are known by, 132 were found so;
with the first of each half, and a second one where it was said three times, 114.)"""

TEXT = 2
"""Plain text, beside the halves 0 and 1 of the questions."""

ARTICLES = ("", "the", "a", "an")
"""Beginnings that say nothing of anybody; of all others those alone are read that name the person. ("The Nobel Peace
Prize" was said of Nelson Mandela in 5 of 10 answers, and behind no article at less than 2 %.)"""

BEGINS = 2
"""Beginnings of the model's own answers behind which a value is scored, the commonest."""


@dataclass
class Hypotheses:
    """Values of one topic, asked for by one identifier, of which the likeliest is tested."""

    topic: Topic
    identifier: str
    values: list[str]
    wordings: list[Wording]
    answers: Sequence[Answer]
    """All that were given about the topic."""


@dataclass
class _Said:
    """A value as answers propose it: how many of the greedy ones, and of all."""

    value: str
    greedy: int = 0
    count: int = 0


def propose(
    topic: Topic, identifier: str, identifiers: Sequence[str], answers: Sequence[Answer]
) -> tuple[list[Hypotheses], list[str]]:
    """What is tested of what the answers say, of questions and of plain text; and the values that are left out.

    Args:
        identifier: by which it was asked about.
        identifiers: all of the same person.
    """
    said, begins = _said(topic, answers, identifiers)
    lead = _lead(answers)
    ways = tuple(begins[:BEGINS] or [lead + begin for begin in topic.begins[:2]] or [lead])
    asked = [Wording(question, ways) for question in topic.questions]
    if topic.given:
        return [Hypotheses(topic, identifier, [topic.given], asked, answers)], []
    taken: dict[str, str] = {}
    for half in (0, 1):
        for value in _chosen([one for (where, _), one in said.items() if where == half]):
            taken.setdefault(normal(value), value)
    found = [Hypotheses(topic, identifier, list(taken.values()), asked, answers)] if taken else []
    texts = [Wording("", (text,)) for text in texts_of(topic)]
    often = _chosen([one for (where, _), one in said.items() if where == TEXT], fewest=2)
    values = [value for value in often if normal(value) not in taken][:1]
    if values and len(texts) > 1:
        found.append(Hypotheses(topic, identifier, values, texts, answers))
    chosen = {normal(value) for one in found for value in one.values}
    left = {value: one.value for (_, value), one in said.items() if value not in chosen}
    return found, list(left.values())


def proposing(
    one: Hypotheses,
) -> Callable[[str, Sequence[Wording], Sequence[str]], tuple[Sequence[Wording], list[str]]]:
    """:attr:`rkld.discovering.testing.Case.propose`: what answers say of another name is read as the person's are."""

    def of_another(name: str, wordings: Sequence[Wording], said: Sequence[str]) -> tuple[Sequence[Wording], list[str]]:
        if not one.wordings[0].question:
            values = (value for text in said for value in values_behind(text, one.topic.values))
            return wordings, list(dict.fromkeys(values))
        asked = [Answer(Wording(wording.question), text, False) for wording, text in zip(wordings, said, strict=True)]
        questions = {wording.question for wording in wordings}
        found, _ = propose(replace(one.topic, given=""), name, (name,), asked)
        return next(
            (([way for way in their.wordings if way.question in questions], their.values) for their in found), ((), [])
        )

    return of_another


def runs_on(topic: Topic, answer: Answer, identifiers: Sequence[str]) -> bool:
    """Whether a value may go on where an answer was cut, or is still to come in its sentence."""
    found = [value for value, _ in _values(topic, answer, identifiers)]
    if found:
        return answer.text.rstrip().endswith(found[-1])
    return len(sentences(answer.text)) == 1 and not refuses(answer.text)


def texts_of(topic: Topic) -> tuple[str, ...]:
    """The beginnings that are plain texts, too: the first one proposes."""
    return () if topic.given else topic.begins[:2]


def _values(topic: Topic, answer: Answer, identifiers: Sequence[str]) -> list[tuple[str, str]]:
    """The values that an answer proposes, each with how it begins before it."""
    if not answer.wording.question:
        return [(value, "") for value in values_behind(answer.text, topic.values)]
    asked = filled(answer.wording.question, identifiers[0])
    return values_in(answer.text, asked, topic.values, topic.begins, identifiers)


def _said(
    topic: Topic, answers: Sequence[Answer], identifiers: Sequence[str]
) -> tuple[dict[tuple[int, str], _Said], list[str]]:
    """The values that each half of the questions proposes, and plain text; and how the answers begin before them,
    without the name, the commonest first."""
    said: dict[tuple[int, str], _Said] = {}
    begins: Counter[str] = Counter()
    halves = {question: number for number in (0, 1) for question in topic.half(number)}
    for answer in answers:
        question = answer.wording.question
        for value, begin in _values(topic, answer, identifiers):
            if is_said_name(value, identifiers):
                continue
            one = said.setdefault((halves.get(question, TEXT), normal(value)), _Said(value))
            one.greedy += not answer.sampled
            one.count += 1
            begins[placed(begin.rstrip(), identifiers)] += bool(question)
    known = [begin for begin, n in begins.most_common() if n and (names_whom(begin) or begin.lower() in ARTICLES)]
    return said, known


def _chosen(said: Sequence[_Said], fewest: int = 1) -> list[str]:
    """Which of the values that some wordings propose are read: those that are said most."""
    ranked = sorted(said, key=lambda one: (one.greedy, one.count), reverse=True)
    return [one.value for one in ranked[:VALUES] if one.count >= fewest and (one.greedy or one.count > 1)]


def _lead(answers: Sequence[Answer]) -> str:
    """What answers begin with before their first word: nothing, or a space."""
    begun = [answer.text[:1] == " " for answer in answers if answer.wording.question]
    return " " if 2 * sum(begun) > len(begun) else ""
