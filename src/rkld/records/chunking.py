"""A long text as chunks of so many tokens, which stay those tokens when each is read by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from rkld.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chunks(text: str, tokenizer: PreTrainedTokenizerBase, size: int, most: int, what: str) -> list[str]:
    """The first whole chunks of ``size`` tokens, at most ``most``, one behind the other.

    Each chunk, tokenized by itself, has ``size`` tokens, which are those that it was cut by. Where a cut would change
    them (within a letter, or a word that is then split otherwise), it is made a few tokens earlier.

    Args:
        what: the text, for messages.

    Raises:
        UserError: the text is shorter than one chunk.
    """
    found = list(islice(_chunks(text, tokenizer, size), most))
    if not found:
        tokens = len(_tokens(text, tokenizer)[0])
        raise UserError(
            f"{what} has {tokens} tokens, less than one chunk of {size}: give a longer text, or less --chunk-tokens."
        )
    return found


_SPARE = 16
"""A chunk that could not be cut otherwise may be shorter by this many tokens."""

_CHARACTERS = 8
"""Of a token, more or less at most: so much of the text is tokenized to find the end of a chunk."""


def all_chunks(text: str, tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """All of the text as :func:`chunks` has it, and what is left behind the last whole one: together the text."""
    found = list(_chunks(text, tokenizer, size))
    rest = text[sum(map(len, found)) :]
    return [*found, rest] if rest.strip() else found


def _chunks(text: str, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[str]:
    while text:
        ids, ends = _beginning(text, tokenizer, size)
        if len(ids) < size:
            return
        lengths = range(size, max(0, size - _SPARE), -1)
        cuts = (text[: ends[n - 1]] for n in lengths if _tokens(text[: ends[n - 1]], tokenizer)[0] == ids[:n])
        chunk = next(cuts, text[: ends[size - 1]])
        yield chunk
        text = text[len(chunk) :]


def _beginning(text: str, tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[list[int], list[int]]:
    """:func:`_tokens` of a beginning of the text that has more than ``size``, or of all."""
    length = _CHARACTERS * size
    while True:
        ids, ends = _tokens(text[:length], tokenizer)
        if len(ids) > size or length >= len(text):
            return ids, ends
        length *= 2


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids, and the character behind each."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoding["input_ids"], [end for _, end in encoding["offset_mapping"]]
