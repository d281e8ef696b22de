"""A rule is aimed: what it compares with is read, and whether it can steer by that."""

from __future__ import annotations

from dataclasses import dataclass

from rkld.models.language_model import LanguageModel
from rkld.stopping.comparison import Comparison
from rkld.stopping.rule import Control, StoppingRule


@dataclass(frozen=True)
class Calibration:
    """A rule with its aim."""

    rule: StoppingRule
    original_gap: float
    """Of the original, before any change."""
    refusal: str | None
    """Why the rule cannot steer, if it cannot."""


def calibrate(
    rule: type[StoppingRule], comparison: Comparison, original: LanguageModel, control: Control | None = None
) -> Calibration:
    """Read the aim, and what the original shows of it.

    Args:
        original: the model before any change.
        control: loads a model that has never seen the records, for a rule that needs one.
    """
    aimed = rule.aimed(comparison, original, control)
    evidence = comparison.read(original, 0)
    return Calibration(aimed, aimed.gap(evidence), aimed.refusal(comparison, evidence))
