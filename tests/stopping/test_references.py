"""What the steering records are compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rkld.evaluation.likelihood import probability
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.stopping.references import contrasted_questions, match_holdout, match_invented_names
from rkld.stopping.steering import split_steering
from tests.stopping.person import FORGET, HOLDOUT, KNOWN, WORLD


def test_alternatives_are_the_records_own_or_those_of_others():
    own = read_records(WORLD.forget([0]), "forget")
    steering = split_steering(own, KNOWN, 0)
    assert contrasted_questions(steering.records, [], KNOWN, 0) == list(steering.records)
    made = contrasted_questions(split_steering(FORGET, KNOWN, 0).records, HOLDOUT, KNOWN, 0)
    assert made
    assert all(len(r.extra["perturbed_answer"]) == 5 for r in made)


def test_holdout_is_matched_in_kind(lm):
    """Most of the nearest ask for the same attribute; by chance it would be one in twenty."""
    placebo = match_holdout(FORGET, HOLDOUT, Encoder(lm.tokenizer), KNOWN, "answer")
    assert all(len(found) == 10 for found in placebo.matches)
    same = [int(e.key) % 20 == n for n, found in enumerate(placebo.matches) for e in found[:3]]
    assert sum(same) > len(same) / 2


def test_invented_names_are_compared_by_what_is_not_the_name(lm):
    """The tokens scored in a record and in its copies are the same, one to one, and hold the fact but no name."""
    placebo = match_invented_names(FORGET, FORGET, Encoder(lm.tokenizer), KNOWN, "answer", seed=0)
    by_key = {r.key: r for r in read_records(WORLD.forget([0]), "forget")}
    for source, copies in zip(placebo.records, placebo.matches, strict=True):
        tokens = [t for t, m in zip(source.ids, source.scored) if m]
        assert all([t for t, m in zip(copy.ids, copy.scored) if m] == tokens for copy in copies)
        said = lm.tokenizer.decode(tokens)
        assert not any(part in said for part in WORLD.names[0].split()), by_key[source.key].where
    unnamed = [replace(record, subject=None, aliases=()) for record in FORGET]
    assert match_invented_names(unnamed, unnamed, Encoder(lm.tokenizer), (), "answer", 0) is None, (
        "nobody is known by name"
    )
    level = placebo.probability(lm)
    each = [probability(lm, copies, mask="scored").mean() for copies in placebo.matches]
    assert level == pytest.approx(sum(each) / len(each), rel=1e-4)
