"""Where a text mentions someone or something: one folded form for comparing and searching."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache


def mentions(text: str, identifiers: Sequence[str]) -> list[tuple[int, int]]:
    """Where ``text`` mentions someone: sorted (start, end) character ranges of the original text.

    Whole words only, without a possessive 's; of ranges that overlap the longest stays. Differences of case,
    of Unicode form, of accents, of apostrophes and of what stands between words (any white space, any hyphen)
    do not matter, nor do the separators within a phone number or a date. E-mail addresses must be complete.
    Scripts written without spaces need no word boundary. Rather one mention too many than one missed: a
    single missed one can let a fact pass.
    """
    folded, starts, ends = _fold(text)
    found = []
    for pattern in _patterns(tuple(identifiers)):
        for match in pattern.finditer(folded):
            after = folded[match.end() : match.end() + 1]
            goes_on = after and unicodedata.category(after).startswith("M")  # a vowel sign: for re a boundary
            if not goes_on:
                found.append((starts[match.start()], ends[match.end() - 1]))
    chosen: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
        if all(end <= taken_start or taken_end <= start for taken_start, taken_end in chosen):
            chosen.append((start, end))
    return sorted(chosen)


# Names: one folded form for comparing and searching

# Scripts without spaces, and Hangul, whose particles follow a name directly: no boundaries between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han, Hangul
)


_LETTER = rf"[^\W_{_UNSPACED}]"


_GAP = r"(?:\s+|\s*[-_]\s*)"


_DIGIT_GAP = r"[\s().\-/]{0,3}"


# Letters that Unicode does not take apart, though they are often written plainly; variants of ' and -.
_PLAIN = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe"}
    | dict.fromkeys("‘’‛ʹʻʼ′`", "'")
    | dict.fromkeys("‐‒–—―−", "-")
)


@lru_cache(maxsize=4096)
def _fold_cluster(cluster: str) -> str:
    """A character with its marks: compatibility form, without case, accents and invisible characters."""
    cluster = cluster.replace("´", "'")  # its compatibility form is a space with an accent
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", cluster).casefold())
    kept = (c for c in folded if not "\u0300" <= c <= "\u036f" and unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", "".join(kept)).translate(_PLAIN)


def _fold(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The folded text and, for each of its characters, start and end of its cluster in the original."""
    if text.isascii():
        return text.lower().replace("`", "'"), range(len(text)), range(1, len(text) + 1)
    folded, starts, ends, start = [], [], [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _is_continuation(text[end]):
            end += 1
        for char in _fold_cluster(text[start:end]):
            folded.append(char)
            starts.append(start)
            ends.append(end)
        start = end
    return "".join(folded), starts, ends


def _is_continuation(char: str) -> bool:
    """A combining mark, or a vowel or final of a Hangul syllable that is written as separate jamo."""
    return unicodedata.category(char).startswith("M") or "\u1160" <= char <= "\u11ff"


def normal(text: str) -> str:
    return " ".join(_fold(text)[0].split())


@lru_cache(maxsize=64)
def _patterns(identifiers: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    names = dict.fromkeys(normal(identifier) for identifier in identifiers)
    return tuple(re.compile(_pattern(name)) for name in names if any(map(str.isalnum, name)))


def _pattern(name: str) -> str:
    """Regular expression for a normalised identifier in folded text."""
    if "@" in name:  # an address must not be the end or the beginning of a longer one
        return rf"(?<![\w.+%-]){re.escape(name)}(?!\w|[.-]\w)"
    digits = re.findall(r"\d", name)
    if len(digits) >= 7 and re.fullmatch(r"[\d\s+().\-/]+", name):  # a phone number or a date
        return rf"(?<!\w)[+(]*{_DIGIT_GAP.join(digits)}(?!\w)"
    dot = r"\.?" if re.search(r"\w{3}", name) else r"\."  # A.N. alone must not match every "an"
    body = ""
    for token in re.findall(rf"{_GAP}|\.\s*|.", name.rstrip()):
        if token[0] == ".":  # J. R. R., J.R.R. and JRR are one
            body += f"{dot}{_GAP}?"
        else:
            body += _GAP if re.fullmatch(_GAP, token) else re.escape(token)
    body = body.removesuffix(f"{_GAP}?")
    before = "" if re.match(rf"[{_UNSPACED}]", name[0]) else rf"(?<!{_LETTER})"
    after = "" if re.match(rf"[{_UNSPACED}]", name[-1]) else rf"(?!{_LETTER})"
    return before + body + after
