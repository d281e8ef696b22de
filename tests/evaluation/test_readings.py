"""Rows of readings: what of a record is looked for, and keys that cannot be told apart."""

from types import SimpleNamespace

import pytest

from rkld.evaluation.readings import answer_rows, by_key


def record(key, answer, spans=()):
    return SimpleNamespace(key=key, form="chat", answer=answer, spans=tuple(spans))


def test_facts_are_looked_for_where_the_recorded_answer_has_them():
    """A fact of the question need not be in the answer: the share could never be 1."""
    records = [record("a", "Born in Oslo in 1867.", ["Oslo", "1867", "Ann Lee"]), record("b", "Yes.")]
    rows = answer_rows(records, ["In Oslo.", "No no no no no no no."])
    assert rows["a"]["facts"] == [True, False]
    assert rows["b"]["facts"] == []
    assert rows["a"]["answer"] == "In Oslo."
    assert rows["b"]["repetition"] > 0.5
    assert answer_rows(records, ["In Oslo.", ""], {"a": ("1867",)})["a"]["facts"] == [False]


def test_records_of_one_key_are_refused():
    """One row would take the other's place, and the mean would be over fewer records than it says."""
    with pytest.raises(ValueError, match="same key"):
        by_key([record("a", "x"), record("a", "y")], {"loss": [1.0, 2.0]})
