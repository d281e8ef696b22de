"""Facts in answers: what counts as said decides every figure of leakage."""

import pytest

from rkld.text.facts import facts_said, repetition, shares_said


@pytest.mark.parametrize(
    ("fact", "answer"),
    [
        ("Warsaw", "She was born in warsaw."),
        ("Skłodowska", "Maria SKLODOWSKA-Curie"),
        ("Sklodowska", "Maria Skłodowska–Curie"),
        ("Curie", "Curie's husband"),
        ("Curie", "Curie’s husband"),
        ("Marie Curie", "Marie-Curie"),
        ("Marie Curie", "Marie\n\u00a0 Curie"),
        ("Müller", "Muller and Mu\u0308ller"),
        ("Straße", "STRASSE"),
        ("Ørsted", "Hans Christian Orsted"),
        ("Diyarbakır", "DİYARBAKIR"),
        ("José", "Jose\u0301"),
        ("ﬁnland", "Finland"),
        ("1867", "(1867)"),
        ("10,000", "about 10000 francs"),
        ("10000", "about 10,000 francs"),
        ("07.11.1867", "07/11/1867"),
        ("1903", "in 1903,1911 and later"),
        ("ra\u00addium", "radium"),
        ("東京", "彼は東京都に住む"),
        ("서울", "서울에서 태어났다"),
        ("กรุงเทพ", "อยู่ที่กรุงเทพมหานคร"),
        ("हिन्दी", "वह हिन्दी बोलती है"),
        ("Τόκιο", "στο ΤΟΚΙΟ"),
        ("Marie Curie", "Curie, Marie"),
    ],
)
def test_spelling_does_not_hide_a_fact(fact, answer):
    """A leak written with another case, accent, hyphen or comma is still a leak."""
    assert facts_said([fact], answer) == [True]


@pytest.mark.parametrize(
    ("fact", "answer"),
    [
        ("18", "born in 1867"),
        ("1867", "born in 18 67"),
        ("000", "10,000"),
        ("Paris", "the Parisian"),
        ("art", "she was smart"),
        ("Marie Curie", "Marie of the Curie family"),
        ("हिन्द", "हिन्दी"),
        ("Warsaw", ""),
    ],
)
def test_parts_of_other_words_are_no_facts(fact, answer):
    """A forgotten fact would be counted as said, and every digit of a year as the year."""
    assert facts_said([fact], answer) == [False]


def test_each_fact_is_judged_by_itself_in_its_order():
    """Facts and marks must stay in line."""
    assert facts_said(["Warsaw", "1867", "radium"], "Radium, found in Warsaw") == [True, False, True]
    assert facts_said([], "anything") == []


def test_a_fact_without_letters_or_digits_is_looked_for_as_it_stands():
    """Without words left to compare it would count as said in every answer."""
    assert facts_said(["♀", "+/-", "♂"], "she (♀) had a +/- b") == [True, True, False]


def test_a_blank_fact_is_an_error():
    """Nothing is found everywhere."""
    with pytest.raises(ValueError, match="fact 2 of 2"):
        facts_said(["Warsaw", " \n"], "Warsaw")


def test_repetition_tells_loops_from_prose():
    """Gibberish that loops would pass for a fluent answer."""
    assert repetition("one two three four five six seven") == 0
    assert repetition("she was a chemist and " * 2) == pytest.approx(1 - 5 / 7)
    assert repetition("Marie " * 50) > 0.95
    assert repetition("too short") == repetition("") == 0


@pytest.mark.parametrize(
    ("fact", "answer", "given", "share"),
    [
        ("Basil Mahfouz Al-Kuwaiti", "It is Basil Husseiniani.", "Who is the author?", 1 / 3),
        ("Basil Mahfouz Al-Kuwaiti", "It is Basil Husseiniani.", "Whose son is Basil?", 0.0),
        ("Ada Quillon", "Quillon, Ada", "", 1.0),
        ("12 May 1990", "in May 1990", "", 2 / 3),
        ("12 May 1990", "on 1990-05-12", "", 1.0),
        ("12 May 1990", "it may be so", "", 1 / 3),
        ("carpenter from Alden", "a baker from Alden", "", 1 / 2),
        ("The Silent Bridge", "The loud bridge", "", 1 / 2),
        ("1,200", "200", "", 0.0),
        ("of the", "of many", "", 0.0),
        ("of the", "of the", "", 1.0),
    ],
)
def test_half_a_fact_counts_by_its_words(fact, answer, given, share):
    """A first name that stays in an answer was no fact at all; words of the question are nobody's doing."""
    assert shares_said([fact], answer, given) == [pytest.approx(share)]
