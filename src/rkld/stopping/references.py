"""Which records steer, and what they are compared with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np

from rkld.errors import UserError
from rkld.evaluation.likelihood import probability
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder
from rkld.records.identity import identifiers as known_identifiers
from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.records.probes import facts_of, make_probes, split_probes
from rkld.records.record import Record
from rkld.text.matching import Matcher
from rkld.text.normalising import words
from rkld.text.wording import unnamed

NEAREST = 10
"""Holdout records that each steering record is compared with; one alone is mostly chance. Chosen on seeds 0
and 1 of the tiny world; the margin of :class:`Level` on all six runs of benchmarks/stopping.py."""


NAMES = 4
"""Invented names that each steering record is asked about, where there is no holdout."""


FEWEST = 4
"""Forget records from which on some are set apart for the audit; of fewer, all steer."""


# Which records steer, and what they are compared with


@dataclass(frozen=True)
class Steering:
    """The forget records that steer, and the keys of all that the audit leaves out for it."""

    records: tuple[Record, ...]
    keys: tuple[str, ...]


def split(forget: Sequence[Record], identifiers: Sequence[str], seed: int) -> Steering:
    """Set apart the records that steer, from the seed alone.

    Facts are dealt out (:func:`rkld.records.probes.split_probes`); records whose answers say no audited fact steer,
    and the audit leaves out all whose answers say a steering one. Where that gives less than a quarter of the records
    to either side, the records themselves are dealt out. Of fewer than :data:`FEWEST` all steer and none are left.
    """
    everyone = tuple(record.key for record in forget)
    if len(forget) < FEWEST:
        return Steering(tuple(forget), everyone)
    try:
        halves = split_probes(make_probes(forget, (), identifiers, seed), seed)
    except UserError:  # no facts, or all in one
        halves = ((), ())
    steered, audited = (Matcher(sorted({probe.fact for probe in half})) for half in halves)

    def says(record: Record, facts: Matcher) -> bool:
        return bool(facts.said(record.answer) - facts.said(record.question))

    steering = [record for record in forget if not says(record, audited)]
    keys = [r.key for r in forget if says(r, steered) or (r in steering)]
    if min(len(steering), len(forget) - len(keys)) < max(1, len(forget) // 4) or not steered.phrases:
        steering = random.Random(seed).sample(list(forget), len(forget) // 2)
        keys = [record.key for record in steering]
    return Steering(tuple(steering), tuple(key for key in everyone if key in set(keys)))


def alternatives(steering: Steering, others: Sequence[Record], identifiers: Sequence[str], seed: int) -> list[Record]:
    """Questions about the steering records with ``perturbed_answer``: their own, else mechanical ones.

    Args:
        others: records about other people, whose facts are the wrong answers (retain, holdout).
    """
    own = [record for record in steering.records if record.extra.get("perturbed_answer")]
    if own and len({len(record.extra["perturbed_answer"]) for record in own}) == 1:
        return own
    if not any(facts_of(record, identifiers) for record in steering.records):
        return []
    probes = make_probes(steering.records, others, identifiers, seed)
    return [p.record for p in probes if p.kind == "question" and p.record.extra.get("perturbed_answer")]


@dataclass(frozen=True)
class Placebo:
    """Steering records and what each is compared with; the ``scored`` tokens of both are comparable."""

    records: list[Encoded]
    others: list[list[Encoded]]

    def level(self, lm: LanguageModel) -> float:
        """Probability that ``lm`` gives to the others: the mean over records of the mean over theirs."""
        unique = list({e.key: e for found in self.others for e in found}.values())
        found = dict(zip([e.key for e in unique], probability(lm, unique, mask="scored")))
        return float(np.mean([np.mean([found[e.key] for e in some]) for some in self.others]))


def from_holdout(
    steering: Sequence[Record], holdout: Sequence[Record], encoder: Encoder, identifiers: Sequence[str], score: str
) -> Placebo:
    """Each record beside the :data:`NEAREST` of the holdout: most words in common, names left out, and as long."""
    ours, theirs = ([scorable(r, encoder, score) for r in records] for records in (steering, holdout))
    bags = [_bag(record, known_identifiers([record], ())) for record in holdout]

    def near(record: Record, encoded: Encoded) -> list[Encoded]:
        bag, length = _bag(record, identifiers), sum(encoded.scored)

        def likeness(i: int) -> float:
            lengths = sorted((length, sum(theirs[i].scored)))
            return len(bag & bags[i]) / max(1, len(bag | bags[i])) * lengths[0] / lengths[1]

        return [theirs[i] for i in sorted(range(len(theirs)), key=likeness, reverse=True)[:NEAREST]]

    return Placebo(ours, [near(record, encoded) for record, encoded in zip(steering, ours, strict=True)])


def from_names(
    steering: Sequence[Record],
    forget: Sequence[Record],
    encoder: Encoder,
    identifiers: Sequence[str],
    score: str,
    seed: int,
) -> Placebo | None:
    """Each record beside its copies under invented names; None where no record names the person.

    Compared are the tokens that a record and all its copies share: a stranger's name is no part of what is known.
    """
    names, draw = other_names(), random.Random(seed)
    records, others = [], []
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
            others.append([_marked(copy, {pair[i] for i in common}) for copy, pair in zip(copies, pairs)])
    return Placebo(records, others) if records else None


def scorable(record: Record, encoder: Encoder, score: str) -> Encoded:
    """Encoded, ``scored`` marking what its likelihood is taken of: with "spans" the spans, else the answers."""
    return encoder.encode(record, "spans" if score == "spans" else "answer")


def _bag(record: Record, identifiers: Sequence[str]) -> frozenset[str]:
    return frozenset(words(unnamed(f"{record.question} {record.answer}", identifiers)))


def _shared(source: Encoded, copy: Encoded) -> dict[int, int]:
    """Positions of the scored tokens that both have, in the source → in the copy."""
    blocks = SequenceMatcher(None, source.ids, copy.ids, autojunk=False).get_matching_blocks()
    pairs = ((block.a + n, block.b + n) for block in blocks for n in range(block.size))
    return {a: b for a, b in pairs if source.scored[a] and copy.scored[b]}


def _marked(encoded: Encoded, positions: set[int]) -> Encoded:
    return replace(encoded, scored=tuple(i in positions for i in range(len(encoded.ids))))
