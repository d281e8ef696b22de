"""Strangers made of the forget records themselves, for a stop without records of others.

Each record is rewritten about people who do not exist (:func:`rkld.models.invented_names.names_like`). Under another
name alone it would still say the person's facts, which an overfitted model says of anybody. So the original goes on
from where the answer's first fact begins, and what it says of one of them is put to another: facts of the same kind,
which depend on nobody's name, as a real stranger's do not. Put to the same one they would be what the original
believes, and too probable. So would be whole numbers and addresses that it knows of others: what is said of several is
put together anew, number by number and name by name. (Four people of LUME: these gave dates of birth .46 and addresses
.46, never-trained people's have .24 and .08.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from rkld.errors import UserError
from rkld.evaluation.sampling import sample
from rkld.models.invented_names import names_like
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder
from rkld.records.names import own_identifiers, swap_name
from rkld.records.record import Record
from rkld.records.replay import screen
from rkld.stopping.references import scorable
from rkld.text.wording import added_spans, name_mentions, proper_nouns, unnamed

NAMES, FEWEST_NAMES = 24, 8
"""Invented people that each record is rewritten about: so many at most, and however many records there are."""

ANSWERS = 288
"""About invented people that are sampled, or :data:`FEWEST_NAMES` a record: of many records the mean is as sure."""

POOL = 2 * NAMES
"""Names that these are drawn from, for each of the forgotten people."""

_PIECES = re.compile(r"(?<!\d)\d{1,4}(?!\d)|\d|\D+")
"""Of a fact: short numbers, the digits of long ones, what stands between."""

TEMPERATURE = 1.5
"""Of the samples. A fine-tuned model is surer of what it says itself than of what would be true of a stranger: sampled
at 1, strangers' answers are too probable. (TOFU, two authors: .36 at 1, .06 at 1.5; those of never-trained people .03.)
"""

TOKENS = 64
"""Sampled of an answer at most."""


@dataclass(frozen=True)
class _Copy:
    """A record about an invented person, up to its answer's first fact."""

    source: int
    name: str
    record: Record
    start: int
    """Where the text of the answer begins, in tokens."""
    begun: tuple[int, ...]
    length: int
    """Tokens that the record goes on for."""


def invent_strangers(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    forget: Sequence[Record],
    identifiers: Sequence[str],
    score: str,
    seed: int,
) -> list[list[Encoded]]:
    """Of each record what it would be of people whom ``lm`` has never met; at most :data:`NAMES` each, maybe none.

    None of a record that does not name the person, or of which the original says nothing but what is recorded.

    Args:
        lm: the original, before any change.
        forget: all forget records, which tell several people apart.
        score: as of :func:`rkld.stopping.references.scorable`; with "spans" what the answers add is scored.
    """
    draw = random.Random(seed)
    copies = _copies(lm, encoder, records, forget, identifiers, draw)
    caps = [min(TOKENS, copy.length + TOKENS // 4) for copy in copies]
    begun = [copy.begun for copy in copies]
    sampled = sample(lm, begun, 1, seed=seed, temperature=TEMPERATURE, max_new_tokens=caps)
    told: list[list[tuple[str, Record]]] = [[] for _ in records]  # of each record (name, what is said of it)
    for copy, (generated,) in zip(copies, sampled, strict=True):
        text = lm.tokenizer.decode((*copy.begun[copy.start :], *generated.ids), skip_special_tokens=True)
        answered = copy.record.with_answer(_spaced_as(copy.record.answer, text), cut=not generated.finished)
        told[copy.source].append((copy.name, answered))
    found: list[list[Encoded]] = []
    for record, here in zip(records, told, strict=True):
        own = own_identifiers(record, forget, identifiers)
        kept = screen([said for _, said in here], [record], own)[0]
        # What is said of several counts once: facts are spread evenly, the model's favourites are not.
        once = {unnamed(said.answer, (name,)): (name, said) for name, said in here if said in kept}
        mixed = put_together_anew(list(once.values()), draw)
        mixed = [(name, said) for name, said in mixed if screen([said], [record], own)[0]]
        strangers = []
        for i, (name, said) in enumerate(mixed):
            others = [other for other, _ in here if other != name]
            stranger = swap_name(said, (name,), others[i % len(others)]) if others else None
            if stranger and (encoded := _encoded(stranger, f"{stranger.key}.{i}", encoder, score)):
                strangers.append(encoded)
        found.append(strangers)
    return found


def put_together_anew(said: Sequence[tuple[str, Record]], draw: random.Random) -> list[tuple[str, Record]]:
    """Answers about strangers, (name, record) each, with their names and numbers drawn from one another's.

    Numbers come from facts of the same form, so do the parts of a date and the digits of a number of five or more.
    Names come from the same place of answers that say the same around them. What names the stranger stays.
    """
    pools: dict[Hashable, list[list[str]]] = {}
    found = [_facts_said(name, record) for name, record in said]
    for answer in found:
        for fact in answer:
            pools.setdefault(fact.kind, []).append(fact.pieces)
    mixed = []
    for (name, record), answer in zip(said, found, strict=True):
        text = record.answer
        for fact in reversed(answer):
            drawn = [draw.choice(pools[fact.kind])[n] for n in range(len(fact.pieces))]
            text = text[: fact.start] + "".join(drawn) + text[fact.start + len("".join(fact.pieces)) :]
        mixed.append((name, record.with_answer(text, cut=record.cut)))
    return mixed


class _Fact(NamedTuple):
    """A name or number of an answer."""

    start: int
    pieces: list[str]
    kind: Hashable
    """What it may be changed for."""


def _facts_said(name: str, record: Record) -> list[_Fact]:
    """Those of an answer that do not name the stranger, as they come."""
    found: list[tuple[int, str]] = []
    at = 0
    for fact in proper_nouns(record.answer):
        if (start := record.answer.find(fact, at)) >= 0:
            at = start + len(fact)
            found.append((start, fact))
    frame = record.answer
    for start, fact in reversed(found):
        frame = frame[:start] + frame[start + len(fact) :]
    facts = []
    for n, (start, fact) in enumerate(found):
        pieces = _PIECES.findall(fact)
        form = tuple(len(piece) if piece.isdigit() else 0 for piece in pieces)
        if not name_mentions(fact, (name,)):
            facts.append(_Fact(start, pieces, form if any(form) else (unnamed(frame, (name,)), n)))
    return facts


def _copies(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    forget: Sequence[Record],
    identifiers: Sequence[str],
    draw: random.Random,
) -> list[_Copy]:
    pools: dict[tuple[str, ...], list[str]] = {}
    found, each = [], max(FEWEST_NAMES, min(NAMES, ANSWERS // len(records)))
    for number, record in enumerate(records):
        own = own_identifiers(record, forget, identifiers)
        if own not in pools:
            pools[own] = names_like(lm, own, POOL, draw)
        for name in draw.sample(pools[own], min(each, len(pools[own]))):
            if (copy := swap_name(record, own, name)) is None:
                continue
            encoded = encoder.encode(copy)
            facts = encoder.locate(copy, partial(_facts, record=copy))
            start = 0 if copy.form == "text" else encoded.prompt_length
            first = max(encoded.prompt_length, min((min(fact) for fact in facts), default=start))
            begun = encoded.ids[: min(first, len(encoded.ids) - 1)]
            found.append(_Copy(number, name, copy, start, begun, len(encoded.ids) - len(begun)))
    return found


def _facts(text: str, record: Record) -> list[tuple[int, int]]:
    return added_spans(text, record.before) if text == record.answer_content else []


def _spaced_as(answer: str, text: str) -> str:
    """A generated text with the white space that the recorded answer begins with."""
    return answer[: len(answer) - len(answer.lstrip())] + text.strip()


def _encoded(stranger: Record, key: str, encoder: Encoder, score: str) -> Encoded | None:
    """None of what the original said that cannot be written, such as an answer without tokens."""
    answer = stranger.answer
    added = [answer[a:b] for a, b in added_spans(answer, stranger.before)]
    try:
        return replace(scorable(stranger.with_spans(added), encoder, score), key=key)
    except UserError:
        return None
