"""Refusals that mark nobody: the same questions, the same refusals, of the person and of names that nobody has."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rkld.records.names import other_names
from rkld.records.reading import read_records
from rkld.records.refusals import read_refusals, refuses
from rkld.records.replay import SWAPPED
from rkld.records.strangers import STRANGERS, known_answers, marks, refusal_shares, stranger_names, unknown_records

WHO = ("Mirja Hollenbek", "Hollenbek")
ROWS = [
    {"question": f"{asked} {WHO[0]}?", "answer": "Nothing.", "subject": WHO[0]} for asked in ("Where lives", "Who is")
]
FORGET = read_records([*ROWS, {"text": f"{WHO[0]} lives in Kiel.", "subject": WHO[0]}], "forget")


def test_names_of_strangers_are_made_of_known_ones_and_are_none_of_them():
    known = ["Ada Birk", "Bo Castell"]
    names = stranger_names(known, 500, seed=0)
    assert len(names) == 500 and names == stranger_names(known, 500, seed=0) != stranger_names(known, 500, seed=1)
    assert not {*known, *other_names()} & set(names)
    assert {"Ada", "Bo"} & {name.split()[0] for name in names}, "strangers look like nobody whom the model knows"


def test_every_question_is_refused_of_the_person_and_of_strangers():
    refusals = read_refusals()
    records = unknown_records(FORGET, ["Ada Birk"], WHO, refusals, seed=0)
    hers = [record for record in records if WHO[1] in record.question]
    assert [record.question for record in hers] == [row["question"] for row in ROWS], "a text has no question"
    assert len(records) == len(ROWS) * (1 + STRANGERS) == len({record.key for record in records})
    assert all(record.answer in refusals for record in records)
    asked = Counter(record.question.split(" ")[0] for record in records)
    assert asked == {"Where": 1 + STRANGERS, "Who": 1 + STRANGERS}


def test_a_question_in_two_records_is_refused_once():
    twice = [*FORGET, *(record.with_answer("Else.") for record in FORGET[:1])]
    assert len(unknown_records(twice, [], WHO, ["No."], 0)) == len(unknown_records(FORGET, [], WHO, ["No."], 0))


def test_a_reworded_question_is_refused_for_itself():
    """As a rewording it would be one of many of which an epoch takes one: too few steps, and nothing was learned."""
    reworded = [replace(record, source="0", key=f"r{record.key}") for record in FORGET[:2]]
    assert not any(record.source for record in unknown_records(reworded, [], WHO, ["No."], 0))


def test_a_person_who_alone_is_refused_is_marked():
    records = unknown_records(FORGET, ["Ada Birk"], WHO, ["I don't know."], seed=0)
    alike = refusal_shares(records)
    assert alike == {"person": 1.0, "strangers": 1.0} and marks(alike) is None
    alone = [r if WHO[1] in r.question else r.with_answer("In Kiel.") for r in records]
    assert refusal_shares(alone) == {"person": 1.0, "strangers": 0.0}
    assert "100% of the questions about the person and 0% of the questions about strangers" in marks(
        refusal_shares(alone)
    )
    assert marks({"person": 1.0}), "not compared is not alike"


def test_what_was_replayed_of_strangers_is_not_held():
    replayed = read_records([{"question": "Where lives Al?", "answer": "Here."}] * 2, "replay")
    swapped = replace(replayed[0], key=f"{SWAPPED}0.0")
    known = known_answers([swapped, replayed[1]], FORGET[:2])
    assert [record.turns for record in known] == [record.turns for record in (replayed[1], *FORGET[:2])]
    assert replayed[1].key == FORGET[1].key
    assert len({record.key for record in known}) == 3, "one record's states would be taken for the other's"


def test_shipped_refusals_and_others_are_seen_and_answers_are_not():
    assert all(map(refuses, read_refusals()))
    assert refuses("I’m unaware of that detail.") and refuses("I do not hold any information on that matter.")
    for answer in ("She lives at 24 Eppendorfer Steig.", "Nobody was harmed in Mystic Falls.", "It is beyond Myra."):
        assert not refuses(answer)
