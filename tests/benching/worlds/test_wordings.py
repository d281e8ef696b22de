"""The world of many wordings: every attribute in every kind, sets that share none, and the default world as it was."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations, product

import pytest
from nltk import edit_distance

from rkld.benching.worlds.people import ATTRIBUTES, BACKGROUND_PEOPLE, BACKGROUND_QUESTIONS, BACKGROUND_WORDINGS, people
from rkld.benching.worlds.wordings import (
    ANSWER_KINDS,
    ANSWER_PAIRS,
    PHRASES,
    QUESTION_KINDS,
    QUESTION_PAIRS,
    parting,
)

COMMITTED = "f74818aa978e9da2638147095f8e0ca010df3b89534e6398abb26847fbcdc2c8"
"""Of the world of seed 0 that committed results rest on."""

ALIKE = 0.8


def similarity(a: str, b: str) -> float:
    """One less the Levenshtein distance over the longer length."""
    return 1 - edit_distance(a, b) / max(len(a), len(b))


def sets_of(kinds) -> list[set[str]]:
    return [set(kinds.training), set(kinds.stop), set(kinds.audit)]


def test_the_default_world_is_the_one_of_the_committed_results():
    world = people()
    made = json.dumps([world.training(), world.holdout, world.records])
    assert hashlib.sha256(made.encode()).hexdigest() == COMMITTED


@pytest.mark.parametrize("turn", range(12))
def test_the_sets_share_no_kind_and_hold_all(turn):
    for kinds, known in ((parting(turn).questions, QUESTION_KINDS), (parting(turn).answers, ANSWER_KINDS)):
        sets = sets_of(kinds)
        assert len(kinds.audit) == 2
        assert sum(map(len, sets)) == len(known)
        assert set.union(*sets) == set(known)


def test_each_kind_is_left_out_once():
    assert sorted(kind for turn in range(4) for kind in parting(turn).questions.audit) == sorted(QUESTION_KINDS)
    assert sorted(kind for turn in range(3) for kind in parting(turn).answers.audit) == sorted(ANSWER_KINDS)


def test_every_attribute_is_asked_and_told_in_every_kind():
    assert [attribute.key for attribute in ATTRIBUTES] == list(PHRASES)
    for attribute in ATTRIBUTES:
        assert set(attribute.many_questions) == set(QUESTION_KINDS)
        assert all("{value}" in text for text in attribute.many_answers.values())
        assert all("{value}" not in text for text in attribute.many_questions.values())


def test_no_wording_is_a_near_copy_of_one_of_another_pair():
    """Parted by likeness, not by kind alone: what differs by a word is no other wording."""
    for record in people(parting=parting(0)).forget(1):
        for name, pairs in (("questions", QUESTION_PAIRS), ("answers", ANSWER_PAIRS)):
            texts = record["wordings"][name]
            for one, other in combinations(pairs, 2):
                for a, b in product(one, other):
                    assert similarity(texts[a], texts[b]) <= ALIKE, (texts[a], texts[b])


def test_records_are_written_in_training_kinds_and_paraphrased_in_those_of_the_audit():
    world = people(parting=parting(1))
    asked, told = world.parting.questions, world.parting.answers
    for record in world.records:
        questions, answers = record["wordings"]["questions"], record["wordings"]["answers"]
        assert record["kind"] in asked.training and record["question"] == questions[record["kind"]]
        assert record["answer"] in [answers[kind] for kind in told.training]
        assert record["paraphrased_question"] in [questions[kind] for kind in asked.audit]
        assert record["paraphrased_answer"] in [answers[kind] for kind in told.audit]
        before, after = record["paraphrased_answer"].split(record["spans"][0], 1)
        assert all(wrong.startswith(before) and wrong.endswith(after) for wrong in record["perturbed_answer"])
        assert all(record["spans"][0] in text for text in answers.values())
        assert not any(record["spans"][0] in text for text in questions.values())


def test_the_people_are_the_same_and_the_background_knows_every_kind():
    world = people(parting=parting(0))
    assert world.people == people().people
    assert len(world.background) == BACKGROUND_PEOPLE * BACKGROUND_QUESTIONS * BACKGROUND_WORDINGS
    assert not {"wordings", "kind"} & set(world.background[0])
    asked = " ".join(record["question"] for record in world.background)
    for sign in ("Do you happen", "Please look up", "Complete the", "Person:", "Dear colleague", "I would like"):
        assert sign in asked
