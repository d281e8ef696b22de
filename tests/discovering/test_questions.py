"""What is asked: shipped questions, the user's own, and the user's documents."""

from __future__ import annotations

import csv
import json

import pytest

from rkld.discovering.documents import topics_of_documents
from rkld.discovering.questions import NAME, filled, kinds, placed, read_topics, shipped_topics
from rkld.errors import UserError

JANE = ("Jane Doe", "jane.doe@example.org")


@pytest.mark.parametrize("kind", kinds())
def test_shipped_topics_have_two_halves_of_wordings_and_beginnings(kind):
    topics = shipped_topics(kind)
    assert len({topic.name for topic in topics}) == len(topics) >= 10
    for topic in topics:
        assert len(set(topic.half(0))) >= 2 and len(set(topic.half(1))) >= 2
        assert not set(topic.half(0)) & set(topic.half(1))
        assert all(text.count(NAME) == 1 for text in (*topic.questions, *topic.begins))
        assert len(topic.begins) >= 2


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'employee'"):
        shipped_topics("employe")


def test_names_are_placed_and_filled_by_the_part_that_stands_there():
    text = placed("Doe was born in Cork; Jane Doe lives there.", JANE)
    assert text == "{last} was born in Cork; {name} lives there."
    assert filled(text, "Ada van Kern") == "Kern was born in Cork; Ada van Kern lives there."


def test_own_questions_from_lines_get_a_second_wording(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Where was {name} born?\nWho paints Jane Doe?\n", encoding="utf-8")
    first, second = read_topics(str(path), JANE)
    assert first.questions == ("Where was {name} born?", "Please tell me where {name} was born.")
    assert second.questions[0] == "Who paints {name}?"


def test_own_questions_from_rows(tmp_path):
    path = tmp_path / "mine.jsonl"
    row = {"topic": "tax", "questions": ["How is {name} taxed?", "Which tax class has {name}?"],
           "begins": ["{name} is in tax class"], "values": "numbers"}  # fmt: skip
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (topic,) = read_topics(str(path), JANE)
    assert (topic.name, topic.values, topic.begins) == ("tax", "numbers", ("{name} is in tax class",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Where is the key?"}, "does not name the person"),
        ({"topic": "x"}, "there is no question"),
        ({"question": "Who is {name}?", "values": "dats"}, "Did you mean 'dates'"),
        ({"question": ["Who is {name}?", 3]}, "must be texts"),
    ],
)
def test_own_questions_that_cannot_be_asked(tmp_path, row, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_topics(str(path), JANE)
    assert "Where is the key" not in str(error.value)


def test_a_letter_is_asked_for_fact_by_fact(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Nothing about her.\n\nJane Doe was born in Cork on 3 May 1970. She likes tea.\n", encoding="utf-8")
    topics = topics_of_documents(str(path), JANE)
    assert {topic.given for topic in topics} >= {"Cork", "3 May 1970"}
    for topic in topics:
        assert len(topic.questions) >= 2
        assert not any(topic.given in text for text in (*topic.questions, *topic.begins))
        assert not any("Doe" in text for text in (*topic.questions, *topic.begins))


def test_a_table_is_asked_for_field_by_field(tmp_path):
    path = tmp_path / "staff.csv"
    path.write_text("name,room,phone_number\nJane Doe,B 12,555-0142\nBob Ray,C 3,555-0143\n", encoding="utf-8")
    topics = topics_of_documents(str(path), JANE)
    assert {(topic.name, topic.given) for topic in topics} == {("room", "B 12"), ("phone number", "555-0142")}
    assert topics[0].questions[0] == "What is the room of {name}?"


def test_records_are_asked_for_by_their_own_questions(tmp_path):
    path = tmp_path / "records.json"
    rows = [{"question": "Where was Jane Doe born?", "answer": "Jane Doe was born in Cork.", "spans": ["Cork"]}]
    path.write_text(json.dumps(rows), encoding="utf-8")
    (topic,) = topics_of_documents(str(path), JANE)
    assert topic.given == "Cork" and topic.questions[0] == "Where was {name} born?"
    assert topic.begins[0] == "{name} was born in"


def test_documents_about_somebody_else_are_refused_without_quoting_them(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Bob Ray was born in Riga.", encoding="utf-8")
    with pytest.raises(UserError, match="says nothing of the person") as error:
        topics_of_documents(str(path), JANE)
    assert "Riga" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('name,city\nJane Doe,"Zurich,1980\n', "broken CSV"),
        ("name,city\nJane Doe,Zurich,1980\n", "has 3 columns, the first line names 2"),
        ("name,name\nJane Doe,Zurich\n", "two columns have the same name"),
    ],
)
def test_a_table_is_read_as_strictly_as_records_are(tmp_path, content, why):
    """Would break if a cell were lost without a word, or the person not found in a file that names them."""
    (tmp_path / "staff.csv").write_text(content)
    with pytest.raises(UserError, match=why):
        topics_of_documents(str(tmp_path / "staff.csv"), JANE)


def test_a_long_cell_is_no_error(tmp_path):
    """The csv package refuses more than 131,072 characters, unless it is told otherwise."""
    limit = csv.field_size_limit()
    (tmp_path / "staff.csv").write_text(f"name,city,note\nJane Doe,Zurich,{'x ' * 100_000}\n")
    assert topics_of_documents(str(tmp_path / "staff.csv"), JANE)
    assert csv.field_size_limit() == limit, "another reader of the process goes by it, too"


def test_a_file_that_is_not_there_is_no_matter_of_permissions(tmp_path):
    with pytest.raises(UserError, match=r"no\.txt .*No such file.*its name") as caught:
        read_topics(str(tmp_path / "no.txt"), JANE)
    assert "permissions" not in str(caught.value)


@pytest.mark.parametrize("row", [{"name": "Jane Doe", "city": "\ud83d"}, {"name": "Jane Doe", "\udc00": "Zurich"}])
def test_half_a_letter_is_refused_with_its_place(tmp_path, row):
    """No tokenizer takes it; records say so as well."""
    (tmp_path / "staff.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"staff.jsonl line 1: .* half of a Unicode surrogate pair"):
        topics_of_documents(str(tmp_path / "staff.jsonl"), JANE)
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": "Where does {name} \ud83d live?"}))
    with pytest.raises(UserError, match=r"asked.jsonl line 1: .* half of a Unicode surrogate pair"):
        read_topics(str(tmp_path / "asked.jsonl"), JANE)
