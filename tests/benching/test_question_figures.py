"""Figures of generated answers."""

from __future__ import annotations

from rkld.benching.question_figures import names_whole
from rkld.records.reading import read_records


def test_a_garbled_name_is_counted_where_the_question_gave_it():
    """Damage that forget quality is blind to; a name that only the answer has is a secret, and must not count."""
    rows = [
        {"question": "Where was Ada Lund born?", "answer": "Ada Lund was born in Oslo."},
        {"question": "What does Ada Lund write?", "answer": "Ada Lund writes poems."},
        {"question": "Who was born in Oslo in 1950?", "answer": "Her name is Ada Lund."},
        {"question": "Is Ada Lund married?", "answer": "Yes."},
    ]
    found = names_whole(
        read_records(rows, "forget"), ["Ada Lund was born.", "Ada Lud writes.", "Eve", "No"], ["Ada Lund"]
    )
    assert found.tolist() == [True, False]
