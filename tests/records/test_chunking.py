"""Chunks of a long text: its own tokens, one chunk behind the other, nothing lost."""

from __future__ import annotations

import pytest

from rkld import UserError
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.records.chunking import all_chunks, chunks

SENTENCES = (
    "The old lamp on the pier went out at nine, and nobody came to light it.",
    "Mira counted forty gulls on the roof of the customs house.",
    "Under the stairs lay a map of seven islands, drawn in green ink.",
    "Her brother sold clocks that ran backwards to sailors who were late.",
    "On Thursday the harbour froze, and the ferry stood in it like a tooth.",
)
TEXT = "\n".join(SENTENCES)


def test_chunks_follow_each_other_and_have_the_tokens_they_were_cut_by():
    """A chunk that is tokenized otherwise by itself would be longer or shorter than said, and split within words."""
    tokenizer = tiny_tokenizer()
    cut = chunks(TEXT, tokenizer, 16, 400, "book")
    assert TEXT.startswith("".join(cut))
    assert len(TEXT) - len("".join(cut)) < 100
    assert {len(tokenizer(chunk, add_special_tokens=False).input_ids) for chunk in cut} == {16}
    assert chunks(TEXT, tokenizer, 16, 2, "book") == cut[:2]
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids[:16]) == cut[0], "no merge stands in the way of the first cut"


def test_a_letter_is_not_cut_in_two():
    """Each of these is several tokens: a cut within one would make it another letter, or none."""
    tokenizer = tiny_tokenizer()
    text = "鯨は海に住む。" * 8
    cut = chunks(text, tokenizer, 16, 400, "book")
    assert text.startswith("".join(cut))
    assert len(cut) > 5
    assert {len(tokenizer(chunk, add_special_tokens=False).input_ids) for chunk in cut} <= {14, 15, 16}


def test_a_text_of_exactly_one_chunk_is_enough_and_less_is_not():
    tokenizer = tiny_tokenizer()
    tokens = len(tokenizer("A short tale.", add_special_tokens=False).input_ids)
    assert chunks("A short tale.", tokenizer, tokens, 9, "--book x") == ["A short tale."]
    with pytest.raises(UserError, match=f"--book x has {tokens} tokens, less than one chunk of {tokens + 1}"):
        chunks("A short tale.", tokenizer, tokens + 1, 9, "--book x")


@pytest.mark.parametrize("size", [7, 16, 10_000])
def test_all_chunks_are_the_whole_text(size):
    """What is to be forgotten may not be left out because it fills no chunk."""
    found = all_chunks(TEXT, tiny_tokenizer(), size)
    assert "".join(found) == TEXT
    assert len(found) > 1 or size == 10_000


def test_white_space_behind_the_last_chunk_is_none():
    tokenizer = tiny_tokenizer()
    size = len(tokenizer("A short tale.", add_special_tokens=False).input_ids)
    assert all_chunks("A short tale.\n \n", tokenizer, size) == ["A short tale."]
