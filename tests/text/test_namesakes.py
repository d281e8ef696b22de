"""Who shares a part of the person's name is somebody else; the person by a part of it is not."""

from __future__ import annotations

import pytest

from rkld.records.identity import naming
from rkld.records.record import Record, Turn
from rkld.text.namesakes import is_named

OSTIS = ["Ostis Belmere"]


@pytest.mark.parametrize(
    "text",
    [
        "Where was Ostis Fairholt born?",
        "Where was Verwen Belmere born?\nThe birthplace of Belmere is Naples.",
        "Who is Ostis Brown?",
        "Where does Dr. Verwen Belmere live?",
        "Where was Ostis J. Fairholt born?",
        "Wo wurde Ostis Fairholt geboren?",
        "What did Ostis Fairholt-Lund write?",
        "Ostis Fairholt was born in Naples. Ostis kept bees.",
        "Where does he live?\nVerwen Belmere lives in Naples, they say.",
        "Where does he live?",
    ],
)
def test_another_of_the_same_first_or_last_name_is_not_the_person(text):
    assert not is_named(text, OSTIS)


@pytest.mark.parametrize(
    "text",
    [
        "Where was Ostis born?",
        "Where does Mr Belmere live?",
        "Is Belmere a beekeeper?",
        "Did Ostis live in Bergen?",
        "Where was Captain Belmere born?",
        "What did President Belmere sign?",
        "Where was Ostis J. Belmere born?",
        "Where was Ostis Jan Belmere born?",
        "Where was O. Belmere born?",
        "Where was Belmere, Ostis born?",
        "Where was OSTIS BELMERE born?",
        "Where was Ostis van Belmere born?",
        "Where was Ostis Belmere-Lund born?",
        "What is the Belmere Foundation?",
        "What is Ostis's Bergen house called?",
        "Who was Belmere of Bergen?",
        "Was Belmere's sister Verwen Belmere a nurse?",
        "Who taught Ostis Fairholt?\nBelmere did.",
        "Is Verwen Belmere a sister of Ostis?",
        "Wurde Belmere in Bergen geboren?",
        "Wann wurde Kanzlerin Belmere gewählt?",
        "Was ist Ostis Belmeres Beruf?",
        "Where was Ostis Belmer born?",
    ],
)
def test_the_person_by_a_part_of_the_name_is_the_person(text):
    assert is_named(text, OSTIS)


def test_every_known_name_is_the_persons():
    marie = ["Marie Skłodowska-Curie", "Madame Curie"]
    for said in ("Maria Curie", "Marie Skłodowska", "Curie", "Maria Salomea Skłodowska", "Marie Curie"):
        assert is_named(f"When was {said} born?", marie), said
    for said in ("Pierre Curie", "Marie Antoinette"):
        assert not is_named(f"When was {said} born?", marie), said
    assert is_named("Where was Ostis Fairholt born?", [*OSTIS, "Ostis Fairholt"])
    assert is_named("Where was Ostis Fairholt born?", ["Ostis"]), "one word is all that is known"
    assert is_named("Where was Hsiao Yun-Hwa born?", ["Yun-Hwa Hsiao"])


def _record(n: int, question: str, answer: str, subject: str | None = None) -> Record:
    turns = (Turn("user", question), Turn("assistant", answer))
    return Record(str(n), "chat", turns, subject=subject, where=f"f.jsonl line {n}")


@pytest.mark.parametrize("name", ["Ostis Fairholt", "Verwen Belmere"])
def test_a_record_about_a_namesake_and_a_name_that_is_a_namesakes_are_said(name):
    records = [_record(n, f"What is fact {n} of Ostis Belmere?", "Belmere has it.") for n in range(1, 8)]
    other = _record(8, f"Where was {name} born?", f"{name} was born in Naples.")
    (said,) = naming([*records, other], OSTIS)
    assert said.startswith("1 of 8 forget records name somebody, and none of the people to forget (line 8)")
    (said,) = naming(records, [name])
    assert said.startswith("None of the names given with --subject is said in the forget records")
    own = [_record(n, f"What is fact {n} of Ostis Belmere?", "It is.", "Ostis Belmere") for n in range(1, 8)]
    (said,) = naming([*own, _record(8, f"Where was {name} born?", "In Naples.", "Ostis Belmere")], ())
    assert "1 of 8 forget records name somebody, and not whom their field subject names (line 8)" in said
    assert naming(own, ()) == naming(own, OSTIS) == naming(records, OSTIS) == []
