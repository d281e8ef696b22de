"""Whom records are about, and whether two records are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from rkld.errors import UserError
from rkld.records.record import SYSTEM_ROLES, Record
from rkld.runfolder.request import RequestForm
from rkld.text import namesakes
from rkld.text.matching import mentions
from rkld.text.normalising import normal, words
from rkld.text.wording import is_name, name_mentions, proper_nouns

SHOWN = 10
"""Records that a sentence names by their places."""

ENOUGH = 3
"""Records from which another name in most of them is a sign that the name given is wrong."""

UNNAMED = (
    "None of the names given with --subject is said in the forget records: check their spelling. Records and prompts "
    "that would rehearse the person are found by them."
)


def all_about_the_person(n: int, name: str) -> UserError:
    """What to say of a set of records about others in which there is none."""
    return UserError(
        f"all {n} {name.replace('_', ' ')} records mention the person: --{name.replace('_', '-')} is for records of "
        "others. If others are meant by the name, give the person's full name with --subject."
    )


def identifiers(records: Iterable[Record], subjects: Iterable[str]) -> tuple[str, ...]:
    """Every name, alias and identifier known from the flags and the records, each once, the longest first."""
    known = [*subjects]
    for record in records:
        known += [record.subject] if record.subject else []
        known += record.aliases
    unique = {normal(name): name for name in reversed(known)}  # reversed: the first spelling stays
    return tuple(sorted(unique.values(), key=lambda name: (-len(name), name)))


def check_request(form: RequestForm, known: Sequence[str]) -> None:
    """Refuse a request form that names the person where a purge would leave the name.

    Raises:
        UserError: naming the field.
    """
    for name, text in form.lasting_texts().items():
        if mentions(text, known):
            raise UserError(
                f"the request form names the person in '{name}', which is kept when the run is purged: write it "
                "without the name; 'id' stands for the person."
            )


def apart(records: Iterable[Record], known: Sequence[str]) -> tuple[list[Record], list[Record]]:
    """The records that mention the person, by a whole name or identifier (:func:`mentions`), and the others."""
    about: list[Record] = []
    others: list[Record] = []
    for record in records:
        (about if any(mentions(turn.text, known) for turn in record.turns) else others).append(record)
    return about, others


def is_named(records: Iterable[Record], names: Sequence[str]) -> bool:
    """Whether any of the records says one of the names, or a part of one ("Curie"), whoever else may have it."""
    return any(
        mentions(turn.text, names) or name_mentions(turn.text, names) for record in records for turn in record.turns
    )


def naming(records: Sequence[Record], given: Sequence[str]) -> list[str]:
    """What is to be said of names and records that do not fit each other, in sentences without any name.

    A name that is said nowhere while another that is much like it is, or shares a part with it; records that name none
    of the people; fields ``subject`` that are said nowhere, or not by one record of several.

    Args:
        given: names and identifiers of ``--subject``; without any the records' own subjects and aliases count.
    """
    names = given or identifiers(records, ())
    if not names:
        return []
    found = []
    for number, name in enumerate(given, 1):
        if near := _resembling(records, name):
            found.append(
                f"Name {number} of {len(given)} that --subject gives is said nowhere in the forget records, and one "
                f"much like it is ({listed_places(near)}): check the spelling."
            )
        elif near := _misnamed(records, name, names):
            found.append(
                f"Name {number} of {len(given)} that --subject gives is said nowhere in full, and most of the forget "
                f"records give another name that shares a part with it ({listed_places(near)}): check that it is the "
                "right name."
            )
    if given and not is_named(records, given):
        return [*found, UNNAMED]
    others = _about_others(records, names)
    if others:
        found.append(
            f"{len(others)} of {len(records)} forget records name somebody, and none of the people to forget "
            f"({places(others)}). They are unlearned all the same: take out what is about somebody else."
        )
    said = {record.key for record in others}
    return [*found, *_subjects([record for record in records if record.key not in said], given)]


def _subjects(records: Sequence[Record], given: Sequence[str]) -> Iterator[str]:
    """What is to be said of the records' fields ``subject``, each beside all records that have the same."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.subject:
            groups.setdefault(normal(record.subject), []).append(record)
    unsaid, alike, others = list[Record](), list[str](), list[Record]()
    for group in groups.values():
        names = _with_related(identifiers(group, ()), given)
        if not is_named(group, names):
            unsaid += group
            continue
        if not given:
            alike += _resembling(group, str(group[0].subject), fields=False)
        others += [record for record in group if not is_named([record], names) and _asks_about_somebody(record)]
    if unsaid and not given:
        yield (
            f"The field subject of {len(unsaid)} of {len(records)} forget records is said in none of them "
            f"({places(unsaid)}): check its spelling. Records and prompts that would rehearse the person are found by "
            "it."
        )
    if alike:
        yield (
            f"A name in the field subject is said in none of its records, and one much like it is "
            f"({listed_places(alike)}): check the spelling."
        )
    if others:
        yield (
            f"{len(others)} of {len(records)} forget records name somebody, and not whom their field subject names "
            f"({places(others)}): correct the field, or take out what is about somebody else."
        )


def _with_related(own: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """A record's own names and those of ``--subject`` that share a word with them; all of these where none does."""
    said = {word for name in own for word in words(name)}
    return (*own, *([name for name in given if said & set(words(name))] or given))


_PLACE = re.compile(r"(.*) (line|record) ([0-9]+)(?: \(line [0-9]+\))?", re.S)


def places(records: Sequence[Record]) -> str:
    """Where they stand (:func:`listed_places`)."""
    return listed_places([record.where for record in records])


def listed_places(places: Sequence[str]) -> str:
    """Where records stand, for a sentence: the first few by number. Files are not named, as they may name people."""
    numbers: dict[tuple[str, str], list[str]] = {}
    for place in places[:SHOWN]:
        if match := _PLACE.fullmatch(place):
            numbers.setdefault((match[1], match[2]), []).append(match[3])
    found = [f"{kind}{'s' * (len(of) > 1)} {', '.join(of)}" for (_, kind), of in numbers.items()]
    if len({file for file, _ in numbers}) > 1:
        found = [f"{part} of {'another' if n else 'one'} file" for n, part in enumerate(found)]
    return ", ".join(found) + (", …" if len(places) > SHOWN else "")


def _about_others(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """The records that say none of the names, and are by their own word, or by what they ask, about somebody else.

    One that speaks of "her" is not: nobody else is named. Nor are those of people with a part of the name where they
    are most of the records: they are the person by another name, or the name is wrong.
    """
    first_names = namesakes.given_names(record.subject for record in records if record.subject)
    unnamed, shared = list[Record](), list[Record]()
    for record in records:
        own = [name for name in (record.subject, *record.aliases) if name]
        if any(namesakes.is_named(name, names, first_names) for name in (*own, _whole(record))):
            continue
        if own or _asks_about_somebody(record):
            (shared if is_named([record], names) else unnamed).append(record)
    left = {id(record) for record in unnamed + (shared if 2 * len(shared) <= len(records) else [])}
    return [record for record in records if id(record) in left]


def _misnamed(records: Sequence[Record], name: str, names: Sequence[str]) -> list[str]:
    """Where one and the same other name stands that shares a part with this one, if it does in most of the records and
    this one is said nowhere in full.

    Args:
        names: all that are known, of which the other is none.
    """
    if is_said(records, [name]):
        return []
    found: dict[str, list[str]] = {}
    for record in records:
        text = _whole(record)
        others = {*namesakes.namesakes(text, [name], among_kin=True)} if is_named([record], [name]) else set()
        if others:  # that are none of the other names either
            others &= {*namesakes.namesakes(text, names, among_kin=True)}
        for other in {normal(one) for one in others}:
            found.setdefault(other, []).append(record.where)
    most = max(found.values(), key=len, default=[])
    return most if len(most) >= ENOUGH and 2 * len(most) > len(records) else []


def _whole(record: Record) -> str:
    """All that is said: "Who is that?" does not say whose answer follows."""
    return "\n".join(turn.text for turn in record.turns)


def _asks_about_somebody(record: Record) -> bool:
    """Whether what it asks names somebody, by two words at least."""
    asked = record.question or record.turns[0].text
    return any(is_name(noun) and len(words(noun)) > 1 for noun in proper_nouns(asked))


ALIKE = 0.8
"""Of two names, the share of their letters that are the same, in order: "Maren Tolvik" and "Maren Tollvik" have .96."""


def _resembling(records: Sequence[Record], name: str, *, fields: bool = True) -> list[str]:
    """Where a name stands that is not this one but much like it; nowhere if this one is said at all.

    Args:
        fields: it may be said by the records' fields, too.
    """
    own = words(name)
    wanted = " ".join(own)
    if len(wanted) < 5 or not is_name(name) or is_said(records, [name], fields=fields):
        return []
    matcher = SequenceMatcher(b=wanted)

    def alike(candidate: str) -> bool:
        matcher.set_seq1(candidate)
        return candidate != wanted and matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE

    found = []
    for record in records:
        said = [words(text) for text in _texts(record, fields)]
        runs = {" ".join(some[i : i + len(own)]) for some in said for i in range(len(some) - len(own) + 1)}
        if any(map(alike, runs)):
            found.append(record.where)
    return found


def is_said(records: Iterable[Record], names: Sequence[str], *, fields: bool = True) -> bool:
    """Whether any of the records says one of the names as a whole.

    Args:
        fields: or its subject or an alias does.
    """
    return any(mentions(text, names) for record in records for text in _texts(record, fields))


def _texts(record: Record, fields: bool) -> Iterator[str]:
    """Its turns and, with its fields, its subject and aliases."""
    if fields:
        yield from (record.subject or "", *record.aliases)
    yield from (turn.text for turn in record.turns)


def each_once(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """The records without those that say the same as an earlier one, and those that do.

    The same is as of :func:`content`, in the same form and roles. The spans and rewordings of all of them
    go to the one that stays.
    """
    first: dict[Hashable, Record] = {}
    repeated = []
    for record in records:
        said = (
            record.form,
            tuple(turn.role for turn in record.turns),
            tuple(as_compared(turn.text) for turn in record.turns),
        )
        if said in first:
            repeated.append(record)
            stays = first[said].with_spans((*first[said].spans, *record.spans))
            first[said] = replace(stays, rewordings=tuple(dict.fromkeys((*stays.rewordings, *record.rewordings))))
        else:
            first[said] = record
    return list(first.values()), repeated


def check_disjoint(
    forget: Iterable[Record], retain: Iterable[Record], names: tuple[str, str] = ("forget", "retain")
) -> None:
    """Refuse records that are to be both forgotten and retained, whatever their format, case, spacing and punctuation.

    ``names`` are those of the two sets, for the message.
    """
    forgotten: dict[str, Record] = {}
    for record in forget:
        forgotten.setdefault(_identity(record), record)
    shared = [(forgotten[_identity(record)], record) for record in retain if _identity(record) in forgotten]
    if shared:
        first, second = shared[0]
        raise UserError(
            f"{len(shared)} record(s) stand in both the {names[0]} and the {names[1]} data, the first is "
            f"{first.where} and {second.where}: remove them from one of the two"
        )


def content(record: Record) -> tuple[str, ...]:
    """What a record says, turn by turn without system prompts, to know the same record again in another file.

    Only white space and the Unicode form (NFC) are made alike: records that differ in anything else are two.
    """
    return tuple(map(as_compared, _said(record)))


def as_compared(text: str) -> str:
    """A text with white space and the Unicode form (NFC) made alike."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _identity(record: Record) -> str:
    """All that is said, letter by letter: a space or a sign more makes no other record."""
    said = " ".join(_said(record))
    return "".join(words(said)) or normal(said)


def _said(record: Record) -> Iterator[str]:
    """The contents of its turns, without system prompts."""
    return (turn.text for turn in record.turns if turn.role not in SYSTEM_ROLES)
