"""A book as records: read, freed of what stands around it, cut into chunks of a fixed number of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from rkld.errors import UserError
from rkld.records.sources import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_START = re.compile(
    r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG[^*]*\*\*\*[^\n]*\n|^\*END[* ]THE SMALL PRINT[^\n]*\n",
    re.IGNORECASE | re.MULTILINE,
)


_END = re.compile(r"^(?:\*\*\* ?|\* ?)?END OF (?:TH(?:E|IS) )?PROJECT GUTENBERG", re.IGNORECASE | re.MULTILINE)
"""Lines of Project Gutenberg around its books: the licence stands before the last of one, after the first of the
other; of both there is an older and a newer form."""


def read_book(path: str, what: str) -> str:
    """The text of a file, with plain line ends and without Project Gutenberg's header and footer, if it has them.

    Args:
        what: "book", "elsewhere": for messages.

    Raises:
        UserError: no such file, one that is not UTF-8, or nothing in it.
    """
    text = read_text(path, what).replace("\r\n", "\n")
    start = max((found.end() for found in _START.finditer(text)), default=0)
    end = _END.search(text, start)
    text = text[start : end.start() if end else None].strip()
    if not text:
        raise UserError(f"{what}: {path} holds nothing between Project Gutenberg's header and footer: give a book.")
    return text


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
"""At most so many tokens less than asked has a chunk that could not be cut otherwise."""


_CHARACTERS = 8
"""Of a token, more or less at most: so much of the text is tokenized to find the end of a chunk."""


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
