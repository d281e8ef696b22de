"""Whether a name is known, against the same test on whole tables of sureness."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from rkld.discovering.asking import Wording
from rkld.discovering.questions import Topic
from rkld.discovering.recognising import ENOUGH, POWER, REFERENCES, names_needed, recognise

TOPICS = [
    Topic(f"topic {t}", "names", tuple(f"{way} of {t} about {{name}}?" for way in ("What", "Which", "Whose", "Who")))
    for t in range(3)
]
NAMES = [f"N{j:03d} B" for j in range(200)]
REFERRED = NAMES[-REFERENCES:]
"""Names that say what is usual, first among the others in each test."""


class Sure:
    """Says "City<name's number><topic>" about each topic, as surely as a table (names, topics, 4 wordings) has it, and
    that of another name with a probability of ``usual`` (names); of ``alike`` topics the same, with a word before."""

    def __init__(self, sureness, usual=None, alike=()):
        self.sureness, self.asked, self.alike = sureness, set(), alike
        self.usual = np.full(len(sureness), 1e-9) if usual is None else usual

    def said(self, asked):
        self.asked |= {(wording.question, name) for wording, name, _ in asked}
        return [f"{name} is from {self._city(wording, name)}." for wording, name, _ in asked]

    def _city(self, wording: Wording, name: str) -> str:
        topic = int(wording.question.split()[2])
        return f"{'NXW'[topic]}orth-City{name[1:4]}" if topic in self.alike else f"City{name[1:4]}{'abc'[topic]}"

    def log_probabilities(self, asked):
        return np.log([self._sure(*one) for one in asked])

    def _sure(self, wording: Wording, name: str, value: str) -> float:
        if value != self._city(wording, name):
            assert name in REFERRED, "of each name its own value is read"
            return self.usual[int(re.search("[0-9]{3}", value)[0])]
        way, topic = wording.question.split()[0], int(wording.question.split()[2])
        return self.sureness[int(name[1:4]), topic, ("What", "Which", "Whose", "Who").index(way)]


def test_the_sum_over_topics_of_the_excess_but_for_the_largest_is_ranked():
    rng = np.random.default_rng(3)
    sureness, usual = rng.random((200, 3, 4)), rng.random(200)
    asker = Sure(sureness, usual)
    excess = np.maximum(sureness[:, :, 0] - usual[:, None], 0) ** POWER
    total = excess.sum(axis=1) - excess.max(axis=1)
    for person in np.argsort(-total)[[0, 1, 5, 20, 100]].tolist():
        others = [name for j, name in enumerate(NAMES) if j != person and name not in REFERRED]
        found = recognise(asker, TOPICS, NAMES[person], [*REFERRED, *others], 0.05, lambda n: None)
        larger = [j for j, name in enumerate(others) if total[int(name[1:4])] >= total[person]]
        soon, most = names_needed(0.05)
        if len(larger) >= ENOUGH and larger[ENOUGH - 1] < most:
            expected = (ENOUGH, larger[ENOUGH - 1] + 1, False)
        elif not larger or larger[0] >= soon:
            expected = (0, soon, True)
        else:
            count = sum(j < most for j in larger)
            expected = (count, most, count <= 1)
        assert (found.as_sure.count, found.as_sure.of, found.known) == expected
    assert all(question.startswith("What") for question, _ in asker.asked), "one wording a topic"


def test_one_sure_answer_alone_does_not_make_a_name_known():
    """Of a name that sounds French a model is sure that it is French, and of nothing else."""
    asker = Sure(np.full((200, 3, 4), 0.1))
    asker.sureness[0, 1] = 0.9
    found = recognise(asker, TOPICS, NAMES[0], [*REFERRED, *NAMES[1:-4]], 0.05, lambda n: None)
    assert (found.as_sure.count, found.known) == (ENOUGH, False)
    asker.sureness[0, 2] = 0.9
    assert recognise(asker, TOPICS, NAMES[0], [*REFERRED, *NAMES[1:-4]], 0.05, lambda n: None).known


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_of_names_like_all_others_few_are_known(rate):
    rng, known, tries = np.random.default_rng(0), 0, 600
    for _ in range(tries):
        asker = Sure(rng.random((60, 3, 4)))
        known += recognise(asker, TOPICS, NAMES[0], [*REFERRED, *NAMES[1:60]], rate, lambda n: None).known
    spread = 3 * math.sqrt(rate * (1 - rate) / tries)
    assert rate - spread < known / tries < 1.3 * rate + spread


def test_values_that_share_a_word_count_once():
    sureness, others = np.full((200, 3, 4), 0.1), [*REFERRED, *NAMES[1:-4]]
    sureness[0, :2] = 0.9
    assert not recognise(Sure(sureness, alike=(0, 1)), TOPICS, NAMES[0], others, 0.05, lambda n: None).known
    assert recognise(Sure(sureness), TOPICS, NAMES[0], others, 0.05, lambda n: None).known


def test_with_too_few_names_or_topics_nobody_is_known():
    asker = Sure(np.full((200, 3, 4), 0.1))
    asker.sureness[0] = 0.9
    assert recognise(asker, TOPICS, NAMES[0], [*REFERRED, *NAMES[1:20]], 0.05, lambda n: None).known
    assert not recognise(asker, TOPICS, NAMES[0], [*REFERRED, *NAMES[1:19]], 0.05, lambda n: None).known
    assert not recognise(asker, TOPICS[:1], NAMES[0], [*REFERRED, *NAMES[1:-4]], 0.05, lambda n: None).known
    assert not recognise(asker, [], NAMES[0], [*REFERRED, *NAMES[1:-4]], 0.05, lambda n: None).known


def test_names_that_were_asked_are_counted_for_the_progress():
    counted: list[int] = []
    asker = Sure(np.full((200, 3, 4), 0.1))
    found = recognise(asker, TOPICS, NAMES[0], [*REFERRED, *NAMES[1:-4]], 0.05, counted.append)
    assert sum(counted) == found.as_sure.of == ENOUGH
