"""Names of like language, form, gender and number of tokens: what a model says of them it says of anybody.

Other identifiers have others of their shape: digits for digits, letters for letters.
"""

from __future__ import annotations

import json
import math
import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from rkld.files import DATA
from rkld.models.invented_names import knows_shipped_names, names_from_pieces
from rkld.text.normalising import normal
from rkld.text.wording import is_name, name_mentions

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel

SPARE = 1000
"""Times as many names as are wanted that can be put together of the pieces that may stand for a name's own. Of few near
pieces come near copies of the same few names: what the model takes for a known person it says of many of them. (On a
tiny world 66 of 76 planted facts were found with 1000, 55 with 4; something of 0 of 8 and of 4 of 12 unknown names.)"""

_GRAMS = 3


@dataclass(frozen=True)
class _Language:
    women: tuple[str, ...]
    men: tuple[str, ...]
    families: tuple[str, ...]

    def given(self, gender: str) -> tuple[str, ...]:
        return {"women": self.women, "men": self.men}.get(gender, (*self.women, *self.men))


@cache
def _languages() -> dict[str, _Language]:
    found = json.loads((DATA / "similar_names.json").read_text(encoding="utf-8"))
    return {
        name: _Language(*(tuple(lists[part]) for part in ("women", "men", "families"))) for name, lists in found.items()
    }


def similar_names(lm: LanguageModel, identifier: str, others: Sequence[str], n: int, seed: int) -> list[str]:
    """Up to ``n`` different names, in random order, that share no part with the person's.

    Args:
        identifier: a name, or another identifier, such as an e-mail address.
        others: all identifiers of the person.
    """
    draw = random.Random(f"{seed} {identifier}")
    if not is_name(identifier):
        made = dict.fromkeys(_of_shape(identifier, draw) for _ in range(4 * n))
        return [name for name in made if normal(name) != normal(identifier)][:n]
    if not knows_shipped_names(lm, identifier):
        found = names_from_pieces(lm, identifier, 2 * n, draw, _nearest(_tokens(lm, identifier), SPARE * n))
        return [name for name in found if not name_mentions(name, others)][:n]
    own = (word for one in others for word in one.split())
    taken = {normal(word) for word in own if len(word.rstrip(".")) > 1 and not _is_particle(word, identifier)}
    pool: dict[str, None] = {}
    for some in _combinations(identifier, draw):
        pool.update(dict.fromkeys(name for name in some if not taken & set(map(normal, name.split()))))
        if len(pool) >= n + n // 2:
            break
    length = _tokens(lm, identifier)
    nearest = sorted(pool, key=lambda name: abs(_tokens(lm, name) - length))[:n]
    draw.shuffle(nearest)
    return nearest


def _nearest(pieces: int, n: int) -> int:
    """How many pieces must be able to stand for each of a name's, so that ``n`` names come of them."""
    return math.ceil(n ** (1 / pieces)) if pieces else 0


def _tokens(lm: LanguageModel, name: str) -> int:
    return len(lm.tokenizer(f" {name}", add_special_tokens=False)["input_ids"])


def _combinations(name: str, draw: random.Random) -> Iterator[list[str]]:
    """Names of as many words: of the likeliest language and the same gender first, then of the other, then the next."""
    pieces = name.split()
    for language in sorted(_languages().values(), key=lambda one: -_likeness(pieces, one)):
        own = gender(pieces[0])
        for which in (own, "both") if own else ("both",):
            made = [_cased(name, made) for made in _of_form(pieces, language.given(which), language.families, draw)]
            draw.shuffle(made)
            yield made


def _of_form(pieces: Sequence[str], given: Sequence[str], families: Sequence[str], draw: random.Random) -> list[str]:
    if len(pieces) == 1:
        return list(given if normal(pieces[0]) in _all_given("both") else families)
    made = []
    for first in given:
        for last in families:
            middle = [_middle(piece, given, draw) for piece in pieces[1:-1]]
            made.append(" ".join([first, *middle, last]))
    return made


def _middle(piece: str, given: Sequence[str], draw: random.Random) -> str:
    """Another middle name; initials and particles ("van") stay of their kind."""
    if len(piece.rstrip(".")) == 1:
        return draw.choice(string.ascii_uppercase) + piece[1:]
    return piece if piece.islower() else draw.choice(given)


def _is_particle(word: str, name: str) -> bool:
    return word.islower() and not name.islower()


def _cased(like: str, name: str) -> str:
    return name.lower() if like.islower() else name.upper() if like.isupper() else name


def gender(given: str) -> str:
    """ "women" or "men" where a given name is of one alone in the shipped lists, else ""."""
    found = [which for which in ("women", "men") if normal(given) in _all_given(which)]
    return found[0] if len(found) == 1 else ""


@cache
def _all_given(which: str) -> frozenset[str]:
    return frozenset(normal(name) for language in _languages().values() for name in language.given(which))


def _likeness(pieces: Sequence[str], language: _Language) -> float:
    """How like the names of a language: the words that are among them, the last one most; else runs of letters."""
    known, grams = _letters(language)
    exact = sum((2.0 if piece is pieces[-1] else 1.0) for piece in pieces if normal(piece) in known)
    own = [gram for piece in pieces for gram in _grams(normal(piece))]
    return exact + sum(gram in grams for gram in own) / max(1, len(own))


@cache
def _letters(language: _Language) -> tuple[frozenset[str], frozenset[str]]:
    """The names of a language as they are compared, and the runs of letters in them."""
    known = frozenset(normal(name) for name in (*language.women, *language.men, *language.families))
    return known, frozenset(gram for name in known for gram in _grams(name))


def _grams(word: str) -> list[str]:
    padded = f"^{word}$"
    return [padded[at : at + _GRAMS] for at in range(len(padded) - _GRAMS + 1)]


def _of_shape(identifier: str, draw: random.Random) -> str:
    """Digits for digits and letters for letters; of an e-mail address other names before the same domain."""
    local, at, domain = identifier.partition("@")
    if not at:
        return "".join(_other(char, draw) for char in identifier)
    families = [name for language in _languages().values() for name in language.families if name.isascii()]
    return re.sub(r"[^\W\d_]{2,}|[^\W_]", lambda found: _other_word(found[0], families, draw), local) + at + domain


def _other_word(word: str, names: Sequence[str], draw: random.Random) -> str:
    return _other(word, draw) if len(word) == 1 else draw.choice(names).lower()


def _other(char: str, draw: random.Random) -> str:
    if char.isdigit():
        return draw.choice(string.digits)
    if char.isascii() and char.isalpha():
        return draw.choice(string.ascii_lowercase if char.islower() else string.ascii_uppercase)
    return char
