"""How much of what identifies the person is unlearned, seen before any training.

In a ticket or a chat the personal data often stands in the *user's* turn. With the answers alone scored, a
run would then cost its time and forget nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rkld.errors import UserError
from rkld.records.encoding import Encoded, Encoder, Score
from rkld.records.identity import listed_places
from rkld.records.record import Record
from rkld.text.matching import mentions
from rkld.text.wording import is_name, name_mentions, proper_nouns, sentences

_ASKS = ("?", "？", "؟")
_FIRST_PERSON = re.compile(r"\b(?:I|[Mm]y)\b")


@dataclass(frozen=True)
class Share:
    """Occurrences in the forget records, and those of them of which every token is scored."""

    found: int = 0
    scored: int = 0

    def __str__(self) -> str:
        percent = f" ({self.scored / self.found:.0%})" if self.found else ""
        return f"{self.scored} of {self.found}{percent}"


@dataclass(frozen=True)
class Coverage:
    """What :func:`scored_share` found."""

    identifiers: Share
    """Of the person's names, aliases and other identifiers."""
    spans: Share
    """Of the records' own spans (:meth:`rkld.records.encoding.Encoder.locate_spans`)."""
    reached: Share = Share()
    """Of both, but for what is said in a question: "scored" are those in what is unlearned, held names among it."""
    unscored: tuple[str, ...] = ()
    """Where the records stand of which something personal is not unlearned, such as "tickets.jsonl line 4"."""

    named_only: tuple[str, ...] = ()
    """Where other records stand that name the person in a turn that is not unlearned, and nowhere else."""

    @property
    def alarms(self) -> list[str]:
        """What to say of :attr:`unscored` and :attr:`named_only`, with the records' numbers."""
        found = []
        if self.unscored:
            found.append(
                f"In {len(self.unscored)} forget records something about the person stands in a turn that is not "
                f"unlearned, as in a ticket or a letter: {listed_places(self.unscored)}. Mark it as 'spans', which are "
                "unlearned wherever they stand, or unlearn every turn with --score all."
            )
        if self.named_only:
            found.append(
                f"{len(self.named_only)} forget records name the person in a turn that is not unlearned, and nowhere "
                f"else: {listed_places(self.named_only)}. Of them only what is answered is unlearned: see whether that "
                "says anything about the person; --score all takes every turn."
            )
        return found

    def require(self, score: str) -> None:
        """Refuse to unlearn nothing of what identifies the person.

        Args:
            score: the mode the records were encoded with.

        Raises:
            UserError: there are such places and none of them is reached.
        """
        if self.reached.found and not self.reached.scored:
            mark = "mark the personal parts as 'spans' in the records and score those with --score spans"
            remedy = mark if score == "all" else f"Score every turn with --score all, or {mark}"
            raise UserError(
                f"--score {score} unlearns none of the {self.reached.found} places where the forget records hold the "
                "person's identifiers or marked spans. In a ticket or a chat they often stand in the user's turn. "
                f"{remedy[0].upper()}{remedy[1:]}."
            )


def scored_share(
    encoder: Encoder, records: Sequence[Record], encoded: Sequence[Encoded], identifiers: Sequence[str], score: Score
) -> Coverage:
    """Count where the records hold identifiers and spans, and how many of these places are scored.

    Position 0 of a record counts for nothing: it can't be scored, as nothing predicts it. System turns are
    left out.

    Args:
        encoded: the records as ``encoder`` encodes them, in their order.
        identifiers: names, aliases and the like (:func:`rkld.records.identity.identifiers`).
        score: the mode the records were encoded with.
    """
    named, marked, reached, unscored, named_only = [], [], [], [], []
    for record, e in zip(records, encoded, strict=True):
        names = encoder.locate(record, lambda text: mentions(text, identifiers))
        spans = encoder.locate_spans(record)
        named += [_is_scored(positions, e.scored) for positions in names]
        marked += [_is_scored(positions, e.scored) for positions in spans]
        told = encoder.locate(record, partial(told_places, identifiers=identifiers, marked=bool(record.spans)))
        asked = set(encoder.locate(record, partial(_asked, identifiers=identifiers)))
        unlearned = _unlearned(e, score)
        reached += [_is_scored(positions, unlearned) for positions in (*names, *spans) if positions not in asked]
        if not all(_is_scored(positions, unlearned) for positions in (*spans, *told)):
            unscored.append(record.where)
        elif set(names) - asked and not any(_is_scored(positions, unlearned) for positions in (*names, *spans)):
            named_only.append(record.where)
    of_names, of_spans, of_reached = (Share(len(found), sum(found)) for found in (named, marked, reached))
    return Coverage(of_names, of_spans, of_reached, tuple(unscored), tuple(named_only))


def told_places(text: str, identifiers: Sequence[str], marked: bool) -> list[tuple[int, int]]:
    """What a turn tells of the person, beside the name, by which questions ask: numbers, addresses and the like among
    the identifiers; and, where nothing is marked, names, dates and numbers in sentences that name the person or are
    said in the first person. Sorted (start, end) character ranges; no sentence that asks counts."""
    found = mentions(text, [identifier for identifier in identifiers if not is_name(identifier)])
    if not marked:
        telling = [s for s in sentences(text) if not s.endswith(_ASKS) and _tells(s, identifiers)]
        for sentence in telling:
            start = text.index(sentence)
            names = name_mentions(sentence, identifiers)
            facts = mentions(sentence, proper_nouns(sentence))
            found += [(start + a, start + b) for a, b in facts if not any(a < e and s < b for s, e, _ in names)]
    return sorted(set(found))


def _asked(text: str, identifiers: Sequence[str]) -> list[tuple[int, int]]:
    """Names and other identifiers in sentences that ask."""
    asking = [(text.index(sentence), sentence) for sentence in sentences(text) if sentence.endswith(_ASKS)]
    return [(start + a, start + b) for start, sentence in asking for a, b in mentions(sentence, identifiers)]


def _tells(sentence: str, identifiers: Sequence[str]) -> bool:
    return bool(name_mentions(sentence, identifiers) or _FIRST_PERSON.search(sentence))


def _unlearned(e: Encoded, score: Score) -> Sequence[bool]:
    """Which tokens are scored, or held in an answer that is unlearned by what it adds to its question."""
    return e.scored if score == "spans" else [a or s for a, s in zip(e.answer, e.scored, strict=True)]


def _is_scored(positions: Sequence[int], scored: Sequence[bool]) -> bool:
    """Cut records are shorter than their text: positions beyond them are not scored."""
    predicted = [t for t in positions if t > 0]
    return bool(predicted) and all(t < len(scored) and scored[t] for t in predicted)
