"""Every fact in many wordings: rewordings of the records to forget, filtered and chosen.

They come, in this order, from the user (:attr:`rkld.records.record.Record.rewordings`), from a model that writes
(:mod:`rkld.records.rewording_prompts`) and from rules (:mod:`rkld.records.rewording_rules`). What is kept holds the
fact, does not give it away in its question, is no copy, and reads as language; what is dropped is counted with the
reason. A rewording becomes a record of its own (:attr:`~rkld.records.record.Record.source` names the one that it
rewords), in which facts are located as they are in the recorded one.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rkld.records.probes import facts_of
from rkld.records.record import GIVEN, Record, Rewording, Turn
from rkld.records.rewording_rules import located_facts, rewordings_by_rules
from rkld.text.facts import facts_said, repetition
from rkld.text.matching import mentions
from rkld.text.wording import added_words, is_english, name_mentions, unnamed

WRITTEN = "written"
"""The kind of a rewording that a model wrote."""

ALIKE = 0.9
"""Likeness (:func:`likeness`) from which on a rewording is a copy. 37 % of the questions in the augmented TOFU data of
arXiv 2406.08607 are more than .8 like the recorded one."""

REPEATED = 0.2
"""Share of a written text that may repeat itself (:func:`rkld.text.facts.repetition`); people's texts have .0x."""

LENGTHS = (0.3, 3.0)
"""How long a written text may be, as a multiple of what it rewords; :data:`FEW` characters more are always free."""

FEW = 40

COMPARED = 300
"""Characters of a text that are compared."""


@dataclass
class Made:
    """What was made of some records."""

    records: list[Record] = field(default_factory=list)
    """The rewordings that are kept, as records to forget; those of one record together, in the records' order."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason → how many were dropped for it."""
    fewer: int = 0
    """Records that got fewer than were asked for."""

    @property
    def kinds(self) -> Counter[str]:
        """Kind → how many are kept."""
        return Counter(record.kind for record in self.records)

    def described(self) -> list[str]:
        """For people, a line each: how many of which kind, what was dropped and why. No contents."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.most_common()) or "none"
        lines = [f"{len(self.records)} rewordings ({kinds})"]
        if self.dropped:
            reasons = "; ".join(f"{n} × {reason}" for reason, n in self.dropped.most_common())
            lines.append(f"{self.dropped.total()} dropped ({reasons})")
        if self.fewer:
            lines.append(f"{self.fewer} records have fewer than was asked for: no more could be made of them")
        return lines


def reword(
    records: Sequence[Record],
    identifiers: Sequence[str],
    n: int,
    *,
    kinds: Collection[str] = (),
    written: Mapping[str, Sequence[Rewording]] | None = None,
    seed: int = 0,
    asked_only: bool = False,
) -> Made:
    """Rewordings of every record: all that the user gave, then so many more that there are ``n``.

    Of a model's and then of the rules' those are taken, one after another, that are the least like what the record has
    already, and of a kind that few records have.

    Args:
        n: rewordings of each record; 0 keeps the user's alone.
        kinds: of rules, these alone (:data:`rkld.records.rewording_rules.KINDS`); all by default.
        written: what a model wrote, by the record's key.
        seed: of the rules' frames.
        asked_only: leave out what has no question of its own and what is told in the user's turn.
    """
    made, used = Made(), Counter[str]()
    for number, record in enumerate(records, 1):
        own: list[tuple[Rewording, Record]] = []
        sources = (
            (record.rewordings, None),
            ((written or {}).get(record.key, ()), n),
            (rewordings_by_rules(record, identifiers, kinds, seed) if n else (), n),
        )
        for candidates, most in sources:
            if most is not None and len(own) >= most:
                break
            usable = []
            for one in dict.fromkeys(candidates):
                if asked_only and (not one.question or one.kind == "turn"):
                    continue
                found = usable_record(record, one, identifiers)
                if isinstance(found, str):
                    made.dropped[found] += 1
                else:
                    usable.append((one, found))
            _take(record, usable, own, most, {k: c / number for k, c in used.items()}, made.dropped)
        used.update(one.kind for one, _ in own)
        made.fewer += len(own) < n
        made.records += [replace(r, key=f"reworded-{record.key}.{i}") for i, (_, r) in enumerate(own)]
    return made


def _take(
    record: Record,
    usable: list[tuple[Rewording, Record]],
    own: list[tuple[Rewording, Record]],
    most: int | None,
    shares: Mapping[str, float],
    dropped: Counter[str],
) -> None:
    """Move the least alike of the usable ones into ``own``, until there are ``most`` of these; copies are dropped.

    Args:
        shares: kind → the share of records that have one of it, which counts as likeness.
    """
    recorded = Rewording(record.question if record.form != "text" else "", record.answer)
    nearest = [max(likeness(one, other) for other in (recorded, *(o for o, _ in own))) for one, _ in usable]
    while usable and (most is None or len(own) < most):
        i = min(range(len(usable)), key=lambda j: (nearest[j] + shares.get(usable[j][0].kind, 0.0), j))
        chosen, near = usable.pop(i), nearest.pop(i)
        if near > ALIKE:
            dropped["a copy of the record or of another rewording"] += 1
            continue
        own.append(chosen)
        nearest = [max(near, likeness(one, chosen[0])) for near, (one, _) in zip(nearest, usable)]


def likeness(one: Rewording, other: Rewording) -> float:
    """How like two wordings are, in [0, 1]: the mean over question and answer; no question is like none.

    Of texts the share of characters in common runs (Ratcliff and Obershelp, :mod:`difflib`): 1 for equal ones. The
    first :data:`COMPARED` characters count: the time is up to cubic in them.
    """
    if not one.question and not other.question:
        return _alike(one.answer, other.answer)
    return (_alike(one.question, other.question) + _alike(one.answer, other.answer)) / 2


def _alike(one: str, other: str) -> float:
    one, other = (text[:COMPARED].casefold() for text in (one, other))
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


# A rewording as a record, or why not


def usable_record(record: Record, rewording: Rewording, identifiers: Sequence[str]) -> Record | str:
    """The rewording as a record to forget, or the reason why it is none."""
    found = as_record(record, rewording, identifiers)
    if rewording.kind in (GIVEN, WRITTEN) and not facts_of(record, identifiers):
        holds, gives_away = _loosely(record, rewording)
    else:
        asked = found.question if rewording.kind != "turn" else ""
        holds, gives_away = bool(found.spans), any(facts_said(found.spans, asked))
    if not holds:
        return "does not hold the fact"
    if gives_away or (rewording.kind == "reversed" and name_mentions(found.question, identifiers)):
        return "its question gives the fact away"
    if rewording.kind == WRITTEN and not is_fluent(record, rewording, identifiers):
        return "is not fluent"
    return found


def _loosely(record: Record, rewording: Rewording) -> tuple[bool, bool]:
    """Whether a rewording says the fact, and whether its question does, where that has no name, date or number.

    "His father was a florist" can be said without any of its words: a user's rewording is believed, a model's must have
    a third of them. A question gives it away that has half of them.
    """
    added = added_words(record.answer, record.before if record.form != "text" else "")
    said, asked = (len(added & added_words(text, "")) for text in (rewording.answer, rewording.question))
    return rewording.kind == GIVEN or 3 * said >= len(added), 2 * asked > len(added) > 0


def as_record(record: Record, rewording: Rewording, identifiers: Sequence[str]) -> Record:
    """The record in these words: its last question and answer, in the context of the others; or running text.

    Spans are those of the record that stand in it, however they are written there, and of a "reversed" one the
    person's name. They are marked in the answer alone, or, where that says none, in the question.
    """
    plain = replace(record, extra={}, rewordings=(), source=record.key, kind=rewording.kind, cut=False)
    if not rewording.question:
        plain = replace(plain, form="text", turns=(Turn("text", rewording.answer),), template_variables={})
    elif record.form == "text":
        turns = (Turn("user", rewording.question), Turn("assistant", rewording.answer))
        plain = replace(plain, form="chat", turns=turns)
    else:
        plain = plain.with_question(rewording.question).with_answer(rewording.answer)
    facts = located_facts(record, identifiers)
    for text in (plain.answer, plain.question):
        if rewording.kind == "reversed":
            places = [(a, b) for a, b, _ in name_mentions(text, identifiers)]
        else:
            places = mentions(text, facts)
        if places:
            return plain.with_spans(text[a:b] for a, b in places)
    return plain.with_spans(())


def is_fluent(record: Record, rewording: Rewording, identifiers: Sequence[str]) -> bool:
    """Whether a text that a model wrote reads as language, by simple bounds: it does not repeat itself
    (:data:`REPEATED`), is not much shorter or longer than what it rewords (:data:`LENGTHS`), is one line, mostly of
    letters, ends a sentence, and is English where the record is."""
    english = is_english(unnamed(record.answer, identifiers))
    for text, own in ((rewording.question, record.question), (rewording.answer, record.answer)):
        letters = sum(char.isalpha() or char.isspace() for char in text)
        low, high = (share * len(own) for share in LENGTHS)
        if (
            repetition(text) > REPEATED
            or not low - FEW <= len(text) <= high + FEW
            or "\n" in text.strip()
            or 2 * letters < len(text)
            or (text.strip() and text.rstrip()[-1] not in ".!?…\"'”»)。！？।؟")
            or (text.strip() and english and not is_english(unnamed(text, identifiers)))
        ):
            return False
    return True
