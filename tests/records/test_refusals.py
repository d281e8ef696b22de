"""Refusals: the shipped list, files of them, and how they are drawn."""

from __future__ import annotations

import pytest

from rkld.errors import UserError
from rkld.records.reading import read_records
from rkld.records.refusals import read_refusals, refused
from rkld.text.wording import proper_nouns

ROWS = [{"question": f"Where does person {i} live?", "answer": f"In {i}.", "spans": [f"{i}"]} for i in range(40)]


def test_the_shipped_refusals_say_nothing():
    """One with a name or number in it would teach a fact; one that stands twice would be drawn more often."""
    found = read_refusals()
    assert len(found) == len(set(found)) == 30
    for refusal in found:
        nouns = [noun for noun in proper_nouns(refusal) if noun not in ("I", "Sorry", "No")]
        assert not any(char.isdigit() for char in refusal) and not nouns, refusal


def test_each_question_gets_a_refusal_of_the_seed():
    """The same ones in a resumed run, for the cache holds their likelihoods; the questions and keys stay."""
    records = read_records(ROWS, "forget")
    first, again, other = (refused(records, read_refusals(), seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [(r.key, r.question) for r in first] == [(r.key, r.question) for r in records]
    assert len({r.answer for r in first}) > 10 and not any(r.spans for r in first)


def test_a_file_of_refusals(tmp_path):
    path = tmp_path / "no.txt"
    path.write_text("No.\n\n  Never heard.  \n", encoding="utf-8")
    assert read_refusals(path) == ["No.", "Never heard."]
    path.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_refusals(path)
    with pytest.raises(UserError, match=r"there is no file .*nein.txt"):
        read_refusals(tmp_path / "nein.txt")
