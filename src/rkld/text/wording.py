"""What in a text may carry a fact: proper nouns, numbers, rare words, and the parts of a person's name. No model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from rkld.files import DATA
from rkld.text.matching import Matcher
from rkld.text.normalising import normal, words
from rkld.text.spellings import is_mere_title

_WORD = re.compile(r"[^\W_]+(?:['’\-.][^\W_]+)*")

_BREAK = re.compile(r"[.!?:;]\s|\n")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_OPENERS = _set(
    "a after also although an and as at because before born both but by during for from he her his however if in it "
    "its no not of on one or she since so that the their there these they this those though to until we what when "
    "where which while who with yes you your"
)
"""What begins a sentence in a capital and belongs to no name after it."""

# Small words inside a name or a title: "University of Warsaw", "On the Origin of Species", "Vincent van Gogh".
_JOINT = re.compile(r"\s+(?:(?:of|of the|the|on the|de|de la|del|della|da|di|du|la|le|van|van der|von|bin|al)\s+)?")

_BETWEEN_NUMBERS = re.compile(r",\s*")  # 10,000; November 7, 1867


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """About 5000 common English words, none of which is by itself anybody's fact.

    Words of lower case that are early in the vocabulary of SmolLM2 (Apache-2.0), where order follows frequency.
    """
    return frozenset((DATA / "common_words.txt").read_text(encoding="utf-8").split())


def rare_words(text: str) -> set[str]:
    """Words that few texts hold: not common ones, nor numbers of one or two digits.

    As :func:`rkld.text.normalising.words` writes them.
    """
    return {word for word in words(text) if word not in common_words() and (len(word) > 2 or not word.isdigit())}


def is_english(text: str) -> bool:
    """Whether most words are common English ones, so that the others may be called rare."""
    found = words(text)
    return 2 * sum(word in common_words() for word in found) >= len(found)


_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n+")


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; one begins with no small letter."""
    return [found.strip() for found in _SENTENCE.split(text) if found.strip()]


def proper_nouns(text: str) -> list[str]:
    """Names, titles, dates and numbers as they stand in the text: runs of capitalised words and numbers.

    Small words inside a run belong to it ("On the Origin of Species"), and so does all of a date ("7 November
    1867"), for a fact is forgotten as a whole. A number alone counts from three digits on. A single capitalised word
    at the start of a sentence is passed over: it may be any word.
    """
    runs: list[list[re.Match[str]]] = []
    gaps: dict[int, str] = {}  # where a run begins → what stands between it and the word before
    gap_start = 0
    for match in _WORD.finditer(text):
        word, gap = match.group(), (gap_start, match.start())
        gap_start = match.end()
        if not (word[0].isupper() or word[0].isdigit()) or word == "I":
            continue
        last = runs[-1][-1] if runs else None
        between = text[last.end() : match.start()] if last else ""
        numbers = last and last.group()[-1].isdigit() and word[0].isdigit() and _BETWEEN_NUMBERS.fullmatch(between)
        if last and (numbers or (_JOINT.fullmatch(between) and "\n" not in between)):
            runs[-1].append(match)
        else:
            runs.append([match])
            gaps[match.start()] = text[slice(*gap)]
    found = []
    for run in runs:
        before = gaps[run[0].start()]
        first = len(before) == run[0].start()  # no word stands before it
        starts = (first and not before.strip()) or _ends_sentence(before)
        quoted = before[-1:] in ('"', "“", "«", "„")
        if not quoted or len(run) == 1:
            while run and run[0].group().casefold() in _OPENERS:
                run, starts = run[1:], False
        capital = any(match.group()[0].isupper() for match in run) and not (starts and len(run) == 1)
        if capital or any(sum(c.isdigit() for c in match.group()) >= 3 for match in run):
            found.append(re.sub(r"['’]s$", "", text[run[0].start() : run[-1].end()]))
    return list(dict.fromkeys(found))


def _ends_sentence(gap: str) -> bool:
    """Whether a sentence or a line ends in what stands between two words."""
    signs = gap.rstrip()
    return signs[-1:] in tuple(".!?:;•*") or "\n" in gap[len(signs) :]


_FUNCTION_WORDS = _set(
    "a about after all also although an and any are as at be because been before being between both but by can could "
    "did do does during each few for from had has have he her him his how if in into is it its many may might more "
    "most much of on only or other over she should since so some such than that the their them then there "
    "these they this those through to too under until up very was were what when where which while who whom whose why "
    "will with would you your"
)
"""English words that carry no fact by themselves."""


def added_spans(answer: str, question: str) -> list[tuple[int, int]]:
    """What an answer adds to its question: sorted (start, end) character ranges of whole facts.

    Runs of words that the question has not, with the function words inside them ("[father was a florist]"). What the
    question gives, the person's name above all, is left out, and so are function words at the edges of a run. Empty
    where the answer says nothing new.
    """
    given, joined = set(words(question)), False
    runs: list[tuple[int, int]] = []
    for match in _WORD.finditer(answer):
        said = words(match.group())
        if all(word in _FUNCTION_WORDS for word in said):
            continue
        new = not given.issuperset(said)
        if new and joined and not _BREAK.search(answer, runs[-1][1], match.start()):
            runs[-1] = (runs[-1][0], match.end())
        elif new:
            runs.append((match.start(), match.end()))
        joined = new
    return runs


def given_spans(answer: str, question: str) -> list[tuple[int, int]]:
    """What of an answer its question gives: sorted (start, end) character ranges of words, function words left out.

    The person's name above all, which who has never met the person says as well.
    """
    given = set(words(question))
    found = ((match.span(), words(match.group())) for match in _WORD.finditer(answer))
    return [span for span, said in found if given.issuperset(said) and not _FUNCTION_WORDS.issuperset(said)]


_ALSO_NAMES = _set("may will")
"""Function words that are names where they have a capital."""


def content_words(text: str) -> list[str]:
    """The words that say something, each once, as :func:`rkld.text.normalising.words` writes them.

    Function words are left out, and letters that stand by themselves or in twos ("al", "J.").
    """
    return [
        word
        for word in dict.fromkeys(words(text))
        if (len(word) > 2 or not word.isascii() or word.isdigit())
        and (word not in _FUNCTION_WORDS or (word in _ALSO_NAMES and word.capitalize() in text))
    ]


def added_words(answer: str, question: str) -> set[str]:
    """Words of four letters or more that the answer adds to the question."""
    return {word for word in words(answer) if len(word) >= 4} - set(words(question))


def holds(text: str, phrases: Iterable[str]) -> bool:
    """Whether any of the phrases stands in the text as whole words."""
    return bool(Matcher.of(tuple(phrases)).said(text))


def is_name(identifier: str) -> bool:
    """Whether an identifier is a name: e-mail addresses, numbers and the like are none."""
    return any(map(str.isalpha, identifier)) and not any(c.isdigit() or c in "@/" for c in identifier)


LONGEST_NAME = 12
"""Words up to which an identifier has parts: a longer one is no name, and its parts would be too many."""


@lru_cache(maxsize=64)
def name_parts(identifiers: tuple[str, ...]) -> dict[str, str]:
    """Every way to say the identifiers that are names: whole, and each run of their words, with the role it plays.

    Halves of a hyphenated last word count too ("Curie" of "Skłodowska-Curie"). Particles ("van"), initials, and titles
    ("Dr.") but for a surname ("Michael Herr") are no parts by themselves.

    Returns:
        part → "full", "first" or "last" (all but the first name).
    """
    parts: dict[str, str] = {}
    for identifier in filter(is_name, identifiers):
        pieces = identifier.split()
        while len(pieces) > 1 and _is_title(pieces[0]):
            pieces = pieces[1:]
        parts[identifier] = "full" if len(pieces) > 1 else "last"
        if len(pieces) > LONGEST_NAME:
            continue
        for start in range(len(pieces)):
            for end in range(start + 1, len(pieces) + 1):
                run = " ".join(pieces[start:end])
                if end - start > 1:
                    parts.setdefault(run, "last" if start else "full")
                elif _stands_alone(run, identifier) and not (_is_title(run) and not _is_surname(pieces, start)):
                    parts.setdefault(run, "last" if start or len(pieces) == 1 else "first")
        halves = re.split(r"[-‐‑]", pieces[-1])
        for half in halves if len(halves) > 1 else ():
            if _stands_alone(half, identifier):
                parts.setdefault(half, "last")
    return parts


def _stands_alone(piece: str, identifier: str) -> bool:
    """Whether one word of a name says whose it is."""
    bare = piece.rstrip(".,")
    particle = bare.islower() and not identifier.islower()
    short = len(bare) < 3 and bare.isascii()
    return bool(bare) and not short and not particle


def _is_title(piece: str) -> bool:
    return is_mere_title(normal(piece.rstrip(".,")))


def _is_surname(pieces: Sequence[str], number: int) -> bool:
    """Whether a word ends a name, not behind a comma: "Herr" in "Michael Herr"."""
    return number + 1 == len(pieces) and not (number and pieces[number - 1].endswith(","))


def name_mentions(text: str, identifiers: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where the text says the person's name or a part of it: (start, end, role as in :func:`name_parts`).

    A part that is also a common word ("Will", "Young") counts only where it has its capital.
    """
    roles = name_parts(tuple(identifiers))
    parts = tuple(roles)
    found = []
    for start, end, number in Matcher.of(parts).find(text):
        said = text[start:end]
        if said.islower() and said in common_words() and said not in roles:
            continue
        found.append((start, end, roles[parts[number]]))
    return found


def is_said_name(text: str, identifiers: Sequence[str]) -> bool:
    """Whether a text says the person's name, or a part of it, and nothing else."""
    return not any(map(str.isalnum, with_names(text, identifiers, lambda _: "")))


_NAME_JOINT = re.compile(r"(?<=[^\W_])[._+-](?=[^\W_])")
"""Between the parts of a name in an address."""

_INITIALS = re.compile(r"[A-Z]\.\w")
"""How a name begins that is written by initials, without a space."""


def with_names(text: str, identifiers: Sequence[str], put: Callable[[str], str]) -> str:
    """The text with something else in the place of the person's name and of its parts, written as these are there.

    Args:
        put: what, by the role that the name or part plays (:func:`name_parts`).
    """
    for start, end, role in reversed(name_mentions(text, identifiers)):
        text = text[:start] + _written_as(text[start:end], put(role)) + text[end:]
    return text


def _written_as(said: str, name: str) -> str:
    """The name as another is written in the same place: "ada_quell@…" is of small letters, and has no space.

    The dots of initials join no words: in the place of "J.R.Ewing" stands "A.Quell".
    """
    joint = _NAME_JOINT.search(said)
    if _INITIALS.match(said) and not any(map(str.isspace, said)) and name.split():
        *given, last = name.split()
        name = "".join(f"{word[0]}." for word in given) + last
    elif joint and not any(map(str.isspace, said)):
        name = joint.group().join(name.split())
    return name.lower() if said.islower() else name


def unnamed(text: str, identifiers: Sequence[str]) -> str:
    """The text with a comma in the place of the person's name and of its parts."""
    return with_names(text, identifiers, lambda _: ",")
