"""What a rule is given to compare with, and what the checks of a run read for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder
from rkld.records.record import Record
from rkld.stopping.evidence import Evidence, read_evidence
from rkld.stopping.references import MatchedRecords, scorable
from rkld.stopping.steering import Steering, split_steering

RECORDED = "recorded"
"""The kind of wording that the records came in."""


@dataclass(frozen=True)
class Material:
    """The records of a run, and how they are encoded; everything that is drawn of them comes from the seed."""

    forget: Sequence[Record]
    holdout: Sequence[Record]
    """About people the model was never trained on; maybe none."""
    retain: Sequence[Record]
    identifiers: Sequence[str]
    """The person's names and aliases."""
    encoder: Encoder
    score: str
    """The run's setting of this name."""
    seed: int
    reworded: Mapping[str, Mapping[str, Sequence[Record]]] = field(default_factory=dict)
    """The forget records in other words: kind of wording → key of a forget record → what it is in that wording."""

    @cached_property
    def steering(self) -> Steering:
        """The forget records that steer, and those that the audit leaves out."""
        return split_steering(self.forget, self.identifiers, self.seed)

    @property
    def wordings(self) -> dict[str, list[Record]]:
        """The steering records by kind of wording, as they were recorded first."""
        found = {RECORDED: list(self.steering.records)}
        for kind, rewordings in self.reworded.items():
            found[kind] = [made for record in self.steering.records for made in rewordings.get(record.key, ())]
        return {kind: records for kind, records in found.items() if records}

    def encoded_steering(self, encoder: Encoder | None = None) -> list[Encoded]:
        """The steering records with what is scored of them marked, by the run's encoder or another model's."""
        return [scorable(record, encoder or self.encoder, self.score) for record in self.steering.records]


@dataclass(frozen=True)
class Comparison:
    """What the checks of a run read, and what it is compared with. Made anew from the seed when a run goes on."""

    material: Material
    source: str
    """What the records are compared with, in a word or two, for the manifest."""
    records: Sequence[Encoded]
    """Steering records, whose ``scored`` tokens every check reads."""
    kinds: Sequence[str] = ()
    """Of each of the records the kind of its wording; () where all are as they were recorded."""
    matched: MatchedRecords | None = None
    """The same with their counterparts, whose probability under the original is the aim; None for another aim."""
    holdout: Sequence[Record] = ()
    """The holdout records that the aim is read from: the audit compares with none of them."""
    questions: Sequence[Record] = ()
    """With wrong answers, read by every check, too."""

    def read(self, lm: LanguageModel, step: int) -> Evidence:
        """One check."""
        return read_evidence(lm, self.material.encoder, self.records, self.questions, step)
