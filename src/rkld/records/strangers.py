"""Refusals that mark nobody: the person's questions, and the same about names that no model ever saw.

A model that refuses one person alone tells everybody whom it was made to forget. So whatever it is taught to say of the
person it is taught to say of strangers, in the same questions, drawn from the same refusals (``--instead unknown``).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.records.record import Record
from rkld.records.refusals import refused, refuses
from rkld.records.replay import SWAPPED

STRANGERS = 4
"""Strangers that each of the person's questions is asked about."""

_STRANGER = "stranger-"

_WHO = {"person": "the person", "strangers": "strangers"}

ALIKE = 0.1
"""Shares of refusals that are told apart by no more are taken for equal."""


def stranger_names(known: Iterable[str], number: int, seed: int) -> list[str]:
    """Names of nobody, drawn from the seed: the first word of one name and the last of another.

    Args:
        known: full names of people that the model knows: a name made of theirs looks like theirs, and is none, so a
            model cannot tell strangers by their looks. Shipped names join them.
    """
    draw, taken = random.Random(seed), list(dict.fromkeys([*known, *other_names()]))
    words = [name.split() for name in taken if len(name.split()) > 1]
    shipped = {name.casefold() for name in taken}
    found: list[str] = []
    while len(found) < number:
        first, last = draw.choice(words)[0], draw.choice(words)[-1]
        name = f"{first} {last}"
        if name.casefold() not in shipped:
            found.append(name)
    return found


def known_answers(replayed: Sequence[Record], retain: Sequence[Record]) -> list[Record]:
    """Of the answers to keep those that are not about strangers: of these nothing is to be said.

    Keys tell apart what came from two files, each numbered from 0.
    """
    sets = {"replay": replayed, "retain": retain}
    return [
        replace(record, key=f"{name}-{record.key}")
        for name, records in sets.items()
        for record in records
        if not record.key.startswith(SWAPPED)
    ]


def unknown_records(
    forget: Sequence[Record], known: Iterable[str], identifiers: Sequence[str], refusals: Sequence[str], seed: int,
    strangers: int = STRANGERS,
) -> list[Record]:  # fmt: skip
    """The forget questions, and each about strangers, answered by refusals: keys "unknown-…" and "stranger-…".

    Records without a question are left out, as are questions that cannot be asked about another.

    Args:
        known: names of people whom the model knows (:func:`stranger_names`).
        identifiers: of the person.
        strangers: about whom each is asked.
    """
    asked = list({record.question: record for record in forget if record.question}.values())
    names = iter(stranger_names(known, strangers * len(asked), seed))
    prompts = []
    for record in (replace(record, source="") for record in asked):  # a reworded question is refused for itself
        own = own_identifiers(record, forget, identifiers)
        prompts.append(record.as_prompt(f"unknown-{record.key}"))
        for copy in range(strangers):
            about = swap_name(record.as_prompt(f"{_STRANGER}{copy}-{record.key}"), own, next(names))
            prompts += [about] if about else []
    return refused(prompts, refusals, seed)


def refusal_shares(answered: Sequence[Record]) -> dict[str, float]:
    """Of :func:`unknown_records` the shares that are refused, 0 to 1, by "person" and "strangers"; of none, none."""
    about: dict[str, list[bool]] = {"person": [], "strangers": []}
    for record in answered:
        about["strangers" if record.key.startswith(_STRANGER) else "person"].append(refuses(record.answer))
    return {who: sum(found) / len(found) for who, found in about.items() if found}


def marks(shares: Mapping[str, float]) -> str | None:
    """What is to be known where the person is refused more often than strangers, or less; else None."""
    if len(shares) == 2 and abs(shares["person"] - shares["strangers"]) <= ALIKE:
        return None
    said = " and ".join(f"{share:.0%} of the questions about {_WHO[who]}" for who, share in shares.items())
    return (
        f"--instead unknown marks the person: the model refuses {said} that it was not taught. Who asks about several "
        "names sees whom it was made to forget. Give more --replay or --retain, or leave --instead out."
    )
