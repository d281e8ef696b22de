"""Other ways to write the same word, number or date: what is known about languages, apart from the search.

A normalised text is read as a graph: from each token edges lead on, over one token or several, and each edge has the
forms in which it is compared. Two texts say the same where a path through one has, edge by edge, a form of the other's.
Where languages disagree (10.000 is ten thousand, or ten with three decimals) there is an edge for each.

Not covered: another script (Иван for Ivan), inflection in Latin script (Polish Kowalskiego, Czech Moravcové), Slavic
names that lose a vowel (Льва for Лев), dates in words, numbers in words and months in other languages than English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from rkld.text.normalising import NormalisedText, Token, normal

LONGEST_RUN = 8
"""Tokens that are read as one at most: initials, groups of a number."""

TITLE = "\0title"
"""The form of every title: Mrs. and Ms. are compared as one."""

_TOGETHER = "\0+"
"""Before a character of a script without spaces that follows another one."""

# What stands before surnames, in the languages that are commonest among names.
_TITLES = frozenset(
    map(
        normal,
        (
            *("mr", "mrs", "ms", "miss", "mx", "dr", "prof", "professor", "sir", "dame", "lady", "lord", "rev"),
            *("herr", "frau", "fr", "mme", "mlle", "monsieur", "madame", "señor", "señora", "sr", "sra", "don", "doña"),
            *("sig", "signor", "signora", "dott", "pan", "pani", "господин", "госпожа", "пан", "пани"),
        ),
    )
)

_ALSO_NAMES = frozenset(("don", "lady", "pan", "sig"))
"""Titles that are given names, too: Don Smith, Pan Jianwei."""

_MONTHS = {
    form: number
    for number, month in enumerate(
        (
            *("january", "february", "march", "april", "may", "june"),
            *("july", "august", "september", "october", "november", "december"),
        ),
        start=1,
    )
    for form in (month, month[:3])
} | {"sept": 9}

_ONES = {
    word: number
    for number, word in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}

_TENS = {
    word: 10 * number
    for number, word in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2
    )
}

_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}

_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.ASCII)


def _endings(text: str) -> tuple[str, ...]:
    return tuple(sorted({normal(ending) for ending in text.split()}, key=len, reverse=True))


# Case endings of nouns and adjectives in the Slavic languages of Cyrillic script, and in Greek. Those of the second
# row also begin another name (Иванов, Петровых), so only what stands in the text is searched without them.
_CYRILLIC = _endings(
    "а я у ю е ы и і о й ь ом ем ой ей ою ею ам ям ах ях ами ями ому ему ого его ым им ыми ими ий ый ая"
)
_CYRILLIC_MORE = _endings("ов ев ых их ую юю ии ию ия ией ием")
_GREEK = _endings("ς ος ου ο ον ε οι ων ους α ας η ης ες υ")

# Particles that are joined to the word after them: and, in, for, from, the.
_ARABIC_PREFIXES = ("وال", "بال", "فال", "كال", "لل", "ال", "و", "ف", "ب", "ل", "ك")
_HEBREW_PREFIXES = ("ו", "ב", "ל", "ה", "מ", "ש", "כ")

_STEM = 3
"""Letters that a word must keep without its ending or particle."""


class Edge(NamedTuple):
    """A way to read the tokens from one position on."""

    end: int
    """The token after them."""
    forms: tuple[str, ...]


def edges(text: NormalisedText, start: int, searched: bool) -> Iterator[Edge]:
    """The ways to read the text from token ``start`` on.

    Args:
        searched: whether it is the text that is searched, whose words may be inflected; else the phrase sought.
    """
    token = text.tokens[start]
    if token.unspaced and start and text.tokens[start - 1].unspaced and not text.gap(start - 1).strip():
        # Characters that stand together are sought together: 京都 is not in 東京、都市.
        together = _TOGETHER + token.form
        yield Edge(start + 1, (token.form, together) if searched else (together,))
        return
    yield Edge(start + 1, _forms(token.form, text.expanded(token), searched))
    if start + 1 < len(text.tokens) and not token.unspaced:
        yield from _joined(text, start)
        yield from _dates(text, start)
    if token.form in _ONES or token.form in _TENS:
        yield from _in_words(text, start)


def is_title(form: str) -> bool:
    """Whether a word stands before surnames, as "Mrs"."""
    return form in _TITLES


def is_mere_title(form: str) -> bool:
    """Whether a word is a title and no given name."""
    return form in _TITLES - _ALSO_NAMES


@lru_cache(maxsize=16384)
def _forms(form: str, expanded: str, searched: bool) -> tuple[str, ...]:
    found = {form: None, expanded: None}
    first = form[0]
    if "\u0400" <= first <= "\u052f":
        for plain in _without(form, (*_CYRILLIC, *_CYRILLIC_MORE) if searched else _CYRILLIC):
            found[plain] = None
    elif "\u0370" <= first <= "\u03ff":
        found.update(dict.fromkeys(_without(form, _GREEK)))
    elif searched and "\u0590" <= first <= "\u06ff":
        prefixes = _HEBREW_PREFIXES if first < "\u0600" else _ARABIC_PREFIXES
        for prefix in prefixes:
            if form.startswith(prefix) and len(form) - len(prefix) >= _STEM:
                found[form[len(prefix) :]] = None
    elif first.isdigit() and (ordinal := _ORDINAL.fullmatch(form)):
        found[ordinal[1]] = None
    if form in _TITLES:
        found[TITLE] = None
    return tuple(found)


def _without(form: str, endings: tuple[str, ...]) -> Iterator[str]:
    for ending in endings:
        if form.endswith(ending) and len(form) - len(ending) >= _STEM:
            yield form[: len(form) - len(ending)]


def _joined(text: NormalisedText, start: int) -> Iterator[Edge]:
    """Tokens that may be written as one: J. R., 10 000, O'Brien, Jean-Pierre, a word cut at the end of a line."""
    first, gap = text.tokens[start].form, text.gap(start)
    if len(first) == 1 and first.isalpha():
        end = start + 1
        while end < min(len(text.tokens), start + LONGEST_RUN) and _is_initial(text, end):
            end += 1
        if end - start > 1:
            yield Edge(end, ("".join(token.form for token in text.tokens[start:end]),))
    elif len(first) <= 3 and first.isdecimal() and _SEPARATOR.fullmatch(gap) and not _in_group(text, start):
        end = start + 1
        while (
            end < min(len(text.tokens), start + LONGEST_RUN)
            and text.gap(end - 1) == gap
            and len(text.tokens[end].form) == 3
            and text.tokens[end].form.isdecimal()
        ):
            end += 1
        if end - start > 1:
            yield Edge(end, ("".join(token.form for token in text.tokens[start:end]),))
    if gap in _HYPHENS and first.isalpha():
        second = text.tokens[start + 1]
        if second.form.isalpha() and second.form != "s" and not second.unspaced:
            yield Edge(start + 2, (first + second.form, text.expanded(text.tokens[start]) + text.expanded(second)))


def _in_words(text: NormalisedText, start: int) -> Iterator[Edge]:
    """A number in English words: twelve hundred, forty-two, one hundred and five. "One" alone is mostly no number."""
    whole, part, end = 0, 0, start  # thousands that are done; what is below them; the token after
    number: int | None = start
    while number is not None and number - start < LONGEST_RUN:
        form = text.tokens[number].form
        if form in _ONES and part % 10 == 0 and (part % 100 == 0 or (part % 100 >= 20 and 0 < _ONES[form] < 10)):
            part += _ONES[form]
        elif form in _TENS and part % 100 == 0:
            part += _TENS[form]
        elif form == "hundred" and 0 < part < 100:
            part *= _SCALES[form]
        elif form in _SCALES and part and _SCALES[form] > 100 and (not whole or whole % (1000 * _SCALES[form]) == 0):
            whole, part = whole + part * _SCALES[form], 0
        else:
            break
        end, number = number + 1, _after(text, number, ("and",))
    if end - start > 1 or text.tokens[start].form != "one":
        yield Edge(end, (str(whole + part),))


_SEPARATOR = re.compile(r"[.'\s]")

_HYPHENS = ("'", "-", "-\n", "-\r\n")


def _is_initial(text: NormalisedText, number: int) -> bool:
    """Whether a token goes on with the initial before it: "R" after "J.", or after "J" where both are capitals."""
    token, before = text.tokens[number], text.tokens[number - 1]
    if len(token.form) != 1 or not token.form.isalpha() or token.unspaced:
        return False
    gap = text.gap(number - 1)
    if len(gap) > LONGEST_RUN:
        return False
    if gap.startswith("."):
        return not gap.strip(".- \t\r\n\v\f")
    return not gap.strip() and all(text.text[text.starts[t.start]].isupper() for t in (before, token))


def _in_group(text: NormalisedText, number: int) -> bool:
    """Whether a token goes on with the number before it."""
    if number == 0 or len(text.tokens[number].form) != 3:
        return False
    before = text.tokens[number - 1].form
    return text.gap(number - 1) == text.gap(number) and before.isdecimal() and len(before) <= 3


def _dates(text: NormalisedText, start: int) -> Iterator[Edge]:
    """Dates, whatever the order of day and month; numeric ones with either first."""
    first = text.tokens[start]
    if not (first.form[0].isdecimal() or first.form in _MONTHS):
        return
    numeric = _numeric_date(text, start)
    if numeric:
        yield Edge(start + 3, numeric)
        return
    end = _after(text, start, ("of", "the"))
    if end is None:
        return
    day, month = (first, text.tokens[end]) if first.form not in _MONTHS else (text.tokens[end], first)
    number = _day(day)
    if number is None or month.form not in _MONTHS:
        return
    when = f"{_MONTHS[month.form]:02}-{number:02}"
    yield Edge(end + 1, (f"\0--{when}",))
    year = _after(text, end, ("of",))
    if year is not None and (form := text.tokens[year].form).isdecimal() and len(form) == 4:
        yield Edge(year + 1, (f"\0{form}-{when}",))


def _numeric_date(text: NormalisedText, start: int) -> tuple[str, ...]:
    tokens = text.tokens[start : start + 3]
    if len(tokens) < 3 or text.gap(start) not in (".", "/", "-") or text.gap(start + 1) != text.gap(start):
        return ()
    one, two, three = (token.form for token in tokens)
    if not (one + two + three).isdecimal() or len(two) > 2:
        return ()
    if len(one) == 4 and len(three) <= 2:
        year, orders = one, [(two, three)]
    elif len(three) == 4 and len(one) <= 2:
        year, orders = three, [(two, one), (one, two)]
    else:
        return ()
    found = {f"\0{year}-{int(m):02}-{int(d):02}": None for m, d in orders if 1 <= int(m) <= 12 and 1 <= int(d) <= 31}
    return tuple(found)


def _after(text: NormalisedText, number: int, between: tuple[str, ...]) -> int | None:
    """The token that follows closely, small words passed over; None where there is none."""
    end = number + 1
    if end < len(text.tokens) and text.tokens[end].form in between:
        end += 1
    if end >= len(text.tokens) or any(len(text.gap(i)) > 3 for i in range(number, end)):
        return None
    return end


def _day(token: Token) -> int | None:
    ordinal = _ORDINAL.fullmatch(token.form)
    digits = ordinal[1] if ordinal else token.form
    return int(digits) if digits.isdecimal() and len(digits) <= 2 and 1 <= int(digits) <= 31 else None
