"""Strangers made of the forget records: another name, other facts, and nothing of the person's."""

from __future__ import annotations

import random

import pytest

from rkld.models.invented_names import names_like
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder, records_of
from rkld.records.names import other_names
from rkld.records.reading import read_records
from rkld.records.replay import screen
from rkld.stopping.strangers import NAMES, invent_strangers
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
