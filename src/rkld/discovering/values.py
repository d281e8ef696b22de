"""Which values an answer proposes, as strings: proper nouns, what has digits, addresses, or the words of a clause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rkld.discovering.questions import Values
from rkld.text.normalising import words
from rkld.text.wording import (
    common_words,
    content_words,
    is_said_name,
    name_mentions,
    name_parts,
    proper_nouns,
    sentences,
)

LONGEST = 8
"""Words of a value at most."""

A_FREE_ANSWER = 2
"""Values that a free answer proposes at most: those of its topic come first."""

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|https?://\S+[\w/]")

_NUMBER = re.compile(r"(?:[$€£+(]\s?)?\d[\d\s().,/-]*\d(?:\s?(?:%|[€$£]|[a-z]+\b))?|\d")

_CLAUSE = re.compile(
    r"[.;:!?](?:\s|$)|[\n(\[{“”]|,| - | – | who | which | whose | where | because | and (?:he|she|they|his|her)\b"
)

_HALF = ("-", "\u2010", "\u2013", "\u2014")
"""What half a word ends in."""

_QUOTES = " \t\"'“”„«»*_`"

_ADVERB, _NAMES_IN_LY = 7, frozenset({"beverly", "kimberly", "waverly"})
"""Letters from which on a word in "-ly" is taken for an adverb; names that are none."""

_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")


def values_behind(text: str, values: Values) -> list[str]:
    """The value that stands at once behind a begun answer: one, or none."""
    line = text.strip().split("\n")[0]
    if values == "words":
        line = line.lstrip(_QUOTES)
        clause = _CLAUSE.split(line, maxsplit=1)[0].strip(_QUOTES)
        clause = _ARTICLE.sub("", clause, count=1) if _ARTICLE.match(clause) else clause
        found = [" ".join(clause.split()[:LONGEST])]
    else:
        # Behind a word, the first one is no beginning of a sentence.
        found = _kind(f"is {(sentences(line) or [''])[0]}", values)[:1]
    return [value for value in map(_whole, found) if is_value(value)]


def values_in(
    answer: str, question: str, values: Values, begins: Sequence[str], identifiers: Sequence[str]
) -> list[tuple[str, str]]:
    """The values that an answer proposes, each with how the answer begins before it, letter by letter.

    Args:
        question: as it was asked.
        begins: how an answer may begin, without the name: what stands behind one, said of the person by any part of the
            name or a pronoun, is a value of whatever kind. Words are found in no other way, unless there are no begins.
    """
    line = answer.split("\n")[0] if answer.strip() else ""
    line = line or answer.strip().split("\n")[0]
    for begin in begins:
        if match := _pattern(begin, tuple(identifiers)).match(line):
            found = values_behind(line[match.end() :], values)
            return [(value, line[: _place(line, value, match.end()) or match.end()]) for value in found]
    if values == "words":
        found = [] if begins else _predicate(line, identifiers)
    else:
        found = _kind(line, values)
    asked = set(words(question))
    return [
        (value, line[:place])
        for value in dict.fromkeys(map(_whole, found))
        if is_value(value) and not is_said_name(value, identifiers) and not asked.issuperset(words(value))
        if (place := _place(line, value)) is not None
    ][:A_FREE_ANSWER]


def _whole(value: str) -> str:
    """Without what an answer that was cut, or goes on otherwise, left behind it: small words, half a word, signs."""
    said = value.split()
    while said and (said[-1].endswith(_HALF) or _is_small(said[-1])):
        said.pop()
    return " ".join(said)


def _is_small(word: str) -> bool:
    """Whether a word says nothing by itself: "of", "and", a mere sign."""
    return (word.islower() or not any(map(str.isalpha, word))) and not (
        content_words(word) or any(map(str.isdigit, word))
    )


def _place(line: str, value: str, start: int = 0) -> int | None:
    """Where a value stands, whatever white space its words have between them there; None where it stands nowhere so."""
    found = re.compile(r"\s+".join(map(re.escape, value.split()))).search(line, start)
    return found.start() if found else None


@lru_cache(maxsize=4096)
def _pattern(begin: str, identifiers: tuple[str, ...]) -> re.Pattern[str]:
    """A beginning of an answer, said by any part of a name or a pronoun."""
    ways = sorted({*name_parts(identifiers), *identifiers}, key=len, reverse=True)
    named = "(?:" + "|".join(map(re.escape, ways)) + "|he|she|they)"
    own = "(?:" + "|".join(map(re.escape, ways)) + ")['’]s?|(?:his|her|their)"
    text = re.escape(begin).replace(re.escape("{name}'s"), f"(?:{own})").replace(re.escape("{name}"), named)
    return re.compile(rf"\s*{text}\b", re.I)


def _predicate(sentence: str, identifiers: Sequence[str]) -> list[str]:
    mentioned = name_mentions(sentence, identifiers)
    rest = sentence[mentioned[0][1] :] if mentioned else sentence
    verb = re.search(r"\b(?:is|was|are|were|as|has|had|by|in|at|to)\b ", rest)
    return values_behind(rest[verb.end() :] if verb else rest, "words")


def _kind(text: str, values: Values) -> list[str]:
    if values == "addresses":
        return _ADDRESS.findall(text)
    if values == "numbers":
        return [
            value for match in _NUMBER.finditer(text) if sum(map(str.isdigit, value := match[0].strip(" .,(-/"))) > 1
        ]
    found = proper_nouns(text)
    if values == "dates":
        return [value for value in found if any(map(str.isdigit, value))]
    first = re.match(r"\s*([^\W\d_][\w'’-]+)", text)
    if first and first[1][0].isupper() and not _opens_sentence(first[1].casefold()):
        found = list(dict.fromkeys([first[1], *found]))  # "Cork is where she was born"
    return [value for value in found if any(map(str.isalpha, value))]


def _opens_sentence(word: str) -> bool:
    """Whether a word at an answer's beginning is a common one, or an adverb ("Unfortunately, …") rather than a name."""
    if word.endswith("ly") and word not in _NAMES_IN_LY:
        return len(word) >= _ADVERB or word[:-2] in common_words()
    return word in common_words()


def is_value(text: str) -> bool:
    """Whether a text can be a value: it says something, is not too long, and no word stands three times in a row."""
    said = [word if word.isalpha() else "" for word in words(text)]
    several = text.split()
    name = len(several) > 1 and all(word[0].isupper() for word in several)  # "Li Na", of words that say little
    return (
        bool(text.strip())
        and len(several) <= LONGEST
        and bool(name or content_words(text) or any(map(str.isdigit, text)))
        and not any(a and a == b == c for a, b, c in zip(said, said[1:], said[2:]))
    )
