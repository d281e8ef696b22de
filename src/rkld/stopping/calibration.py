"""When to stop forgetting, without the retrained model that the paper needs for it.

The paper takes the epoch with the best forget quality (arXiv 2406.01983, section 4): an oracle, for a real erasure has
no retrained model. A rule here sees the student's losses on some of the forget records, check by check
(:class:`Evidence`), and an aim that was read before the distillation began:

- ``placebo``, **the default, chosen before any rule was compared with another**: the student gives the records the
  probability that the original gives to never-trained people of the same kind. These are records of others
  (``--holdout``), each forget record's the nearest in wording and length; or, without them, the forget records
  themselves under invented names, so that nothing but the person differs (refused where the original says the same of
  anybody: :meth:`Calibration.refusal`).
- ``control``: the probability that a model gives them which has never seen them. It must have been trained like the
  original on everything else: a base model may lack the domain's style, so that its level is too low and it stops late.
- ``exposure``: the true answers are ranked among wrong ones of their kind as by chance. Needs no other data.
- ``last``: the last step.
- ``oracle``: the smallest KS distance to the retrained model, for comparison.

The run ends at the first check that is not above the aim, and the check nearest to it is kept. Rules are pure functions
of the recorded evidence, so all of them can be replayed on one run. What steers is no evidence afterwards:
:func:`split` sets records apart, and the run's manifest names their keys for the audit to leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder
from rkld.records.record import Record
from rkld.stopping.evidence import Evidence, read
from rkld.stopping.references import Placebo, Steering, alternatives, from_holdout, from_names, scorable, split
from rkld.stopping.rules import Exposure, Level, Rule, decide

SAID_OF_ANYBODY = 0.5
"""Where the probability under invented names is more than this share of that under the person's own, the model says the
answers of anybody who is asked about so: no placebo. Overfitted models do (SmolLM2 on TOFU: .86 of .99)."""


@dataclass(frozen=True)
class Calibration:
    """What the checks of a run read, and the rule that is made of them. Made anew from the seed when a run goes on."""

    name: str
    """Of the rule."""
    source: str
    """What it compares with."""
    steering: Steering
    records: Sequence[Encoded]
    placebo: Placebo | None = None
    questions: Sequence[Record] = ()

    def rule(self, aim: float | None) -> Rule:
        return Exposure() if aim is None else Level(aim)

    def refusal(self, aim: float | None, original: Evidence) -> str | None:
        """Why the rule cannot steer, if it cannot: what ``original``, the model before any change, shows of the aim."""
        if decide(self.rule(aim), [original]).stop:
            return "by it the original has forgotten the records already"
        if self.source == "invented names" and aim > SAID_OF_ANYBODY * original.probability:
            return "the original gives these answers about anybody. Give records of others with --holdout"
        return None

    def check(self, lm: LanguageModel, encoder: Encoder, step: int) -> Evidence:
        return read(lm, encoder, self.records, self.questions, step)


def calibration(
    name: str,
    forget: Sequence[Record],
    holdout: Sequence[Record],
    retain: Sequence[Record],
    identifiers: Sequence[str],
    encoder: Encoder,
    score: str,
    seed: int,
) -> Calibration | None:
    """For the rules ``placebo``, ``control`` and ``exposure``; None where there is nothing to compare with."""
    steering = split(forget, identifiers, seed)
    if name == "placebo":
        if holdout:
            source, made = "holdout", from_holdout(steering.records, holdout, encoder, identifiers, score)
        else:
            source, made = "invented names", from_names(steering.records, forget, encoder, identifiers, score, seed)
        return made and Calibration(name, source, steering, made.records, placebo=made)
    records = [scorable(record, encoder, score) for record in steering.records]
    if name == "control":
        return Calibration(name, "control", steering, records)
    questions = alternatives(steering, [*retain, *holdout], identifiers, seed)
    return Calibration(name, "alternatives", steering, records, questions=questions) if questions else None
