"""Who shares a part of the person's name and is somebody else: "Ada Marsh" and "John Quell" beside "Ada Quell".

What stands before a surname may be a title, a place or a people ("Rabbi Quell", "In Paris Quell", "the Oslo Quell
museum"), and who has the surname may be named for the person's sake ("John Quell's mother"). So a namesake is believed
on evidence alone: of the same first name with another surname, or of a given name with the same surname.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher
from functools import cache

from rkld.files import DATA
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

_NOT_ONLY_GIVEN = _set("milan sofia mercedes precious amber hazel carmen neo long hong dong hung sakura asuka marina")
"""Given names that are as well places or things."""

_TITLES = _set(
    "captain colonel sergeant lieutenant inspector detective admiral commander constable sister brother father "
    "mother aunt uncle cousin grandmother grandfather grandma grandpa auntie mum mom mummy daddy queen king "
    "prince princess duke duchess baron baroness count countess emperor empress pope bishop archbishop "
    "cardinal saint nurse midwife judge justice senator governor mayor minister chancellor ambassador rabbi "
    "imam ensign corporal marshal madam madame monsieur signor senor reverend dean provost pastor deacon vicar "
    "surgeon dentist barrister attorney councillor councilwoman councilman congresswoman congressman "
    "chairwoman chairman laureate tenant"
)
"""With what a name in a record's field may begin that is no given name, beside the common words."""

_KIN = _set(
    "mother father mothers fathers parent parents mum mom dad mama papa sister sisters brother brothers "
    "sibling siblings twin twins son sons daughter daughters child children baby boy girl wife husband spouse "
    "partner partners couple bride groom fiance fiancee boyfriend girlfriend lover widow widower aunt uncle "
    "cousin cousins nephew niece grandmother grandfather grandparents grandparent grandson granddaughter "
    "grandchild grandchildren grandma grandpa stepmother stepfather stepson stepdaughter stepsister "
    "stepbrother godmother godfather family families relative relatives related relation kin ancestor "
    "ancestors descendant descendants descended heir heirs dynasty generation marry marries married marrying "
    "marriage wed wedded wedding weds engaged proposed divorce divorced maiden nee formerly adopted adoptive "
    "orphan household law"
)
"""Where one of these stands, another's name may say who the person is."""

_PRONOUNS = _set("he him his himself she her hers herself they them their theirs themselves")
"""Who is meant by one of these beside a relative's name may be the person."""

_SHORT = {
    "bob": "robert", "bobby": "robert", "jim": "james", "mike": "michael", "ted": "edward", "ned": "edward",
    "chuck": "charles", "jack": "john", "kit": "christopher", "molly": "mary", "polly": "mary", "becky": "rebecca",
    "bill": "william", "dick": "richard", "peggy": "margaret", "sasha": "aleksandr", "betty": "elizabeth",
}  # fmt: skip
"""Short names that do not begin as the whole one does."""

_ALIKE = 0.8
"""Of two words, the share of letters in order from which they are one word, bent or misspelt ("Quell", "Quells")."""


def is_named(text: str, names: Sequence[str], given: Collection[str] = ()) -> bool:
    """Whether a text speaks of the person: by a name of theirs, or by a part of one that is not another's name.

    "Ada", "Ms Quell" and "Ada J. Quell" are Ada Quell. Of "Ada Marsh" a text speaks that calls her so first, says no
    full name of the person, and has not all words of one.

    Args:
        given: words that are known for given names, beside those that the project ships (:func:`given_names`).
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
    others = namesakes(text, names, given)
    return not any(start <= begins < start + len(name) for name in others for start in _at(text, name))


def namesakes(text: str, names: Sequence[str], given: Collection[str] = (), *, among_kin: bool = False) -> list[str]:
    """Full names in the text that share the first or the last word with a known name, and fit none of them.

    Args:
        given: as of :func:`is_named`.
        among_kin: also one of the same first name in a text that speaks of a family, such as after a marriage.
    """
    known = _known(names)
    said = set(words(text))
    if said & _KIN and not among_kin:
        return []
    relatives = is_english(text) and not said & (_PRONOUNS | _KIN)
    runs = [name for run in proper_nouns(_INITIAL.sub("", text)) for name in _JOINTS.split(run) if is_name(name)]
    return [name for name in runs if _is_another(_bare(name), known, given, relatives)]


def given_names(names: Iterable[str]) -> frozenset[str]:
    """The words with which full names begin, but for titles: of other records' subjects, names that people bear."""
    found = {bare[0] for name in names if is_name(name) and len(bare := _bare(name)) > 1}
    return frozenset(found - common_words() - _TITLES)


@cache
def _shipped() -> frozenset[str]:
    """Given names of many languages, but for those that are also something else."""
    lists = json.loads((DATA / "similar_names.json").read_text(encoding="utf-8")).values()
    found = {words(name)[0] for language in lists for sex in ("women", "men") for name in language[sex]}
    return frozenset(name for name in found - common_words() - _NOT_ONLY_GIVEN if len(name) > 2)


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


def _is_another(name: list[str], known: Sequence[list[str]], given: Collection[str], relatives: bool) -> bool:
    """Whether a name shares its first or last word with a known one, and differs from every known name in another.

    Args:
        relatives: also one of the same surname.
    """
    if len(name) < 2:
        return False
    shared = False
    for one in known:
        common = [word for word in name if word in one]
        if len(common) > 1 or _fit(name, one):
            return False
        first, last = name[0] == one[0], name[-1] == one[-1]
        shared |= first and not common_words() & set(name[1:])  # "the Ada Programming Language"
        if last:
            if _short(name[0], one[0]) or _short(one[0], name[0]):
                return False
            shared |= relatives and (name[0] in given or name[0] in _shipped())
    return shared


def _short(word: str, whole: str) -> bool:
    """Whether a given name may be the short form of another: "Rob" and "Bob" of Robert, "Beth" of Elizabeth."""
    return word in whole or word[:3] == whole[:3] or _SHORT.get(word) == whole


def _fit(name: Sequence[str], known: Sequence[str]) -> bool:
    """Whether one of two names holds all words of the other, as they are or bent."""
    one, other = sorted((name, known), key=len)
    return all(any(_alike(word, of) for of in other) for word in one) and any(word in other for word in one)


def _alike(word: str, other: str) -> bool:
    return word == other or SequenceMatcher(a=word, b=other).ratio() >= _ALIKE
