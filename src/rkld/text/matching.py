"""Where a text says a name, a number or a fact, however it is written: the one search that all comparisons use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from rkld.text.normalising import CACHED, NormalisedText, normalise
from rkld.text.spellings import TITLE, Edge, edges, is_title

LONGEST = 32
"""Tokens up to which a phrase is searched in all its spellings; a longer one is found in its plain form alone."""

_SPELLINGS = 32
"""Ways to read one phrase at most (1.000 is one number or two)."""

_PHONE_DIGITS = range(7, 21)

_PHONE = re.compile(r"[\d\s+().\-/]+")

_PHONE_GAP = re.compile(r"[\s+().\-/]{0,3}")

_COMMAS = frozenset(",،、")

# Signs that stand around a phrase without belonging to it.
_PUNCTUATION = frozenset(" .,;:!?'\"()[]{}<>«»“”„*_-/\\|~")

# The signs that touch a phrase's words.
_BEFORE, _AFTER = re.compile(r"(?<!\S)\S*\Z"), re.compile(r"\A\S*")

_BEFORE_ADDRESS = frozenset(".+%-_")


def mentions(text: str, identifiers: Sequence[str]) -> list[tuple[int, int]]:
    """Where ``text`` mentions someone or something: sorted (start, end) character ranges of the original text.

    Whole words only, without a possessive 's; of ranges that overlap the longest stays. What does not matter:

    - case, Unicode form, accents (also "ue" for "ü"), invisible characters, digits of other scripts;
    - what stands between words: white space, line ends, hyphens, any punctuation;
    - the form of numbers ("10,000"), phone numbers, initials and dates ("7 November 1867", "November 7, 1867");
    - the order of a name ("Moravec, Lena"), and a title in the place of a first name ("Mrs. Moravec");
    - case endings in Cyrillic and Greek, particles before a word in Hebrew and Arabic.

    E-mail addresses must be complete, numbers whole. Scripts written without spaces need no word boundary. Rather one
    mention too many than one missed: a single missed one can let a fact pass. An identifier of signs alone is looked
    for as it stands; a blank one is nowhere. Takes time linear in the text.
    """
    return [(start, end) for start, end, _ in Matcher.of(identifiers).find(text)]


class Mention(NamedTuple):
    """A range of the original text, and which of the phrases stands there."""

    start: int
    end: int
    number: int


class Matcher:
    """Searches many phrases in one pass: see :func:`mentions` for what counts as said."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self.phrases = tuple(phrases)
        self._first: dict[str, list[tuple[int, _Spelling]]] = {}
        self._other: list[tuple[int, _Phrase]] = []
        for number, written in enumerate(self.phrases):
            phrase = _phrase(written)
            for spelling in phrase.spellings:
                for form in spelling.forms[0]:
                    self._first.setdefault(form, []).append((number, spelling))
            if phrase.signs or phrase.long or phrase.phone:
                self._other.append((number, phrase))

    @classmethod
    def of(cls, phrases: Sequence[str]) -> Matcher:
        """The matcher of these phrases, the same one for the same phrases."""
        return _matcher(tuple(phrases))

    def find(self, text: str) -> list[Mention]:
        """Every mention, of those that overlap the longest, in the text's order.

        Of phrases that are found in the same place the first counts, those that stand there as written before others.
        """
        best: dict[tuple[int, int], tuple[bool, int]] = {}
        for number, (start, end), plain in self._found(_graph(text)):
            if end > start:
                best[start, end] = min(best.get((start, end), (True, len(self.phrases))), (not plain, number))
        _drop_straddling(best, len(text))
        # Longer ones are placed first, so a range overlaps one of them only if one of its own ends lies in it.
        taken = bytearray(len(text))
        chosen = []
        for start, end in sorted(best, key=lambda span: (span[0] - span[1], span[0])):
            if not (taken[start] or taken[end - 1]):
                taken[start:end] = b"\1" * (end - start)
                chosen.append(Mention(start, end, best[start, end][1]))
        return sorted(chosen)

    def said(self, text: str) -> frozenset[int]:
        """Which of the phrases stand in the text, by their number; those within others too."""
        return frozenset(number for number, _, _ in self._found(_graph(text)))

    def _found(self, graph: _Graph) -> Iterator[tuple[int, tuple[int, int], bool]]:
        """(number of the phrase, range of the original text, whether it stands there in the phrase's own order)."""
        for form in self._first.keys() & graph.places.keys():
            for number, spelling in self._first[form]:
                if not all(any(other in graph.places for other in forms) for forms in spelling.forms):
                    continue
                for start in graph.places[form]:
                    end = graph.follow(spelling, start)
                    if end is not None and (span := _range(graph.text, spelling, start, end)):
                        yield number, span, spelling.plain
        for number, phrase in self._other:
            for span in phrase.ranges(graph):
                yield number, span, True


def _drop_straddling(found: dict[tuple[int, int], tuple[bool, int]], length: int) -> None:
    """Take out names in another order that are pieces of two: "Quell, Ada" in "Ada Quell, Ada Quell"."""
    others = [span for span, (reordered, _) in found.items() if reordered]
    if not others:
        return
    steps = [0] * (length + 2)
    for (start, end), (reordered, _) in found.items():
        if not reordered:
            steps[start + 1] += 1
            steps[end] -= 1
    inside = list(accumulate(steps))  # per boundary between characters: plain mentions that it would cut
    for start, end in others:
        if inside[start] or inside[end]:
            del found[start, end]


@lru_cache(maxsize=1024)
def _matcher(phrases: tuple[str, ...]) -> Matcher:
    return Matcher(phrases)


# The text that is searched


class _Graph:
    """A text with all ways to read it (:mod:`rkld.text.spellings`), and where each form of a token begins."""

    def __init__(self, text: NormalisedText) -> None:
        self.text = text
        self.edges: list[tuple[Edge, ...]] = []
        self.places: dict[str, list[int]] = {}
        for start in range(len(text.tokens)):
            found = tuple(edges(text, start, searched=True))
            self.edges.append(found)
            for form in {form: None for edge in found for form in edge.forms}:
                self.places.setdefault(form, []).append(start)
        self._plain: tuple[str, dict[int, int], dict[int, int]] | None = None
        self._digits: tuple[str, dict[int, int], dict[int, int]] | None = None

    def follow(self, spelling: _Spelling, start: int) -> int | None:
        """The token after the spelling, where it stands at token ``start``; None where it does not."""
        reached = {start}
        for number, forms in enumerate(spelling.forms):
            if number == spelling.comma:
                reached = {at for at in reached if at < len(self.edges) and _COMMAS & set(self.text.gap(at - 1))}
            reached = {
                edge.end
                for at in reached
                if at < len(self.edges)
                for edge in self.edges[at]
                if not forms.isdisjoint(edge.forms)
            }
            if not reached:
                return None
        return max(reached)

    def plain(self) -> tuple[str, dict[int, int], dict[int, int]]:
        """The tokens one after the other, and at which of its characters which token begins and ends."""
        if self._plain is None:
            self._plain = _line((n, t.form, " ") for n, t in enumerate(self.text.tokens))
        return self._plain

    def digits(self) -> tuple[str, dict[int, int], dict[int, int]]:
        """The same for numbers, without a gap between those that a phone number may consist of."""
        if self._digits is None:
            tokens = self.text.tokens
            pieces = []
            for number, token in enumerate(tokens):
                if token.form.isdecimal():
                    last = number + 1 == len(tokens) or not tokens[number + 1].form.isdecimal()
                    apart = last or not _PHONE_GAP.fullmatch(self.text.gap(number))
                    pieces.append((number, token.form, " " if apart else ""))
            self._digits = _line(iter(pieces))
        return self._digits


def _line(pieces: Iterator[tuple[int, str, str]]) -> tuple[str, dict[int, int], dict[int, int]]:
    line, at = [" "], 1
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for number, form, after in pieces:
        starts[at] = number
        at += len(form)
        ends[at] = number
        at += len(after)
        line += [form, after]
    return "".join(line), starts, ends


def _graph(text: str) -> _Graph:
    return _cached_graph(text) if len(text) <= CACHED else _last_graph(text)


@lru_cache(maxsize=512)
def _cached_graph(text: str) -> _Graph:
    return _Graph(normalise(text))


@lru_cache(maxsize=2)
def _last_graph(text: str) -> _Graph:
    return _Graph(normalise(text))


# The phrase that is sought


@dataclass(frozen=True)
class _Spelling:
    """One way to write a phrase, token by token, each with the forms that count."""

    forms: tuple[frozenset[str], ...]
    plain: bool = True
    """Whether it is the phrase's own order of words."""
    before: int = 0
    """Tokens at the beginning that must be there but belong to no mention: the title."""
    comma: int = -1
    """The token before which a comma must stand."""
    signs: tuple[str, str] = ("", "")
    """What stands before and after the phrase's words; it belongs to the mention if it stands in the text."""
    signs_needed: bool = False
    dotted: bool = False
    """Whether the words alone say nothing: "A.N." is not "an"."""
    address: str = ""
    """The whole e-mail address."""


@dataclass(frozen=True)
class _Phrase:
    """A phrase with all its spellings."""

    spellings: tuple[_Spelling, ...] = ()
    signs: str = ""
    """A phrase without words, looked for as it stands."""
    long: str = ""
    """The tokens of a phrase that is too long for other spellings."""
    phone: str = ""
    """The digits of a phone number or a date."""

    def ranges(self, graph: _Graph) -> Iterator[tuple[int, int]]:
        """Where it stands in the original text, apart from its spellings."""
        text = graph.text
        if self.signs:
            for at in _places(text.text, self.signs):
                yield at, at + len(self.signs)
        if self.long:
            line, starts, ends = graph.plain()
            for at in _places(line, f" {self.long} "):
                first, last = starts[at + 1], ends[at + 1 + len(self.long)]
                yield text.original(text.tokens[first].start, text.tokens[last].end)
        if self.phone:
            line, starts, ends = graph.digits()
            at = line.find(self.phone)
            while at >= 0:
                if at in starts and at + len(self.phone) in ends:
                    begin = text.tokens[starts[at]].start
                    while begin and text.folded[begin - 1] in "+(":
                        begin -= 1
                    yield text.original(begin, text.tokens[ends[at + len(self.phone)]].end)
                at = line.find(self.phone, at + 1)


def _places(text: str, phrase: str) -> Iterator[int]:
    """Where the phrase begins; places that overlap the one before are passed over but for one character."""
    at = text.find(phrase)
    while at >= 0:
        yield at
        at = text.find(phrase, at + max(1, len(phrase) - 1))


@lru_cache(maxsize=16384)
def _phrase(written: str) -> _Phrase:
    text = normalise(written)
    tokens = text.tokens
    if not tokens:
        return _Phrase(signs=written.strip())
    if len(tokens) > LONGEST:
        return _Phrase(long=" ".join(token.form for token in tokens))
    folded = text.folded.strip()
    if "@" in folded and not any(map(str.isspace, folded)):
        forms = tuple(frozenset([token.form]) for token in tokens)
        return _Phrase((_Spelling(forms, address=folded),))
    signs = _BEFORE.findall(text.folded[: tokens[0].start])[0], _AFTER.findall(text.folded[tokens[-1].end :])[0]
    letters = sum(len(token.form) for token in tokens)
    needed = letters < 3 and not any(map(str.isdecimal, folded)) and bool(set("".join(signs)) - _PUNCTUATION)
    short = all(len(token.form) < 3 and token.form.isalpha() and not token.unspaced for token in tokens)
    dotted = short and "." in text.folded[tokens[0].start : tokens[-1].end] + "".join(signs)
    spellings = [
        _Spelling(forms, signs=signs, signs_needed=needed, dotted=dotted) for forms in _readings(text, 0, len(tokens))
    ]
    if _is_like_a_name(text):
        spellings += _names(text)
    digits = "".join(filter(str.isdecimal, folded))
    phone = digits if len(digits) in _PHONE_DIGITS and _PHONE.fullmatch(folded) else ""
    return _Phrase(tuple(dict.fromkeys(spellings)), phone=phone)


def _readings(text: NormalisedText, start: int, end: int) -> list[tuple[frozenset[str], ...]]:
    """The ways to read the tokens from ``start`` to before ``end``."""
    found: list[tuple[frozenset[str], ...]] = []
    open_: list[tuple[int, tuple[frozenset[str], ...]]] = [(start, ())]
    while open_ and len(found) < _SPELLINGS:
        at, forms = open_.pop()
        if at == end:
            found.append(forms)
            continue
        onward = [edge for edge in edges(text, at, searched=False) if edge.end <= end]
        # A title counts as such before a name alone; the plain reading is taken first.
        for edge in reversed(onward):
            kept = frozenset(form for form in edge.forms if form != TITLE or (at == start and end - start > 1))
            open_.append((edge.end, (*forms, kept)))
    return found


def _is_like_a_name(text: NormalisedText) -> bool:
    """Whether the phrase may be a person's name: two to six words that begin and end in a capital, or have none."""
    tokens = text.tokens
    if not 2 <= len(tokens) <= 6 or not all(token.form.isalpha() and not token.unspaced for token in tokens):
        return False
    first = [text.text[text.starts[token.start]] for token in tokens]
    if any(map(str.isupper, first)):
        return not (first[0].islower() or first[-1].islower())
    return all(len(token.form) > 2 for token in tokens)


def _names(text: NormalisedText) -> Iterator[_Spelling]:
    """Other ways to say a name: the surname first, behind a title, without the title."""
    tokens, first = text.tokens, 0
    while len(tokens) - first > 2 and is_title(tokens[first].form):
        first += 1
        yield from (_Spelling(forms, plain=False) for forms in _readings(text, first, len(tokens)))
    for cut in range(first + 1, len(tokens)):
        surname, given = _readings(text, cut, len(tokens))[:2], _readings(text, first, cut)[:2]
        for one in surname:
            if len(tokens[-1].form) > 1:
                yield _Spelling((frozenset([TITLE]), *one), plain=False, before=1)
            yield from (_Spelling((*one, *other), plain=False, comma=len(one)) for other in given)


def _range(text: NormalisedText, spelling: _Spelling, start: int, end: int) -> tuple[int, int] | None:
    """The range of the original text, or None where signs that belong to the phrase are missing."""
    first, last = text.tokens[start + spelling.before].start, text.tokens[end - 1].end
    if spelling.address:
        return _address_range(text, spelling.address, first)
    before, after = spelling.signs
    there = text.folded.endswith(before, 0, first), text.folded.startswith(after, last)
    if spelling.signs_needed and not all(there):
        return None
    first, last = first - len(before) * there[0], last + len(after) * there[1]
    found = text.original(first, last)
    if spelling.dotted and "." not in text.folded[first:last] and not text.text[slice(*found)].isupper():
        return None
    return found


def _address_range(text: NormalisedText, address: str, first: int) -> tuple[int, int] | None:
    """A whole e-mail address: not the end or the beginning of a longer one."""
    lead = next(i for i, char in enumerate(address) if char.isalnum())
    start, end = first - lead, first - lead + len(address)
    if start < 0 or not text.folded.startswith(address, start):
        return None
    before, after = text.folded[start - 1 : start] if start else "", text.folded[end : end + 2]
    if before in _BEFORE_ADDRESS or before.isalnum() or after[:1].isalnum() or after[:1] == "_":
        return None
    if after[:1] in (".", "-") and len(after) == 2 and (after[1].isalnum() or after[1] == "_"):
        return None
    return text.original(start, end)
