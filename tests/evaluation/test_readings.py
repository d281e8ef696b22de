"""Rows of readings: what of a record is looked for, and keys that cannot be told apart."""

from types import SimpleNamespace

import pytest

from rkld.evaluation.generation import Generated
from rkld.evaluation.readings import answer_rows, by_key


def said(*texts, finished=True):
    return [[Generated((), text, finished)] for text in texts]


def record(key, answer, spans=()):
    return SimpleNamespace(key=key, form="chat", before="Who?\n", answer=answer, spans=tuple(spans))


def test_facts_are_looked_for_where_the_recorded_answer_has_them():
    """A fact of the question need not be in the answer: the share could never be 1."""
    records = [record("a", "Born in Oslo in 1867.", ["Oslo", "1867", "Ann Lee"]), record("b", "Yes.")]
    rows = answer_rows(records, said("In Oslo.", "No no no no no no no."))
    assert rows["a"]["facts"] == [True, False]
    assert rows["b"]["facts"] == []
    assert rows["a"]["answer"] == "In Oslo."
    assert rows["b"]["repetition"] > 0.5
    assert answer_rows(records, said("In Oslo.", ""), {"a": ("1867",)})["a"]["facts"] == [False]


def test_a_fact_said_in_any_mode_is_said():
    """A thinking model asked in one mode alone, or a thought that does not count."""
    spans = ["Oslo", "1867", "Ann Lee"]
    quiet, thinking = (
        Generated((), text, finished)
        for text, finished in (("I cannot say.", True), ("<think>\nBorn in Oslo.</think>I cannot", False))
    )
    row = answer_rows([record("a", "Ann Lee, Oslo, 1867.", spans)], [[quiet, thinking]])["a"]
    assert row["facts"] == [True, None, None] and row["cut"] and 0 < row["rouge_l"] < 1
    assert row["answer"] == quiet.text and row["answers"] == [quiet.text, thinking.text]


def test_plain_text_ends_at_the_cap():
    """A base model never ends a text: nothing could be established of it."""
    text = SimpleNamespace(key="a", form="text", before="", answer="Born in Oslo.", spans=("Oslo",))
    assert answer_rows([text], said("Once upon", finished=False))["a"]["facts"] == [False]


def test_records_of_one_key_are_refused():
    """One row would take the other's place, and the mean would be over fewer records than it says."""
    with pytest.raises(ValueError, match="same key"):
        by_key([record("a", "x"), record("a", "y")], {"loss": [1.0, 2.0]})
