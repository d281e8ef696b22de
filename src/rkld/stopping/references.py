"""What the steering records are compared with: records of never-trained people, or wrong answers of their kind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import cast

import numpy as np

from rkld.evaluation.likelihood import probability
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import IN_PART, Encoded, Encoder, Score
from rkld.records.identity import identifiers as known_identifiers
from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.records.probes import facts_of, make_probes
from rkld.records.record import Record
from rkld.text.normalising import words
from rkld.text.wording import unnamed

NEAREST = 10
"""Holdout records that each steering record is compared with; one alone is mostly chance. Chosen on seeds 0
and 1 of the tiny world; the margin of the rule ``placebo`` on all six runs of benchmarks/stopping.py."""

NAMES = 4
"""Invented names that each steering record is rewritten with, where there is no holdout."""


@dataclass(frozen=True)
class MatchedRecords:
    """Steering records, and for each the records that it is compared with; the ``scored`` tokens of both correspond."""

    records: list[Encoded]
    matches: list[list[Encoded]]

    @property
    def distinct_matches(self) -> list[Encoded]:
        """Those that are to be read, each once."""
        return list({e.key: e for some in self.matches for e in some}.values())

    def probability(self, lm: LanguageModel) -> float:
        """Probability that ``lm`` gives to the matches: the mean over records of the mean over theirs."""
        read = self.distinct_matches
        found = dict(zip((e.key for e in read), probability(lm, read, mask="scored"), strict=True))
        return float(np.mean([np.mean([found[e.key] for e in some]) for some in self.matches]))


def scorable(record: Record, encoder: Encoder, score: str) -> Encoded:
    """Encoded, ``scored`` marking what its likelihood is taken of: what is unlearned of its answers.

    A name that is held to the original is well known to the student, and to a stranger's record it is not.
    """
    return encoder.encode(record, cast("Score", score) if score in IN_PART else "answer")


def match_holdout(
    steering: Sequence[Record], holdout: Sequence[Record], encoder: Encoder, identifiers: Sequence[str], score: str
) -> MatchedRecords:
    """Each record beside the :data:`NEAREST` of the holdout: most words in common, names left out, and as long."""
    ours, theirs = ([scorable(r, encoder, score) for r in records] for records in (steering, holdout))
    bags = [_bag(record, known_identifiers([record], ())) for record in holdout]

    def nearest(record: Record, encoded: Encoded) -> list[Encoded]:
        bag, length = _bag(record, identifiers), sum(encoded.scored)

        def likeness(i: int) -> float:
            lengths = sorted((length, sum(theirs[i].scored)))
            return len(bag & bags[i]) / max(1, len(bag | bags[i])) * lengths[0] / lengths[1]

        return [theirs[i] for i in sorted(range(len(theirs)), key=likeness, reverse=True)[:NEAREST]]

    return MatchedRecords(ours, [nearest(record, encoded) for record, encoded in zip(steering, ours, strict=True)])


def match_invented_names(
    steering: Sequence[Record],
    forget: Sequence[Record],
    encoder: Encoder,
    identifiers: Sequence[str],
    score: str,
    seed: int,
) -> MatchedRecords | None:
    """Each record beside its copies under invented names; None where no record names the person.

    Compared are the tokens that a record and all its copies share: a stranger's name is no part of what is known.
    """
    names, draw = other_names(), random.Random(seed)
    records: list[Encoded] = []
    matches: list[list[Encoded]] = []
    for record in steering:
        own, source = own_identifiers(record, forget, identifiers), scorable(record, encoder, score)
        swapped = [swap_name(record, own, name) for name in draw.sample(names, NAMES)]
        copies = [
            replace(scorable(copy, encoder, score), key=f"{record.key}.{n}")
            for n, copy in enumerate(swapped)
            if copy is not None
        ]
        pairs = [_shared(source, copy) for copy in copies]
        common = set.intersection(*map(set, pairs)) if pairs else set()
        if common:
            records.append(_marked(source, common))
            matches.append([_marked(copy, {pair[i] for i in common}) for copy, pair in zip(copies, pairs)])
    return MatchedRecords(records, matches) if records else None


def contrasted_questions(
    steering: Sequence[Record], others: Sequence[Record], identifiers: Sequence[str], seed: int
) -> list[Record]:
    """Questions about the steering records with ``perturbed_answer``: their own, else mechanical ones.

    Args:
        others: records about other people, whose facts are the wrong answers (retain, holdout).
    """
    own = [record for record in steering if record.extra.get("perturbed_answer")]
    if own and len({len(record.extra["perturbed_answer"]) for record in own}) == 1:
        return own
    if not any(facts_of(record, identifiers) for record in steering):
        return []
    probes = make_probes(steering, others, identifiers, seed)
    return [p.record for p in probes if p.kind == "question" and p.record.extra.get("perturbed_answer")]


def _bag(record: Record, identifiers: Sequence[str]) -> frozenset[str]:
    return frozenset(words(unnamed(f"{record.question} {record.answer}", identifiers)))


def _shared(source: Encoded, copy: Encoded) -> dict[int, int]:
    """Positions of the scored tokens that both have, in the source → in the copy."""
    blocks = SequenceMatcher(None, source.ids, copy.ids, autojunk=False).get_matching_blocks()
    pairs = ((block.a + n, block.b + n) for block in blocks for n in range(block.size))
    return {a: b for a, b in pairs if source.scored[a] and copy.scored[b]}


def _marked(encoded: Encoded, positions: set[int]) -> Encoded:
    return replace(encoded, scored=tuple(i in positions for i in range(len(encoded.ids))))
