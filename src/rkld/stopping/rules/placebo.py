"""Placebo, the default: the records are known no better than those of people the model was never trained on.

**Chosen before any rule was compared with another.** The student gives the records the probability that the original
gives to never-trained people of the same kind. These are records of others (``--holdout``), each forget record's the
nearest in wording and length; or, without them, the forget records themselves under invented names, so that nothing but
the person differs (refused where the original says the same of anybody).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import records_of
from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.evidence import Evidence
from rkld.stopping.references import match_holdout, match_invented_names
from rkld.stopping.registry import STOPPING_RULES
from rkld.stopping.rule import Control, StoppingRule

SAID_OF_ANYBODY = 0.5
"""Where the probability under invented names is more than this share of that under the person's own, the model gives
these answers for any name: no placebo. Overfitted models do (SmolLM2 on TOFU: .86 of .99)."""

HOLDOUT, INVENTED_NAMES = "holdout", "invented names"


@STOPPING_RULES.register("placebo")
@dataclass(frozen=True)
class Placebo(StoppingRule):
    """The mean probability of the answers comes down to that of the matched records under the original."""

    help: ClassVar[str] = "known no better than records of people the model never saw (--holdout, or invented names)"
    margin: ClassVar[float] = 0.02
    advice: ClassVar[str] = "Name the person with --subject, or give records of others with --holdout."

    @classmethod
    def compare(cls, material: Material) -> Comparison | None:
        m, records = material, material.steering.records
        if m.holdout:
            found = match_holdout(records, m.holdout, m.encoder, m.identifiers, m.score)
            return Comparison(m, HOLDOUT, found.records, matched=found, holdout=records_of(found.distinct_matches))
        swapped = match_invented_names(records, m.forget, m.encoder, m.identifiers, m.score, m.seed)
        return Comparison(m, INVENTED_NAMES, swapped.records, matched=swapped) if swapped else None

    @classmethod
    def read_aim(cls, comparison: Comparison, original: LanguageModel, control: Control | None) -> float:
        assert comparison.matched is not None
        return comparison.matched.probability(original)

    def gap(self, evidence: Evidence) -> float:
        return evidence.probability - self.aim

    def refusal(self, comparison: Comparison, original: Evidence) -> str | None:
        if comparison.source == INVENTED_NAMES and self.aim > SAID_OF_ANYBODY * original.probability:
            return "the original gives these answers about anybody. Give records of others with --holdout"
        return super().refusal(comparison, original)
