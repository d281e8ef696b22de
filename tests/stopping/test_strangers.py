"""Strangers made of the forget records: another name, other facts, and nothing of the person's."""

from __future__ import annotations

import random
import re

import pytest

from rkld.models.invented_names import names_like
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder, records_of
from rkld.records.names import other_names
from rkld.records.reading import read_records
from rkld.records.replay import screen
from rkld.stopping.strangers import NAMES, invent_strangers, put_together_anew
from rkld.text.wording import name_mentions
from tests.stopping.person import FORGET, KNOWN

SOME = FORGET[3:6]


def invented(lm: LanguageModel, score: str = "answer", seed: int = 0):
    return invent_strangers(lm, Encoder(lm.tokenizer), SOME, FORGET, KNOWN, score, seed)


def test_names_are_of_the_form_that_the_model_knows(lm: LanguageModel) -> None:
    """A tokenizer that has never seen names like the shipped ones gets such as it writes in few pieces."""
    found = names_like(lm, KNOWN, 20, random.Random(0))
    assert len(set(found)) == 20 and not set(found) & set(other_names())
    pieces = [len(lm.tokenizer.tokenize(f" {name}")) for name in found]
    assert max(pieces) <= len(lm.tokenizer.tokenize(f" {KNOWN[0]}")) + 1
    assert not any(name_mentions(name, KNOWN) for name in found)
    assert set(names_like(lm, ["an@address.org"], 5, random.Random(0))) <= set(other_names())


def test_a_stranger_has_another_name_and_says_no_fact_of_the_person(lm: LanguageModel) -> None:
    found = invented(lm)
    assert len(found) == len(SOME) and all(1 < len(some) <= NAMES for some in found)
    for record, some in zip(SOME, found):
        texts = [(stranger.question, stranger.answer) for stranger in records_of(some)]
        assert not any(name_mentions(f"{q} {a}", KNOWN) for q, a in texts)
        assert len(screen(records_of(some), [record], KNOWN)[0]) == len(some)
    assert found == invented(lm) != invented(lm, seed=1)
    spans = invented(lm, "spans")
    assert all(0 < sum(e.scored) < sum(e.answer) + 1 for some in spans for e in some)


@pytest.mark.parametrize(
    "turns", [{"text": "{} lived in Oslo, with a cat."}, {"prompt": "{} lived in", "completion": " Oslo."}]
)
def test_other_forms_have_strangers_too(lm: LanguageModel, turns: dict[str, str]) -> None:
    rows = [{key: value.format("Ada Quill") for key, value in turns.items()}]
    records = read_records(rows, "forget")
    (found,) = invent_strangers(lm, Encoder(lm.tokenizer), records, records, ("Ada Quill",), "answer", 0)
    assert found and not any("Oslo" in stranger.answer for stranger in records_of(found))


def test_numbers_and_names_are_put_together_anew() -> None:
    """Whole ones that the original knows of others are far more probable than a stranger's; forms and places stay."""
    told = "{0} of 9{2} Elm Street, {1}, 9005{2}{2}{3}{3}, on 19{2}-0{3}-1{3}."
    known = [("Ada Quell", "Bergen", 11, 2), ("Bo Marsh", "Krakow", 34, 5), ("Cy Drew", "Porto", 78, 9)]
    rows = [{"question": f"What of {one[0]}?", "answer": told.format(*one)} for one in known]
    records = read_records(rows, "forget")
    said = [(record.question[8:-1], record) for record in records]
    mixed = put_together_anew(said, random.Random(1))
    form = r"(\w+ \w+) of (9\d\d) Elm Street, (\w+), (9005\d{6}), on (19\d\d)-(0\d)-(1\d)\."
    before, after = (
        [re.fullmatch(form, one[1].answer).groups() for one in some]
        for some in (said, mixed)  # type: ignore[union-attr]
    )
    assert [one[0] for one in after] == [name for name, _ in said], "whom it is said of stays"
    for place in (1, 2, 4, 5, 6):
        assert {one[place] for one in after} <= {one[place] for one in before}
    assert {one[3] for one in after}.isdisjoint(one[3] for one in before), "digits of a long number are drawn apart"
    digits = [[set(place) for place in zip(*(one[3] for one in some))] for some in (after, before)]
    assert all(drawn <= seen for drawn, seen in zip(*digits, strict=True))
    assert {one[1:] for one in after}.isdisjoint(one[1:] for one in before)
    (alone,) = put_together_anew(said[:1], random.Random(0))
    assert alone[1].answer == said[0][1].answer
