"""Other wordings of a record, as they are read: its own field, columns of data sets, a file beside."""

from __future__ import annotations

import json

import pytest

from rkld.errors import UserError
from rkld.records.identity import each_once
from rkld.records.reading import COLUMNS, read_records, read_rewordings
from rkld.records.record import Record, Rewording

ROW = {"question": "When was Jane Doe born?", "answer": "Jane Doe was born in 1970."}
OTHER = {"question": "Where does Jane Doe live?", "answer": "In Cork."}
GIVEN = {
    "questions": ["In which year was Jane Doe born?", "Born when?"],
    "answers": ["In 1970."],
}


def read(**fields) -> Record:
    return read_records([{**ROW, **fields}], "forget")[0]


def pairs(record: Record) -> list[tuple[str, str]]:
    return [(one.question, one.answer) for one in record.rewordings]


def test_questions_and_answers_go_together_and_the_shorter_list_begins_again():
    first, second = GIVEN["questions"]
    assert pairs(read(rewordings=GIVEN)) == [(first, "In 1970."), (second, "In 1970.")]
    assert pairs(read(rewordings={"answers": ["In 1970."]})) == [(ROW["question"], "In 1970.")]


def test_numbered_columns_are_rewordings_and_those_that_audits_ask_are_not():
    record = read(paraphrased_question="Born when?", paraphrased_question_1="Her birth?", paraphrased_answer_1="1970.")
    assert pairs(record) == [("Her birth?", "1970.")]
    assert dict(record.extra) == {"paraphrased_question": "Born when?"}
    (asked,), _ = read_rewordings(COLUMNS, [record])
    assert pairs(asked)[1:] == [("Born when?", ROW["answer"])] and asked.extra == record.extra


def test_a_file_of_rewordings_is_matched_by_the_question(tmp_path):
    records = read_records([ROW, OTHER], "forget")
    rows = [{"question": " When was  Jane Doe born? ", **GIVEN}, {"question": "Who?", "questions": ["Whom?"]}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, strange = read_rewordings(tmp_path / "r.jsonl", records)
    assert [len(record.rewordings) for record in found] == [2, 0] and len(strange) == 1
    with pytest.raises(UserError, match="none of the 1 rows of rewordings is about a forget record"):
        read_rewordings(rows[1:], records)


def test_what_is_written_out_is_read_again():
    record = read(rewordings=[{"kind": "text", "answer": "Jane Doe, born in 1970."}, {**ROW, "kind": "letter"}])
    assert record.rewordings[0] == Rewording("", "Jane Doe, born in 1970.", "text")
    (again,) = read_records([record.row()], "forget")
    assert again.rewordings == record.rewordings and again.turns == record.turns
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_of_records_that_say_the_same_all_rewordings_stay():
    records = read_records([{**ROW, "rewordings": {"answers": [text]}} for text in ("In 1970.", "1970.")], "forget")
    ((stays,), _) = each_once(records)
    assert [one.answer for one in stays.rewordings] == ["In 1970.", "1970."]


@pytest.mark.parametrize(("wrong", "message"), [
    ("In 1970.", "'rewordings' must be an object of 'questions' and 'answers'"),
    ({"answers": [3]}, "text 1 of 'answers' must be text"),
    ({"answers": {}}, "'answers' of rewordings must be a list of texts"),
    ([{"question": "x"}], "the answer of rewording 1 must be text"),
    (["x"], "rewording 1 must be an object"),
])  # fmt: skip
def test_what_is_no_rewording_is_refused_with_its_place(wrong, message):
    with pytest.raises(UserError, match=f"record 1: {message}") as caught:
        read(rewordings=wrong)
    assert "1970" not in str(caught.value)
