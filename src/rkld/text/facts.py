"""Whether an answer says a fact, as strings: strict enough for numbers, blind to how names are written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Letters that casefold() and Unicode decomposition leave apart from the plain ones people write for them.
_PLAIN = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"})


_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")


# Scripts written without spaces, or with particles joined to words: every character counts as a word.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),  # Hangul
    (0x20000, 0x3FFFF),  # ideographs beyond the basic plane
)


def facts_said(facts: Sequence[str], answer: str) -> list[bool]:
    """For each fact whether ``answer`` holds its words, whole and in a row.

    Case, accents, punctuation, spacing and compatibility forms do not count: "Skłodowska" is said by
    "SKLODOWSKA-CURIE'S", "10,000" by "10000"; but "18" is not said by "1867". Other wordings ("eighteen" for
    "18") are not found. A fact of signs alone is looked for as it stands. ValueError for a blank fact.
    """
    said = f" {' '.join(_words(answer))} "
    found = []
    for number, fact in enumerate(facts, start=1):
        if not fact.strip():
            raise ValueError(f"fact {number} of {len(facts)} is blank")
        words = " ".join(_words(fact))
        found.append(f" {words} " in said if words else fact.strip() in answer)
    return found


def repetition(text: str, n: int = 4) -> float:
    """Share of word n-grams that repeat an earlier one: 0 for fluent text, towards 1 for text that loops.

    seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319), on words. Text shorter than n + 1 words gives 0.
    """
    words = _words(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _words(text: str) -> list[str]:
    """Runs of letters and digits, casefolded and without accents."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    # Accents of Latin, Greek and Cyrillic alone: in other scripts marks are vowels or make another letter.
    text = "".join(c for c in text if not "\u0300" <= c <= "\u036f")
    text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    return "".join(_spaced(c) for c in text).split()


def _spaced(character: str) -> str:
    """The character as it stands in words: itself, set apart, a space, or nothing if it is invisible."""
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphen, zero-width joiners and the like
        return ""
    if category[0] not in "LNM":
        return " "
    if any(first <= ord(character) <= last for first, last in _UNSPACED):
        return f" {character} "
    return character
