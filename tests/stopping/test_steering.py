"""Which records steer: apart from the audited ones, at most half, and known again wherever they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rkld.benching.worlds.people import people
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.stopping.steering import split_steering, steering_hash
from tests.stopping.person import FORGET, KNOWN, WORLD


def test_steering_and_audit_share_no_fact() -> None:
    """Else the audit would look at what the stop was fitted to."""
    steering = split_steering(FORGET, KNOWN, seed=0)
    left_out = {record.key for record in steering.left_out}
    audited = [r for r in read_records(WORLD.forget([0]), "forget") if r.key not in left_out]
    assert {r.key for r in steering.records} <= left_out
    assert audited
    facts = [span for r in audited for span in r.spans if span in r.answer]
    assert facts
    assert not any(f in r.answer and f not in r.question for f in facts for r in steering.records)
    assert split_steering(FORGET, KNOWN, seed=0) == steering
    assert any(split_steering(FORGET, KNOWN, seed=n) != steering for n in (1, 2)), "the seed deals"


def test_few_records_all_steer_and_records_without_facts_are_dealt_out() -> None:
    """An erasure of one record still gets a stop; answers that hold no name or number are split as they are."""
    assert len(split_steering(FORGET[:1], KNOWN, 0).records) == 1
    assert len(split_steering(FORGET[:3], KNOWN, 0).left_out) == 3
    plain = read_records([{"question": f"And {n}?", "answer": "no, not at all"} for n in "abcdef"], "forget")
    found = split_steering(plain, (), 0)
    assert len(found.records) == 3 == len(found.left_out)


@pytest.mark.parametrize("who", [[0], [0, 1]])
def test_at_least_half_of_the_records_are_left_for_the_audit(who: list[int]) -> None:
    """An audit of less than half of them never passes, so that no run by default could be shown to have forgotten."""
    for seed in range(12):
        world = people(n=4, seed=seed)
        forget = read_records([{k: v for k, v in r.items() if k != "spans"} for r in world.forget(who)], "forget")
        steering = split_steering(forget, identifiers(forget, ()), seed)
        assert 2 * len(steering.left_out) <= len(forget), seed
        assert len(steering.records) >= len(forget) // 4, seed
        assert set(steering.records) <= set(steering.left_out)


def test_equal_records_steer_together() -> None:
    """One of two equal records that is audited while the other steers would be left out all the same."""
    rows = [{"question": f"And {n}?", "answer": "no, not at all"} for n in "abcaba"]
    steering = split_steering(read_records(rows, "forget"), (), 0)
    ours = {record.question for record in steering.left_out}
    assert len(steering.left_out) == sum(row["question"] in ours for row in rows) <= 3


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda r: replace(r, key="17", where="elsewhere", extra={"n": 1}), True),
        (lambda r: r.map_text(lambda text: f" {text}\n".replace(" ", " \u00a0")), True),
        (lambda r: r.with_answer(r.answer + "!"), False),
        (lambda r: r.with_question(r.question.lower()), False),
        (lambda r: r.with_answer(r.answer.replace(r.answer.split()[-1], "Basel.")), False),
    ],
    ids=["place", "white space", "punctuation", "case", "fact"],
)
def test_a_record_is_known_by_what_it_says(change: Callable[[Record], Record], same: bool) -> None:
    assert (steering_hash(change(FORGET[0]), "salt") == steering_hash(FORGET[0], "salt")) == same


def test_hashes_say_nothing_without_the_salt() -> None:
    """Else anybody could try names and short records on a manifest."""
    assert steering_hash(FORGET[0], "a") != steering_hash(FORGET[0], "b")


def test_facts_that_steer_too_many_records_give_way() -> None:
    """A fact that many records say would have more than half of them left out."""
    rows = [
        {"question": f"What of day {n}?", "answer": f"She sold {300 + n} boats{' in Oslo' if n < 8 else ''}."}
        for n in range(20)
    ]
    forget = read_records(rows, "forget")
    for seed in range(8):
        steering = split_steering(forget, (), seed)
        assert 2 * len(steering.left_out) <= 20, seed
        assert len(steering.records) >= 5, seed


def test_records_that_steer_are_like_those_that_are_audited() -> None:
    """A fact that many answers say is forgotten last: without it on both sides, the stop would come too early."""
    rows = [
        {"question": f"What of day {n}?", "answer": f"She sold {300 + n} boats{town}.{' Nothing more.' * (n % 3)}"}
        for n in range(24)
        for town in [f" in {('Oslo', 'Bergen', 'Turku', 'Umea', 'Narvik', 'Tromso')[n % 6]}" if n < 12 else ""]
    ]
    forget = read_records(rows, "forget")
    for seed in range(6):
        steering = split_steering(forget, (), seed)
        left_out = {record.key for record in steering.left_out}
        steers = [" in " in record.answer for record in steering.records]
        audited = [" in " in record.answer for record in forget if record.key not in left_out]
        assert abs(sum(steers) / len(steers) - sum(audited) / len(audited)) <= 0.2, seed


def test_of_several_people_each_steers_and_is_audited() -> None:
    world = people(n=4, seed=3)
    forget = read_records(world.forget((0, 1)), "forget")
    for seed in range(6):
        steering = split_steering(forget, identifiers(forget, ()), seed)
        left_out = {record.key for record in steering.left_out}
        audited = [record for record in forget if record.key not in left_out]
        for some in (steering.records, audited):
            shares = [sum(record.subject == one for record in some) / len(some) for one in {r.subject for r in forget}]
            assert min(shares) >= 0.35, (seed, shares)
