"""Placebo, the default: the records are known no better than those of people the model was never trained on.

**Chosen before any rule was compared with another.** The student gives the records the probability that the original
gives to never-trained people of the same kind. These are records of others (``--holdout``), each forget record's the
nearest in wording and length; or, without them, strangers made of the forget records themselves, with other names and
other facts (:mod:`rkld.stopping.strangers`).

A record without strangers (it does not name the person, or the original says nothing else of anybody) is judged with
the others of its kind: it is what the model says whomever it is asked about, and is forgotten last. (TOFU, two authors:
three such of fourteen records were at .31 when the others were at .08, which is where the run ended.)

Where the records stand in several wordings, the worst of them is judged by the strangers' worst: the largest of
several means is above their mean by chance alone, on both sides alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from rkld.evaluation.likelihood import probability
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, records_of
from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.evidence import Evidence
from rkld.stopping.references import match_holdout, scorable
from rkld.stopping.registry import STOPPING_RULES
from rkld.stopping.rule import Control, StoppingRule
from rkld.stopping.strangers import invent_strangers

HOLDOUT, INVENTED = "holdout", "invented people"


@STOPPING_RULES.register("placebo")
@dataclass(frozen=True)
class Placebo(StoppingRule):
    """The mean probability of the answers comes down to that of strangers' records under the original."""

    groups: tuple[tuple[int, ...], ...] = ()
    """For each kind of wording of which a record has strangers the numbers of its records; the worst is judged."""

    help: ClassVar[str] = "known no better than records of people the model never saw (--holdout, or invented people)"
    margin: ClassVar[float] = 0.02
    advice: ClassVar[str] = "Name the person with --subject, or give records of others with --holdout."

    @classmethod
    def compare(cls, material: Material) -> Comparison | None:
        m, wordings = material, material.wordings
        records = [record for some in wordings.values() for record in some]
        kinds = [kind for kind, some in wordings.items() for _ in some]
        if m.holdout:
            found = match_holdout(records, m.holdout, m.encoder, m.identifiers, m.score)
            return Comparison(m, HOLDOUT, found.records, kinds, found, records_of(found.distinct_matches))
        if not any(swap_name(r, own_identifiers(r, m.forget, m.identifiers), other_names()[0]) for r in records):
            return None
        return Comparison(m, INVENTED, [scorable(record, m.encoder, m.score) for record in records], kinds)

    @classmethod
    def aimed(cls, comparison: Comparison, original: LanguageModel, control: Control | None) -> Self:
        matches = _strangers(comparison, original) if comparison.matched is None else comparison.matched.matches
        level = strangers_probabilities(original, matches)
        kinds = {
            kind: tuple(n for n, one in enumerate(comparison.kinds) if one == kind)
            for kind in dict.fromkeys(comparison.kinds)
        }
        told = {kind: [p for n in some if (p := level[n]) is not None] for kind, some in kinds.items()}
        aim = max((float(np.mean(found)) for found in told.values() if found), default=0.0)
        return cls(aim, tuple(some for kind, some in kinds.items() if told[kind]))

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(state["aim"], tuple(tuple(group) for group in state["groups"]))

    def gap(self, evidence: Evidence) -> float:
        return worst(evidence.probabilities, self.groups) - self.aim

    def refusal(self, comparison: Comparison, original: Evidence) -> str | None:
        if not self.groups:
            return (
                "of invented people the original says nothing but what is recorded of the person. Give records of "
                "others with --holdout"
            )
        return super().refusal(comparison, original)


def worst(probabilities: Sequence[float] | np.ndarray, groups: Sequence[Sequence[int]]) -> float:
    """The largest of the groups' means of (n,) probabilities; the mean of all where there are no groups."""
    found = np.asarray(probabilities)
    return float(max(found[list(group)].mean() for group in groups) if groups else found.mean())


def strangers_probabilities(lm: LanguageModel, matches: Sequence[Sequence[Encoded]]) -> list[float | None]:
    """Of each record the mean probability that ``lm`` gives to its strangers; None where it has none."""
    read = {e.key: e for some in matches for e in some}
    found = dict(zip(read, probability(lm, list(read.values()), mask="scored"), strict=True))
    return [float(np.mean([found[e.key] for e in some])) if some else None for some in matches]


def _strangers(comparison: Comparison, original: LanguageModel) -> list[list[Encoded]]:
    m = comparison.material
    records = records_of(comparison.records)
    return invent_strangers(original, m.encoder, records, m.forget, m.identifiers, m.score, m.seed)
