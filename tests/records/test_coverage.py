"""Which occurrences of identifiers and spans are unlearned, and where they stand in the tokens."""

from __future__ import annotations

import re

import pytest

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.records.coverage import scored_share
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

NAME = ("Ada Quillon",)
IN_BOTH = {"question": "Who is Ada Quillon?", "answer": "Ada Quillon lives in Oslo.", "spans": ["Oslo"]}
IN_QUESTION = {"question": "Ticket of Ada Quillon: no light.", "answer": "We are sorry."}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def share(tokenizer, rows, score, identifiers=NAME, **options):
    encoder, records = Encoder(tokenizer, **options), read_records(rows, "forget")
    return scored_share(encoder, records, [encoder.encode(r, score) for r in records], identifiers, score)


def counts(coverage):
    return [(part.scored, part.found) for part in (coverage.identifiers, coverage.spans)]


def test_located_tokens_spell_the_phrase_and_nothing_beside_it(tokenizer):
    encoder = Encoder(tokenizer)
    (record,) = read_records([IN_BOTH], "forget")
    ids = encoder.encode(record).ids
    places = encoder.locate(record, lambda text: [m.span() for m in re.finditer("Ada Quillon", text)])
    assert [tokenizer.decode([ids[t] for t in place]).strip() for place in places] == ["Ada Quillon"] * 2


def test_what_is_scored_is_counted_in_each_mode(tokenizer):
    """A name in the question is unlearned only with --score all; spans mode leaves names alone."""
    assert counts(share(tokenizer, [IN_BOTH], "answer")) == [(1, 2), (1, 1)]
    assert counts(share(tokenizer, [IN_BOTH], "all")) == [(2, 2), (1, 1)]
    assert counts(share(tokenizer, [IN_BOTH], "spans")) == [(0, 2), (1, 1)]


def test_a_partly_scored_occurrence_does_not_count(tokenizer):
    """A name of which only the last part is marked is still said in its first."""
    row = {**IN_BOTH, "spans": ["Quillon lives"]}
    assert counts(share(tokenizer, [row], "spans"))[0] == (0, 2)


def test_names_are_found_as_people_write_them(tokenizer):
    row = {"question": "Who?", "answer": "It is ADA  QUILLON's house."}
    assert counts(share(tokenizer, [row], "answer"))[0] == (1, 1)


def test_a_name_at_the_start_of_a_text_counts_as_scored(tokenizer):
    """Nothing predicts position 0, so demanding it would call such a record unscored for ever."""
    assert counts(share(tokenizer, [{"text": "Ada Quillon lives in Oslo."}], "answer"))[0] == (1, 1)


def test_what_a_cut_record_loses_is_not_scored(tokenizer):
    row = {"question": "Who?", "answer": "A painter of some fame, " * 5 + "called Ada Quillon."}
    assert counts(share(tokenizer, [row], "answer"))[0] == (1, 1)
    assert counts(share(tokenizer, [row], "answer", max_length=20))[0] == (0, 1)


def test_a_span_that_only_stands_within_words_is_found(tokenizer):
    """Otherwise records with such spans alone would be refused, though the spans are scored."""
    row = {"question": "Which tower?", "answer": "The Quillontower.", "spans": ["Quillon"]}
    assert counts(share(tokenizer, [row], "spans", identifiers=()))[1] == (1, 1)


@pytest.mark.parametrize(("answer", "span", "places"), [
    ("東京 東京都", "東京", 2),  # a script without spaces joins names to what stands around them
    ("_Anna_ and Anna", "Anna", 2),
    ("Anna and Annapolis", "Anna", 1),
])  # fmt: skip
def test_the_places_of_a_span_are_those_that_are_scored(tokenizer, answer, span, places):
    """Would break if the check counted others than the run unlearns."""
    row = {"question": "Who?", "answer": answer, "spans": [span]}
    assert counts(share(tokenizer, [row], "spans", identifiers=()))[1] == (places, places)
    assert counts(share(tokenizer, [row], "answer", identifiers=()))[1] == (places, places)


def test_a_span_of_the_question_alone_is_no_part_of_the_answers(tokenizer):
    row = {"question": "Is it Anna?", "answer": "Yes.", "spans": ["Anna"]}
    for score in ("answer", "spans"):  # and is unlearned all the same
        assert counts(share(tokenizer, [row], score, identifiers=()))[1] == (1, 1)


def test_what_a_turn_tells_that_is_not_unlearned_is_an_alarm_with_the_records_number(tokenizer):
    """In tickets and letters the facts stand in the user's turn; a question that names the person is none."""
    asks = {"question": "Where does Ada Quillon live?", "answer": "In Oslo."}
    tells = {"question": "Ada Quillon lives at 7 Elm Street. Please help.", "answer": "We are sorry."}
    writes = {"question": "My number is 440-555-0160.", "answer": "Ada Quillon, thank you."}
    marked = {**tells, "spans": ["7 Elm Street"]}
    assert share(tokenizer, [asks], "answer").alarms == []
    for score in ("answer", "added"):
        assert share(tokenizer, [marked], score).alarms == [], "scored wherever it stands"
    (alarm,) = share(tokenizer, [asks, tells, writes], "answer").alarms
    assert alarm.startswith("In 2 forget records") and "records 2, 3" in alarm
    assert "Elm" not in alarm and "0160" not in alarm
    assert share(tokenizer, [tells, writes], "all").alarms == []
    number = {"question": "Who has 440-555-0160?", "answer": "Ada Quillon."}
    assert share(tokenizer, [number], "answer", identifiers=(*NAME, "440-555-0160")).unscored == ("forget record 1",)


def test_a_person_who_is_named_only_where_nothing_is_unlearned_is_said(tokenizer):
    thanks = {"question": "This is Ada Quillon. Please close the case.", "answer": "Done."}
    (said,) = share(tokenizer, [{"text": "Ada Quillon"}, thanks], "added").alarms
    assert said.startswith("1 forget records name the person") and "record 2" in said and "Quillon" not in said
    assert share(tokenizer, [thanks], "all").alarms == []
    assert share(tokenizer, [{**thanks, "answer": "Thank you, Ada Quillon."}], "answer").alarms == []


def test_what_an_answer_repeats_of_its_question_is_no_alarm(tokenizer):
    """By default its words are held, the name too if it is marked: the answer is unlearned by what it adds."""
    named = {"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo."}
    given = {"question": "Where in Oslo does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo, near Elm Park."}
    for row in (named, given, {**named, "subject": "Ada Quillon", "spans": ["Ada Quillon", "Oslo"]}):
        assert share(tokenizer, [row], "added").alarms == []


@pytest.mark.parametrize("score", ["answer", "added"])
def test_nothing_scored_is_refused_with_the_remedy(tokenizer, score):
    """A ticket whose answers name nobody: the run would cost its time and unlearn no personal data."""
    with pytest.raises(UserError, match=r"none of the 1 places.*--score all") as refused:
        share(tokenizer, [IN_QUESTION], score).require(score)
    assert "Quillon" not in str(refused.value)
    share(tokenizer, [IN_QUESTION], "all").require("all")


@pytest.mark.parametrize("score", ["answer", "added"])
@pytest.mark.parametrize("answer", ["Oslo.", "Ada Quillon lives in Oslo."])
def test_answers_to_questions_about_the_person_are_reached(tokenizer, score, answer):
    """Whether or not they name her; a name that "added" holds stands in an answer that is unlearned."""
    share(tokenizer, [{"question": "Where does Ada Quillon live?", "answer": answer}], score).require(score)


def test_no_occurrence_at_all_is_no_reason_to_refuse(tokenizer):
    """Without known identifiers nothing can be said about them."""
    share(tokenizer, [IN_QUESTION], "answer", identifiers=()).require("answer")
