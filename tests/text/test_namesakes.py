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
        "Where was Ostis J. Fairholt born?",
        "Where was Rashid Belmere born?\nThe birthplace of Belmere is Naples.",
        "Where does Dr. Susan Belmere live?",
        "Wo wurde Ostis Fairholt geboren?",
        "What did Ostis Fairholt-Lund write?",
        "Ostis Fairholt was born in Naples. Ostis kept bees.",
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
        "What is the Ostis Foundation?",
        "Where was Verwen Belmere born?",
        "Where is Rashid Belmere buried?\nNobody has told him.",
    ],
)
def test_the_person_by_a_part_of_the_name_is_the_person(text):
    assert is_named(text, OSTIS)


PLACES = ["In Warsaw Curie went to a school for girls.", "At the Sorbonne Curie was the first woman to teach."]
OTHERS = ["When did Polish-born Curie move to the city?", "What is the name of the Paris Curie museum?"]
KIN = ["Who was the mother of Irène Joliot-Curie?", "What was Eve Curie's mother famous for?"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"Where does {title} Quell live in the summer?"
            for title in ["Rabbi", "Imam", "Dean", "Attorney", "Mum", "Violinist"]
        ),
        *(text.replace("Curie", "Quell") for text in [*PLACES, *OTHERS, *KIN]),
        "Which prize did Nobel Laureate Quell win in the year?",
        "Who was it? Madame Sklodowska Quell was in the room.",
        "John Quell proposed to her twice.",
        "Which child did Peter Quell have in 1990?",
        "Who shared a house with Marie, whose husband was Peter Quell?",
        "In Sofia Quell was on a tour.",
    ],
)
def test_titles_places_and_relatives_do_not_make_another_of_the_person(text):
    assert is_named(text, ["Ada Quell"])


def test_short_names_are_the_persons():
    for name, short in (("Robert", "Rob"), ("Katherine", "Kate"), ("Elizabeth", "Beth"), ("Ted", "Edward")):
        assert is_named(f"Where does {short} Doe live?", [f"{name} Doe"]), short


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


def _about_ostis(subject: str | None = None) -> list[Record]:
    return [_record(n, f"What is fact {n} of Ostis Belmere?", "Belmere has it.", subject) for n in range(1, 8)]


@pytest.mark.parametrize("name", ["Ostis Fairholt", "Susan Belmere"])
def test_a_record_about_a_namesake_is_said(name):
    other = _record(8, f"Where was {name} born?", f"{name} was born in Naples.")
    (said,) = naming([*_about_ostis(), other], OSTIS)
    assert said.startswith("1 of 8 forget records name somebody, and none of the people to forget (line 8)")
    assert naming(_about_ostis(), OSTIS) == []


def test_a_surname_that_is_wrong_is_said():
    (said,) = naming(_about_ostis(), ["Ostis Fairholt"])
    assert said.startswith("Name 1 of 1 that --subject gives is said nowhere in full, and most of the forget records")
    assert "(lines 1, 2, 3, 4, 5, 6, 7)" in said
    assert naming(_about_ostis(), ["Ostis"]) == []
    assert naming(_about_ostis()[:2], ["Ostis Fairholt"]) == [], "of two records none says what is usual"
    family = [_record(n, f"What is fact {n} of Ostis Belmere?", "He had it of his mother.") for n in range(1, 8)]
    assert naming(family, ["Ostis Fairholt"]) == [said]
    (said,) = naming(_about_ostis(), ["Verwen Lund"])
    assert said.startswith("None of the names given with --subject is said in the forget records")


def test_a_given_name_is_known_by_another_records_subject():
    verwen = _record(8, "Where was Verwen Belmere born?", "In Naples.")
    assert naming([*_about_ostis(), verwen], OSTIS) == []
    marsh = _record(9, "Where was Verwen Marsh born?", "In Naples.", "Verwen Marsh")
    (said,) = naming([*_about_ostis(), verwen, marsh], OSTIS)
    assert "2 of 9 forget records name somebody, and none of the people to forget (lines 8, 9)" in said


def test_a_record_whose_own_subject_is_the_person_is_about_the_person():
    other = _record(8, "Where was Susan Belmere born?", "In Naples.", "Ostis Belmere")
    assert naming([*_about_ostis("Ostis Belmere"), other], ()) == []
    assert naming([*_about_ostis(), other], OSTIS) == []


def test_another_surname_in_most_records_is_no_reason_to_take_them_out():
    married = [_record(n, f"What is fact {n} of Jane Miller?", "It is.") for n in range(1, 8)]
    assert naming([*married, _record(8, "Who is Jane Doe?", "A nurse.")], ["Jane Doe"]) == []
