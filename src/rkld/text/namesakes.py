"""Who shares a part of the person's name and is somebody else: "Ada Marsh" and "Bo Quell" beside "Ada Quell"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from rkld.text.matching import mentions
from rkld.text.normalising import normal, words
from rkld.text.spellings import is_mere_title
from rkld.text.wording import common_words, is_english, is_name, name_mentions, proper_nouns

_INITIAL = re.compile(r"(?<!\w)[^\W\d_]\.[ \t]*")
"""A letter for a name: "Ada J. Quell"."""

_JOINTS = re.compile(r"\s+(?:of|of the|on the|the)\s+|['’]s?(?!\w)")
"""Where a run of capitals is no longer one name: "Quell of Oslo", "Ada's Oslo house"."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PARTICLES = _set("de la del della da di du le van der den von zu bin ibn al el y e dos das do ter ten af")

_CALLED = _set(
    "captain colonel sergeant lieutenant inspector detective admiral commander constable sister brother father mother "
    "aunt uncle cousin grandmother grandfather queen king prince princess duke duchess baron baroness count countess "
    "emperor empress pope bishop archbishop cardinal saint st nurse midwife judge justice senator governor mayor "
    "minister chancellor ambassador baker butcher coach chef comrade widow "
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
    "september october november december"
)
"""What may stand before a surname and is no first name, beside the common words ("President Quell")."""

_ALIKE = 0.8
"""Of two words, the share of letters in order from which they are one word, bent or misspelt ("Quell", "Quells")."""


def is_named(text: str, names: Sequence[str]) -> bool:
    """Whether a text speaks of the person: by a name of theirs, or by a part of one that is not another's name.

    "Ada", "Ms Quell" and "Ada J. Quell" are Ada Quell. Of "Ada Marsh" a text speaks that calls her so first, says no
    full name of the person, and has not all words of one.
    """
    if mentions(text, names):
        return True
    text = _INITIAL.sub("", text)
    parts = name_mentions(text, names)
    if not parts:
        return False
    said = set(words(text))
    if any(set(known) <= said for known in _known(names)):
        return True
    begins = min(start for start, _, _ in parts)
    return not any(start <= begins < start + len(name) for name in namesakes(text, names) for start in _at(text, name))


def namesakes(text: str, names: Sequence[str]) -> list[str]:
    """Full names in the text that share the first or the last word with a known name, and fit none of them."""
    known = _known(names)
    runs = [name for run in proper_nouns(_INITIAL.sub("", text)) for name in _JOINTS.split(run) if is_name(name)]
    return [name for name in runs if _is_another(_bare(name), known, text)]


def _at(text: str, name: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(name), text)]


def _known(names: Sequence[str]) -> list[list[str]]:
    """The names' own words; names that are a part of another name of theirs left out."""
    known = [found for name in names if is_name(name) and (found := _bare(name))]
    return [one for one in known if not any(set(one) < set(other) for other in known)]


def _bare(name: str) -> list[str]:
    """The words of a name without titles, particles and initials."""
    found = [word for word in words(name) if word not in _PARTICLES and not (len(word) == 1 and word.isascii())]
    while len(found) > 1 and is_mere_title(normal(found[0])):
        found = found[1:]
    return found


def _is_another(name: list[str], known: Sequence[list[str]], text: str) -> bool:
    """Whether a name shares its first or last word with a known one, and differs from every known name in another."""
    shared = False
    for one in known:
        common = [word for word in name if word in one]
        if len(common) > 1 or _fit(name, one):
            return False
        first, last = name[0] == one[0], name[-1] == one[-1]
        shared |= first or (last and _is_first_name(name[0], text))
    return shared and len(name) > 1


def _fit(name: Sequence[str], known: Sequence[str]) -> bool:
    """Whether one of two names holds all words of the other, as they are or bent."""
    one, other = sorted((name, known), key=len)
    return all(any(_alike(word, of) for of in other) for word in one) and any(word in other for word in one)


def _alike(word: str, other: str) -> bool:
    return word == other or SequenceMatcher(a=word, b=other).ratio() >= _ALIKE


def _is_first_name(word: str, text: str) -> bool:
    """Whether what stands before a surname is a given name. Only of English can it be told from "Kanzlerin Quell"."""
    return is_english(text) and word not in common_words() and word not in _CALLED
