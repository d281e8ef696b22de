"""Does a model know a name at all? A rank test of how sure it is of what it says, over all topics together.

A model has an answer for everybody, and to some questions a sure one. About somebody whom it knows it has many of
these. Topic t is asked in two wordings q_t0 and q_t1, one of each half of its questions; values are proposed of the two
greedy answers, and read behind the model's own beginnings of them:

    T(name) = mean_t max_{k, v} p(v | q_tk, name)⁴

The fourth power counts what is nearly certain, so that a few known facts among many topics tell, too. The person and
the other names are asked and read alike, in wordings that were fixed before. So where the model knows the person no
better than the others, each of their orders by T is as likely as any other.

Names are drawn one after another. The person is *not known* once :data:`ENOUGH` of them have as large a T. They are
known where none of the first 1 / rate − 1 has, or one at most of 2 / rate − 1, which chance brings about with 1.2 rate
or so. Single values are tested of known people alone (:mod:`rkld.discovering.testing`): of single values a tenth of
what is made up is as sure as most of what is known, while T parted all people whom two tiny worlds know from all that
they never saw (benchmarks/results/exploration.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rkld.discovering.asking import Answer, Wording
from rkld.discovering.findings import Recognition, Share
from rkld.discovering.proposing import propose

if TYPE_CHECKING:
    from rkld.discovering.asking import Asker
    from rkld.discovering.questions import Topic
    from rkld.progress import Advance

ENOUGH = 3
"""Names of which the model is as sure, after which no more are asked about."""

POWER = 4
"""Of the probabilities that are averaged."""

LOOKS = (4, 12)
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
        others: similar names in random order, :func:`names_needed` at least for one to be known.
        rate: of the names that the model does not know about so many are taken for known (see above).
        advance: called with numbers of names that were asked about.
    """
    open_topics = [topic for topic in topics if not topic.given]
    soon, most = names_needed(rate)
    others = others[:most]
    own = float(_sureness(asker, open_topics, [name])[0])
    as_sure = done = 0
    for upto in sorted({*LOOKS, soon, most}):
        some = others[done:upto]
        if not some or as_sure >= ENOUGH or (done >= soon and not as_sure):
            break
        found = _sureness(asker, open_topics, some) >= own
        if as_sure + int(found.sum()) >= ENOUGH:  # up to the name with which there are enough
            some = some[: int(np.flatnonzero(found)[ENOUGH - as_sure - 1]) + 1]
        as_sure += int(found[: len(some)].sum())
        done += len(some)
        advance(len(some))
    return Recognition(Share(as_sure, done), done > 0 and (1 + as_sure) / (done + 1) <= rate)


def _sureness(asker: Asker, topics: Sequence[Topic], names: Sequence[str]) -> np.ndarray:
    """T of each name, (names,)."""
    wordings = [[Wording(topic.half(half)[0]) for half in (0, 1)] for topic in topics]
    said = iter(asker.said([(wording, name, "") for name in names for two in wordings for wording in two]))
    asked: list[tuple[Wording, str, str]] = []
    of: list[tuple[int, int]] = []
    for number, name in enumerate(names):
        for at, (topic, two) in enumerate(zip(topics, wordings, strict=True)):
            answers = [Answer(wording, next(said), sampled=False) for wording in two]
            for one in propose(topic, name, (name,), answers)[0]:
                ways = [way for way in one.wordings if way.question in {wording.question for wording in two}]
                asked += [(way, name, value) for way in ways for value in one.values]
                of += [(number, at)] * (len(ways) * len(one.values))
    surest = np.zeros((len(names), len(topics)))
    if asked:
        np.maximum.at(surest, tuple(np.array(of).T), np.exp(asker.log_probabilities(asked)))
    sureness: np.ndarray = (surest**POWER).mean(axis=1) if topics else np.zeros(len(names))
    return sureness
