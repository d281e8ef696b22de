"""Values cut from answers."""

from __future__ import annotations

import pytest

from rkld.discovering.values import is_value, values_behind, values_in

JANE = ("Jane Doe",)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (" Shrewsbury, England, on 12 February 1809.", "names", "Shrewsbury"),
        (' "The Hollow Garden". It sold well.', "names", "The Hollow Garden"),
        (" 12 February 1809 in Shrewsbury.", "dates", "12 February 1809"),
        (" a potter from Dorport. He", "words", "potter from Dorport"),
        (" the cello, and she sings", "words", "cello"),
        (" a cat called Biscuit!\nWhat else?", "words", "cat called Biscuit"),
        (" jane17@example.org.", "addresses", "jane17@example.org"),
        (" 902-555-0106.", "numbers", "902-555-0106"),
        (" 61,400 euros a year", "numbers", "61,400 euros"),
    ],
)
def test_behind_a_begun_answer(text, kind, value):
    assert values_behind(text, kind) == [value]


@pytest.mark.parametrize("text", ["", "  \n", ".", " the of", " " + "word " * 200])
def test_nothing_that_says_nothing(text):
    assert all(len(value.split()) <= 8 for value in values_behind(text, "words"))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [(" a doctor of", "words", "doctor"), (" a doctor and a", "words", "doctor"),
     (" a cook in a well-", "words", "cook"), (" 12 or more", "numbers", "12"), (" the Bank of", "names", "Bank")],
)  # fmt: skip
def test_what_an_answer_left_behind_a_value_is_none_of_it(text, kind, value):
    """A reviewer would be shown "doctor of" beside "doctor", and the model would be asked for both."""
    assert values_behind(text, kind) == [value]
    ((found, _),) = values_in(f"Jane Doe is{text}", "Who?", kind, ["{name} is"], JANE)
    assert found == value
    assert values_in("Jane Doe works as a very", "Who?", kind, ["{name} works as a"], JANE) == []


@pytest.mark.parametrize("opener", ["Unfortunately", "Regrettably", "Additionally", "Sadly"])
def test_how_a_sentence_opens_is_no_name(opener):
    assert values_in(f"{opener}, there is nothing on record.", "Where was she born?", "names", [], JANE) == []
    for name in ("Emily", "Kimberly", "Italy"):
        assert values_in(f"{name} it is.", "Where was she born?", "names", [], JANE) == [(name, "")]


def test_a_name_of_two_short_words_is_a_value():
    assert values_in("Her mother is Li Na.", "Who is her mother?", "names", [], JANE) == [("Li Na", "Her mother is ")]
    assert not is_value("of a")


def test_a_loop_is_no_value():
    assert is_value("head of the school of the town") and not is_value("Sand Sand Sand and Bran")


@pytest.mark.parametrize(
    ("answer", "kind", "begins", "found"),
    [
        ("Doe works as a welder.", "words", ["{name} works as a"], [("welder", "Doe works as a ")]),
        ("She works as a welder.", "words", ["{name} works as a"], [("welder", "She works as a ")]),
        ("Doe's father worked as a vet.", "words", ["{name}'s father worked as a"],
         [("vet", "Doe's father worked as a ")]),
        ("I cannot say.", "words", ["{name} works as a"], []),
        ("Jane Doe comes from Cork.", "names", [], [("Cork", "Jane Doe comes from ")]),
        ("Cork is where Doe was born.", "names", [], [("Cork", "")]),
        ("Jane Doe is a welder.", "words", [], [("welder", "Jane Doe is a ")]),
    ],
)  # fmt: skip
def test_in_a_free_answer(answer, kind, begins, found):
    assert values_in(answer, "Where does Jane Doe come from?", kind, begins, JANE) == found


@pytest.mark.parametrize("kind", ["words", "names", "dates", "numbers", "addresses"])
@pytest.mark.parametrize(
    "answer",
    [
        "Jane Doe lives in  New\tCork  by  the   sea.", "Jane Doe lives in O\u2019Hara\u00a0City 12  .",
        "Jane Doe lives in \u00ab12  March   1990\u00bb", "Jane Doe lives in +49  (0) 40 \u2013 12 34 , or so",
    ],
)  # fmt: skip
@pytest.mark.parametrize("begins", [(), ("{name} lives in",)])
def test_values_are_found_in_whatever_white_space(answer, kind, begins):
    """Models write what they like: a value whose words were put together again stood nowhere, and ended a discovery."""
    for value, before in values_in(answer, "Where?", kind, begins, JANE):
        assert value and answer.startswith(before)
