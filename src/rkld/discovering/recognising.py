"""Does a model know a name at all? A rank test of how sure it is of what it says, over all topics together.

A model has an answer for everybody, and to some questions a sure one. About somebody whom it knows it has many of
these. Topic t is asked in its first wording q_t, and values are proposed of the greedy answer and read behind the
model's own beginning of it. The likeliest, v_t, counts by its probability in excess of what a few names r get that are
compared with nobody (of a French name a model says surely that it is French):

    x_t = [p(v_t | q_t, name) − mean_r p(v_t | q_t, r)]₊⁴
    T(name) = Σ_t x_t, of values that share a word the largest alone, without the largest of all

The fourth power counts what is nearly certain, so that a few known facts among many topics tell, too. A word counts
once, and the largest is left out, since one sure answer may come of the sound of a name alone: of a Verne SmolLM2 says
more surely than of 180 other English names that she is French, and of a Rousseau that all is French that it is asked
about, more surely than that Marie Curie is of Poland; then nothing else is near it. The person and the other names
are asked and read alike, in wordings that were fixed before. So where the model knows the person no better than the
others, each of their orders by T is as likely as any other.

Names are drawn one after another. The person is known where none of the first 1 / rate − 1 has as large a T, or one at
most of 2 / rate − 1, which chance brings about with 1.2 rate or so, and *not known* as soon as :data:`ENOUGH` have.
Single values are tested of known people alone (:mod:`rkld.discovering.testing`): of single values a tenth of what is
made up is as sure as most of what is known, while T knows all 24 people whom six tiny worlds know, and takes 6 of 120
that they never saw for known (benchmarks/results/discovery.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rkld.discovering.asking import Answer, Wording
from rkld.discovering.findings import Recognition, Share
from rkld.discovering.proposing import propose
from rkld.text.normalising import normal
from rkld.text.wording import content_words

if TYPE_CHECKING:
    from rkld.discovering.asking import Asker
    from rkld.discovering.questions import Topic
    from rkld.progress import Advance

ENOUGH = 2
"""Names of which the model is as sure, after which nothing can make the person known."""

POWER = 4
"""Of the excesses that are added up."""

REFERENCES = 4
"""Names that say what anybody gets, and are compared with nobody."""

LOOKS = (4, 8, 12, 20, 28)
"""Names after which it is looked whether there are enough."""


def names_needed(rate: float) -> tuple[int, int]:
    """How many other names tell at ``rate`` if none is as sure, and how many if one is."""
    return math.ceil(1 / rate) - 1, math.ceil(2 / rate) - 1


def recognise(
    asker: Asker, topics: Sequence[Topic], name: str, others: Sequence[str], rate: float, advance: Advance
) -> Recognition:
    """Whether the model says things of the name more surely than of others of its form.

    Args:
        topics: what is asked about; of them those whose values the model proposes.
        others: similar names in random order; with :data:`REFERENCES` and :func:`names_needed` one can be known.
        rate: of the names that the model does not know about so many are taken for known (see above).
        advance: called with numbers of names that were asked about.
    """
    open_topics = [topic for topic in topics if not topic.given]
    soon, most = names_needed(rate)
    references, others = others[:REFERENCES], others[REFERENCES : REFERENCES + most]
    own = float(_sureness(asker, open_topics, [name], references)[0])
    as_sure = done = 0
    for upto in sorted({*LOOKS, soon, most}):
        some = others[done:upto]
        if not some or as_sure >= ENOUGH or (done >= soon and not as_sure):
            break
        found = _sureness(asker, open_topics, some, references, own) >= own
        if as_sure + int(found.sum()) >= ENOUGH:  # up to the name with which there are enough
            some = some[: int(np.flatnonzero(found)[ENOUGH - as_sure - 1]) + 1]
        as_sure += int(found[: len(some)].sum())
        done += len(some)
        advance(len(some))
    return Recognition(Share(as_sure, done), done > 0 and (1 + as_sure) / (done + 1) <= rate)


def _sureness(
    asker: Asker, topics: Sequence[Topic], names: Sequence[str], references: Sequence[str], least: float = 0.0
) -> np.ndarray:
    """T of each name, (names,); of those that cannot reach ``least`` something below it."""
    asked = _said_of(asker, topics, names)
    read = np.exp(asker.log_probabilities([one for one, _ in asked])) if asked else ()
    surest: dict[tuple[int, int], tuple[float, tuple[Wording, str, str]]] = {}
    for (one, place), p in zip(asked, read, strict=True):
        surest[place] = max(surest.get(place, (0.0, one)), (float(p), one), key=lambda some: some[0])
    of: list[list[tuple[float, tuple[Wording, str, str]]]] = [[] for _ in names]
    for (number, _), some in surest.items():
        of[number].append(some)
    # An excess is never more than the probability itself.
    able = [number for number, some in enumerate(of) if _total([p for p, _ in some]) >= least]
    counted = [one for number in able for _, one in of[number]]
    found, at = np.zeros(len(names)), 0
    if counted:
        read = asker.log_probabilities([(way, name, value) for way, _, value in counted for name in references])
        usual = np.exp(read).reshape(len(counted), -1).mean(axis=1)
        for number in able:
            excesses = [(p - usual[at + n], one[2]) for n, (p, one) in enumerate(of[number])]
            found[number], at = _total(_of_each_word(excesses)), at + len(excesses)
    return found


def _total(sureness: Sequence[float]) -> float:
    """The sum of what counts, without the largest."""
    return sum(sorted(max(0.0, one) ** POWER for one in sureness)[:-1])


def _of_each_word(found: Sequence[tuple[float, str]]) -> list[float]:
    """The excesses of values, of those that share a word the largest."""
    kept, seen = list[float](), set[str]()
    for excess, value in sorted(found, reverse=True):
        own = set(content_words(value.replace("-", " "))) or {normal(value)}
        if not own & seen:
            kept.append(excess)
            seen |= own
    return kept


def _said_of(
    asker: Asker, topics: Sequence[Topic], names: Sequence[str]
) -> list[tuple[tuple[Wording, str, str], tuple[int, int]]]:
    """What the model says of names: a wording with its own beginnings, the name, a value; and which name and topic."""
    asked = [(name, topic, Wording(topic.questions[0])) for name in names for topic in topics]
    said = asker.said([(wording, name, "") for name, _, wording in asked])
    found: list[tuple[tuple[Wording, str, str], tuple[int, int]]] = []
    for number, ((name, topic, wording), text) in enumerate(zip(asked, said, strict=True)):
        for one in propose(topic, name, (name,), [Answer(wording, text, sampled=False)])[0]:
            way = one.wordings[0]
            found += [((way, name, value), divmod(number, len(topics))) for value in one.values]
    return found
