"""Rewordings of records: what is kept, why others are dropped, which are chosen, and where their facts stand."""

from __future__ import annotations

import pytest

from rkld.benching.worlds.people import people
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.records.record import Record, Rewording
from rkld.records.rewording import WRITTEN, as_record, is_fluent, likeness, reword, usable_record

WHO = ("Jane Doe",)
ROW = {"question": "When was Jane Doe born?", "answer": "Jane Doe was born on 3 May 1970.", "spans": ["3 May 1970"]}
WORLD = read_records(
    [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in people(n=4, seed=0).forget([0])], "forget"
)


def record(**fields) -> Record:
    return read_records([{**ROW, **fields}], "forget")[0]


def verdict(asked: str, said: str, kind: str = "given", **fields) -> Record | str:
    return usable_record(record(**fields), Rewording(asked, said, kind), WHO)


@pytest.mark.parametrize(("question", "answer", "reason"), [
    ("What is Jane Doe's birthday?", "She was born in spring.", "does not hold the fact"),
    ("Was Jane Doe born on May 3, 1970?", "Yes, on 3 May 1970.", "its question gives the fact away"),
])  # fmt: skip
def test_what_is_dropped_has_its_reason(question, answer, reason):
    assert verdict(question, answer) == reason


def test_facts_are_located_however_they_are_written():
    found = verdict("What is Jane Doe's birthday?", "It is May 3rd, 1970.", spans=["3 May 1970"])
    assert found.spans == ("May 3rd, 1970",) and found.question == "What is Jane Doe's birthday?"
    assert (found.source, found.kind) == ("0", "given")
    told = verdict("Jane Doe was born on 3 May 1970.", "Noted.", "turn")
    assert told.spans == ("3 May 1970",), "in the user's turn"
    assert verdict("Who was born on 3 May 1970?", "That is Jane Doe.", "reversed").spans == ("Jane Doe",)
    assert verdict("Is it Jane Doe who …?", "That is Jane Doe.", "reversed") == "its question gives the fact away"


def test_a_fact_without_a_name_may_be_told_in_all_other_words_by_the_user_alone():
    work = {"question": "What does Jane Doe's father do?", "answer": "He was a florist in town.", "spans": []}
    assert isinstance(verdict("His job?", "The old man sold flowers.", **work), Record)
    assert verdict("His job?", "The old man sold cars.", WRITTEN, **work) == "does not hold the fact"
    assert verdict("Is he a florist in town?", "A florist.", **work) == "its question gives the fact away"


def test_running_text_and_conversations_keep_their_forms():
    text = as_record(record(), Rewording("", "Jane Doe, born 3 May 1970.", "text"), WHO)
    assert (text.form, text.question, text.spans) == ("text", "", ("3 May 1970",))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "When was Jane Doe born?"},
             {"role": "assistant", "content": "On 3 May 1970."}]  # fmt: skip
    (chat,) = read_records([{"messages": turns, "spans": ["3 May 1970"]}], "forget")
    again = as_record(chat, Rewording("Born when?", "3 May 1970"), WHO)
    assert [turn.content for turn in again.turns] == ["Be brief.", "Born when?", "3 May 1970"]


@pytest.mark.parametrize("answer", [
    "Jane Doe was born on 3 May 1970. " * 4, "3 May 1970 " * 20 + ".", "Jane Doe\n3 May 1970.", "Jane Doe was born on",
    "Xyzzy plugh qwertz 3 May 1970 blarg.", "{}[]()<>!! 3 May 1970 ####.",
])  # fmt: skip
def test_what_a_model_wrote_must_read_as_language(answer):
    assert not is_fluent(record(), Rewording("What is the birthday of Jane Doe?", answer, WRITTEN), WHO)
    assert is_fluent(record(), Rewording("What is the birthday of Jane Doe?", ROW["answer"], WRITTEN), WHO)


def test_the_users_come_first_then_the_models_then_the_rules():
    given = {"questions": ["In which year was Jane Doe born?"], "answers": ["It was on 3 May 1970."]}
    written = {"0": [Rewording("What is Jane Doe's birthday?", "Her birthday is 3 May 1970.", WRITTEN)]}
    made = reword([record(rewordings=given)], WHO, 3, written=written)
    assert [r.kind for r in made.records][:2] == ["given", "written"] and len(made.records) == 3
    assert [r.key for r in made.records] == ["reworded-0.0", "reworded-0.1", "reworded-0.2"]
    many = {
        "questions": [f"{w} was Jane Doe born?" for w in ("In which year", "On what day of spring", "So tell me, when")]
    }
    assert [r.kind for r in reword([record(rewordings=many)], WHO, 1).records] == ["given"] * 3, "all that was given"
    assert not reword([record()], WHO, 0).records


def test_copies_are_dropped_and_counted():
    made = reword([record(rewordings={"questions": [ROW["question"], "When was Jane  Doe born"]})], WHO, 0)
    assert not made.records and made.dropped.total() == 2
    assert "2 × a copy of the record" in made.described()[1]


def test_the_least_alike_are_taken_first_and_kinds_in_turn():
    """Spread counts more than number: three chosen ones are less alike than the first three that the rules make."""
    made = reword(WORLD, identifiers(WORLD, ()), 3)
    assert len(made.records) == 3 * len(WORLD) and not made.fewer
    assert len(made.kinds) >= 8 and max(made.kinds.values()) < len(WORLD)
    ours = [Rewording(r.question, r.answer) for r in made.records if r.source == "3"]
    first = [Rewording(r.question, r.answer) for r in reword(WORLD[3:4], identifiers(WORLD, ()), 3).records]

    def closest(some):
        return max(likeness(a, b) for i, a in enumerate(some) for b in some[:i])

    everything = reword(WORLD[3:4], identifiers(WORLD, ()), 99, kinds=["imperative", "indirect", "yes_no"]).records
    assert max(closest(ours), closest(first)) < closest([Rewording(r.question, r.answer) for r in everything])
    assert reword(WORLD, identifiers(WORLD, ()), 3).records == made.records, "the same for the same arguments"


def test_kinds_can_be_parted():
    made = reword(WORLD, identifiers(WORLD, ()), 99, kinds=["ticket", "form"])
    assert made.kinds == {"ticket": len(WORLD), "form": len(WORLD)} and made.fewer == len(WORLD)
    asked = reword(WORLD, identifiers(WORLD, ()), 99, asked_only=True)
    assert all(r.question and r.kind != "turn" for r in asked.records)
