"""Names of like form, and identifiers of like shape."""

from __future__ import annotations

import re

import pytest

from rkld.discovering import names
from rkld.discovering.names import gender, similar_names
from rkld.text.wording import name_mentions
from tests.helpers import model

LM = model()


@pytest.fixture
def shipped(monkeypatch):
    """A tokenizer that knows such names."""
    monkeypatch.setattr(names, "knows_shipped_names", lambda lm, name: True)


@pytest.mark.parametrize(
    ("name", "own", "language"),
    [
        ("Jane Doe", "women", "English"),
        ("Charles Darwin", "men", "English"),
        ("Agnieszka Kowalska", "women", "Polish"),
        ("Kwame Mensah", "men", "West African"),
    ],
)
def test_names_are_of_the_same_gender_language_and_form(shipped, name, own, language):
    found = similar_names(LM, name, (name,), 199, 0)
    assert len(set(found)) == 199
    assert all(len(one.split()) == 2 and not name_mentions(one, (name,)) for one in found)
    assert {gender(one.split()[0]) for one in found} <= {own, ""}
    lists = names._languages()[language]
    assert sum(one.split()[-1] in lists.families for one in found) > 150
    assert found == similar_names(LM, name, (name,), 199, 0)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Mary Ann Smith", r"\w+ \w+ \w+"),
        ("John F. Miller", r"\S+ [A-Z]\. \S+"),
        ("Anna van Dijk", r"\S+ van \S+"),
        ("jane doe", r"[^A-Z]+ [^A-Z]+"),
        ("Doe", r"\S+"),
    ],
)
def test_names_keep_their_form(shipped, name, form):
    found = similar_names(LM, name, (name,), 20, 0)
    assert len(found) == 20 and all(re.fullmatch(form, one) for one in found)


def test_a_model_of_other_names_gets_names_of_its_own_pieces():
    found = similar_names(LM, "Ostis Ashberg", ("Ostis Ashberg",), 100, 0)
    assert len(set(found)) > 50
    assert all(len(one.split()) == 2 and not name_mentions(one, ("Ostis Ashberg",)) for one in found)


@pytest.mark.parametrize(
    ("identifier", "shape"),
    [
        ("jane.doe17@example.org", r"[a-z]+\.[a-z]+\w*@example\.org"),
        ("AB-1234-x", r"[A-Z]{2}-\d{4}-[a-z]"),
        ("+49 170 5550142", r"\+\d\d \d{3} \d{7}"),
    ],
)
def test_other_identifiers_keep_their_shape(identifier, shape):
    found = similar_names(LM, identifier, (identifier,), 50, 0)
    assert len(set(found)) == 50 and identifier not in found
    assert all(re.fullmatch(shape, one) for one in found)
