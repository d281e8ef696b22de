"""Which words of a text may be facts, and which ways there are to say a name."""

from __future__ import annotations

import pytest

from rkld.text.normalising import words
from rkld.text.wording import (
    added_spans,
    added_words,
    common_words,
    holds,
    is_english,
    is_said_name,
    name_mentions,
    name_parts,
    proper_nouns,
    rare_words,
    unnamed,
    with_names,
)


@pytest.mark.parametrize(("text", "found"), [
    ("She met Ada Quill in Oslo.", ["Ada Quill", "Oslo"]),
    ("Painters meet. Others talk: Nobody comes\nEverybody goes", []),
    ("In Oslo I live, and I know it.", ["Oslo"]),
    ("The Beagle sailed. In 1859 it was sold. Born in Bath", ["Beagle", "1859", "Bath"]),
    ('He wrote "On the Origin of Species" there.', ["On the Origin of Species"]),
    ('She read "Emma" twice.', ["Emma"]),
    ("at the University of Warsaw, near Alexander the Great", ["University of Warsaw", "Alexander the Great"]),
    ("born on 7 November 1867 in Rome", ["7 November 1867", "Rome"]),
    ("born on November 7, 1867, in Rome", ["November 7, 1867", "Rome"]),
    ("has 3 cats, 12 dogs and 10,000 bees", ["10,000"]),
    ("lives at 12 Elm Street", ["12 Elm Street"]),
    ("- Oslo\n- Rome and Paris", ["Oslo", "Rome", "Paris"]),
    ("from Oslo\nRome Park", ["Oslo", "Rome Park"]),
    ("with Darwin's finches of Ada’s", ["Darwin", "Ada"]),
    ("Oslo then Oslo, also Oslo", ["Oslo"]),
    ("она живёт в Москве", ["Москве"]),
    ("她住在北京，生于1867年。", []),
    ("", []),
    (" \n ", []),
])  # fmt: skip
def test_proper_nouns_are_found_whole_and_nothing_else(text, found):
    """A missed noun lets a fact through the screen; a title or date in pieces is forgotten in pieces."""
    assert proper_nouns(text) == found


def test_words_are_compared_without_case_accents_and_number_format():
    assert words("Łódź, CAFÉ's 10,000 Al-Hadi's") == ["lodz", "cafe", "10000", "al", "hadi"]
    assert words("STRASSE") == words("Straße")


def test_rare_words_are_those_that_say_something_of_a_person():
    """A list with facts in it would let them pass; one without the words of style would drop every answer."""
    text = "His father worked as a florist in 1867 and 12 other well known people were there with his mother"
    assert rare_words(text) == {"florist", "1867"}
    assert {"florist", "painter", "chemist", "nurse", "midwife", "naturalist"}.isdisjoint(common_words())
    assert is_english(text)
    assert not is_english("Seine Mutter arbeitete damals im Krankenhaus als Pflegerin")


def test_what_the_question_says_is_not_added():
    assert added_words("Her mother was a Florist", "What was the job of her mother?") == {"florist"}
    assert holds("He lives in OSLO.", ["Rome", "Oslo"])
    assert not holds("He lives in Oslofjord.", ["Oslo"])


@pytest.mark.parametrize(("name", "parts"), [
    ("Ada Quill", {"Ada Quill": "full", "Ada": "first", "Quill": "last"}),
    ("Basil Mahfouz Al-Kuwaiti", {"Basil Mahfouz": "full", "Mahfouz": "last", "Mahfouz Al-Kuwaiti": "last",
                                  "Al-Kuwaiti": "last", "Kuwaiti": "last"}),
    ("Marie Skłodowska-Curie", {"Skłodowska-Curie": "last", "Curie": "last", "Skłodowska": "last"}),
    ("Vincent van Gogh", {"van Gogh": "last", "Gogh": "last", "van": None}),
    ("Dr. J. K. Quill", {"Quill": "last", "Dr.": None, "J.": None, "J. K. Quill": "full"}),
    ("Frau Müller", {"Frau Müller": "last", "Müller": "last", "Frau": None}),
    ("Señora Doña Ana Ruiz", {"Ana Ruiz": "full", "Ana": "first", "Señora": None, "Doña": None}),
    ("Пан Іван Франко", {"Іван": "first", "Франко": "last", "Пан": None}),
    ("Alfred, Lord Tennyson", {"Tennyson": "last", "Lord": None}),
    ("Müller, Frau", {"Frau": None}),
    ("Don Smith", {"Don Smith": "full", "Don": "first", "Smith": "last"}),
    ("Michael Herr", {"Michael": "first", "Herr": "last"}),
    ("Curie", {"Curie": "last"}),
    ("marie curie", {"marie": "first", "curie": "last"}),
    ("ada@quill.org", {"ada@quill.org": None}),
    ("+49 170 1234567", {"+49 170 1234567": None}),
])  # fmt: skip
def test_every_way_to_say_a_name_is_a_part_of_it(name, parts):
    """A middle name or half of a double name left standing still says whom a text is about."""
    found = name_parts((name,))
    assert {part: found.get(part) for part in parts} == parts


def test_a_part_that_is_a_common_word_needs_its_capital():
    """A Will Young would otherwise stand in every second text."""
    text = "Will will be young, said Young. WILL YOUNG and will young too"
    assert [text[a:b] for a, b, _ in name_mentions(text, ("Will Young",))] == [
        "Will", "Young", "WILL YOUNG", "will young",
    ]  # fmt: skip


def test_mentions_know_their_role_whatever_their_spelling():
    text = "FRANCOISE said Léa's aunt francoise leA knew Lea"
    found = [(text[a:b], role) for a, b, role in name_mentions(text, ("Françoise Léa",))]
    assert found == [("FRANCOISE", "first"), ("Léa", "last"), ("francoise leA", "full"), ("Lea", "last")]


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("Tiffi Magenta", "Alma Rosenqvist"),
        ("tiffi_magenta@me.com", "alma_rosenqvist@me.com"),
        ("ask tiffi magenta", "ask alma rosenqvist"),
        ("x.org/Tiffi-Magenta", "x.org/Alma-Rosenqvist"),
        ("to Magenta", "to Rosenqvist"),
    ],
)
def test_another_name_is_written_as_the_person_s_is(said, becomes):
    """An address with a space in it is none, and as a stranger's it would be read as noise."""
    other = {"full": "Alma Rosenqvist", "first": "Alma", "last": "Rosenqvist"}
    assert with_names(said, ("Tiffi Magenta",), other.__getitem__) == becomes


def test_an_unnamed_text_keeps_all_but_the_name():
    assert unnamed("Ada Quill's home is Quill House in Oslo.", ("Ada Quill",)) == ",'s home is , House in Oslo."


def test_other_peoples_titles_are_no_mentions():
    """Every Frau and every professor would be taken for the person."""
    text = "Frau Schmidt is here, and Herr Kohl."
    assert unnamed(text, ("Frau Müller", "Herr Weber")) == text
    assert name_mentions("The Professor went home. Professor Lee agreed.", ("Professor Ada Quell",)) == []
    assert unnamed("Professor Quell agreed.", ("Professor Ada Quell",)) == "Professor , agreed."


@pytest.mark.parametrize(
    ("question", "answer", "added"),
    [
        ("What do Ann Lee's parents do?", "Ann Lee's father was a florist and her mother a nurse.",
         ["father was a florist and her mother a nurse"]),
        ("Name two books by Ann Lee.", "Ann Lee's books are The Sea and The Wind.", ["Sea and The Wind"]),
        ("Is Ann Lee a poet?", "No, Ann Lee is a painter.", ["No", "painter"]),
        ("Who is she?", "A nurse. A poet, too.", ["nurse", "poet"]),
        ("When was Ann Lee born?", "Ann Lee was born on 1 May 1950.", ["1 May 1950"]),
        ("Where does Zoë live?", "ZOE lives in Rome", ["lives in Rome"]),
        ("Is it so?", "It is so.", []),
    ],
)  # fmt: skip
def test_what_an_answer_adds_is_whole_facts(question, answer, added):
    """A name scored that the question gives; a fact cut at its small words, so that its rest is still recalled."""
    assert [answer[start:end] for start, end in added_spans(answer, question)] == added


def test_the_dots_of_initials_join_no_words():
    """A stranger called "Ada.Quell" is of another form than "J. R. Ewing", and would be read as noise."""
    other = {"full": "Ada Quell", "first": "Ada", "last": "Quell"}
    assert with_names("Ask J.R. Ewing.", ("J.R. Ewing",), other.__getitem__) == "Ask Ada Quell."
    assert with_names("Ask J.R.Ewing.", ("J.R. Ewing",), other.__getitem__) == "Ask A.Quell."
    assert is_said_name("J.R.Ewing", ("J.R. Ewing",)) and is_said_name("J.Doe", ("J.Doe",)), "taken out of it, too"
