"""The one normal form in which texts are compared, with the way back to the text as it was written.

Without case, accents, invisible characters, compatibility forms and other scripts' digits; cut into words. Accents are
those of Latin, Greek and Cyrillic and the vowel points of Hebrew and Arabic; elsewhere marks are vowels, or make
another letter, and stay. Every step looks at a bounded number of characters, so the time is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

# Letters that Unicode does not take apart, though they are often written plainly; variants of ' and -.
_PLAIN = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ŧ": "t"}
    | {"ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ٱ": "ا"}  # Arabic letters that writers and keyboards exchange
    | dict.fromkeys("‘’‛ʹʻʼ′`׳", "'")
    | dict.fromkeys("‐‒–—―−־", "-")
)

# What the same letters become where a keyboard lacks them: Mueller, Soerensen, Aase, Djokovic.
_EXPANDED = {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "đ": "dj", "ð": "dh"}

# Scripts written without spaces, or with particles joined to words: every character is a word.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # ideographs
    (0xAC00, 0xD7AF),  # Hangul
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),  # ideographs beyond the basic plane
)

# Characters that tell no names apart: accents; points of Hebrew and Arabic; variation selectors.
_DROPPED = (
    (0x0300, 0x036F),
    (0x0591, 0x05BD),
    (0x05BF, 0x05BF),
    (0x05C1, 0x05C2),
    (0x05C4, 0x05C5),
    (0x05C7, 0x05C7),
    (0x0610, 0x061A),
    (0x0640, 0x0640),  # tatweel, which only stretches a word
    (0x064B, 0x065F),
    (0x0670, 0x0670),
    (0x06D6, 0x06ED),
    (0xFE00, 0xFE0F),
    (0xE0100, 0xE01EF),
)

_MARKS = 30
"""Combining marks that are read with one character (as in Unicode's stream-safe text); sorting more is quadratic."""

CACHED = 4_000
"""Characters up to which a text that was read is kept for the next comparison."""

# Kinds of folded characters: of a word, beginning or continuing a word of one character, and all others.
_IN_WORD, _ALONE, _ALONE_MORE, _OUTSIDE = "w", "u", "v", " "

_TOKEN = re.compile(f"{_IN_WORD}+|{_ALONE}{_ALONE_MORE}*")

_GROUPED_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")


class Token(NamedTuple):
    """One word, number, or character of a script written without spaces."""

    form: str
    """As it is compared; "10,000" as "10000"."""
    start: int
    """Its place in the folded text."""
    end: int
    unspaced: bool
    """Whether it needs no boundary to its neighbours."""


@dataclass(frozen=True, eq=False)
class NormalisedText:
    """A text as it is compared. Holds personal data where the text does."""

    text: str
    """As it was written."""
    folded: str
    starts: Sequence[int]
    """For each folded character where the character it comes from begins in ``text``."""
    ends: Sequence[int]
    """And where that ends, its marks included."""
    tokens: tuple[Token, ...]
    expansions: Mapping[int, str]
    """Position in ``folded`` → the other plain way to write that letter ("ue" for "ü")."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The range of ``text`` that a range of ``folded``, not an empty one, comes from."""
        return self.starts[start], self.ends[end - 1]

    def gap(self, number: int) -> str:
        """What stands in the folded text between token ``number`` and the one after it."""
        return self.folded[self.tokens[number].end : self.tokens[number + 1].start]

    def expanded(self, token: Token) -> str:
        """The token with its letters written in the other plain way; the same where there is none."""
        if not self.expansions or len(token.form) != token.end - token.start:
            return token.form
        return "".join(self.expansions.get(i, self.folded[i]) for i in range(token.start, token.end))


def normalise(text: str) -> NormalisedText:
    """The text folded and cut into tokens. Any string is accepted, lone surrogates and unassigned characters too."""
    return _normalise_cached(text) if len(text) <= CACHED else _normalise(text)


def normal(text: str) -> str:
    """The folded text with single spaces, punctuation included: two texts are the same if this is."""
    return " ".join(normalise(text).folded.split())


def words(text: str) -> list[str]:
    """The words of a text as they are compared: 10,000 is one, a possessive 's none.

    Characters of a script without spaces that follow each other are one word, as nothing says where one ends.
    """
    normalised = normalise(text)
    found: list[list[str]] = []
    last: Token | None = None
    for token in normalised.tokens:
        between = normalised.folded[last.end : token.start] if last else None
        if last and token.unspaced and last.unspaced and between == "":
            found[-1].append(token.form)
        elif not (token.form == "s" and between == "'"):
            found.append([token.form])
        last = token
    return ["".join(forms) for forms in found]


@lru_cache(maxsize=1024)
def _normalise_cached(text: str) -> NormalisedText:
    return _normalise(text)


def _normalise(text: str) -> NormalisedText:
    starts: Sequence[int]
    ends: Sequence[int]
    expansions: dict[int, str] = {}
    if text.isascii():
        folded = text.lower().replace("`", "'")
        kinds = "".join(map(_ASCII_KINDS.__getitem__, map(ord, folded)))
        starts, ends = range(len(text)), range(1, len(text) + 1)
    else:
        pieces, kind_pieces = [], []
        places: list[int] = []
        place_ends: list[int] = []
        for start, end in _clusters(text):
            piece, kind, expansion = _fold_cluster(text[start:end])
            if expansion:
                expansions[len(places)] = expansion
            pieces.append(piece)
            kind_pieces.append(kind)
            places += [start] * len(piece)
            place_ends += [end] * len(piece)
        folded, kinds, starts, ends = "".join(pieces), "".join(kind_pieces), places, place_ends
    return NormalisedText(text, folded, starts, ends, tuple(_tokens(folded, kinds)), expansions)


_ASCII_KINDS = [_IN_WORD if chr(code).isalnum() else _OUTSIDE for code in range(128)]


def _tokens(folded: str, kinds: str) -> Iterator[Token]:
    numbers = _GROUPED_THOUSANDS.finditer(folded)
    number = next(numbers, None)
    until = 0
    for match in _TOKEN.finditer(kinds):
        start, end = match.span()
        if start < until:  # a part of the number before
            continue
        while number and number.start() < start:
            number = next(numbers, None)
        if number and number.start() == start and kinds[number.end() : number.end() + 1] != _IN_WORD:
            until = number.end()
            yield Token(number[0].replace(",", ""), start, until, False)
        else:
            yield Token(folded[start:end], start, end, kinds[start] == _ALONE)


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Characters with their marks, as (start, end)."""
    start, length = 0, len(text)
    while start < length:
        end = start + 1
        limit = min(length, end + _MARKS)
        while end < limit and _is_continuation(text[end]):
            end += 1
        yield start, end
        start = end


@lru_cache(maxsize=8192)
def _is_continuation(char: str) -> bool:
    """A combining mark, or a vowel or final of a Hangul syllable that is written as separate jamo."""
    return unicodedata.category(char).startswith("M") or "\u1160" <= char <= "\u11ff"


@lru_cache(maxsize=8192)
def _fold_cluster(cluster: str) -> tuple[str, str, str]:
    """A character with its marks: folded, the kind of each folded character, and how else it may be written."""
    cluster = cluster.replace("´", "'")  # its compatibility form is a space with an accent
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", cluster).casefold())
    composed = unicodedata.normalize("NFC", folded)
    kept = "".join(c for c in folded if not _among(c, _DROPPED) and unicodedata.category(c) != "Cf")
    kept = unicodedata.normalize("NFC", kept).translate(_PLAIN)
    kept = "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in kept)
    expansion = _EXPANDED.get(composed, "") if len(kept) == 1 else ""
    return kept, "".join(_kinds(kept)), expansion


def _kinds(folded: str) -> Iterator[str]:
    last = ""
    for char in folded:
        category = unicodedata.category(char)[0]
        if category == "M" and last in (_ALONE, _ALONE_MORE):
            last = _ALONE_MORE
        elif category not in "LNM" or (category == "M" and last in ("", _OUTSIDE)):
            last = _OUTSIDE
        else:
            last = _ALONE if _among(char, _UNSPACED) else _IN_WORD
        yield last


def _among(char: str, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)
