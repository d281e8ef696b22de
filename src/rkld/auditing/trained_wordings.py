"""Which wordings the audited model's run trained on: what was trained on is no unseen wording.

A run's manifest names them by salted hashes (:func:`rkld.pipeline.rewording.wording_hash`). As with the records that
steered the stop, it is believed only about the very weights that the run wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rkld.auditing.steering import hashes_in, phase_of, run_manifest
from rkld.pipeline.rewording import wording_hash
from rkld.records.record import Record

TRAINED = (
    "{n} of {of} {what} are wordings that the run trained on: they are not unseen, and are left out of the figures on "
    "reworded questions"
)

LOST = (
    "the run trained on rewordings, and which they are is unknown since it was purged: questions that are asked here "
    "as unseen may be among them. Audit a run before it is purged"
)


@dataclass(frozen=True)
class TrainedWordings:
    """What is known of them."""

    hashes: frozenset[str] = frozenset()
    salt: str = ""
    notes: tuple[str, ...] = ()

    def said(self, text: str) -> bool:
        """Whether the run trained on this question or answer."""
        return bool(self.hashes) and wording_hash(text, self.salt) in self.hashes

    def apart(self, records: Iterable[Record], what: str) -> tuple[list[Record], list[str]]:
        """The records whose question was not trained on, and a note on the others, if there are any."""
        records = list(records)
        unseen = [record for record in records if not self.said(record.question)]
        n = len(records) - len(unseen)
        return unseen, [TRAINED.format(n=n, of=len(records), what=what)] if n else []

    def answers(self, records: Sequence[Record]) -> list[str]:
        """A note where paraphrased answers were trained on, whose losses are then of no unseen words."""
        answers = [found for record in records if (found := record.extra.get("paraphrased_answer"))]
        n = sum(map(self.said, answers))
        if not n:
            return []
        return [f"{n} of {len(answers)} paraphrased answers are wordings that the run trained on, not unseen ones"]


def find_trained_wordings(model: str) -> TrainedWordings:
    """Of the run that made the audited model; none of any other model.

    Args:
        model: the run's folder, or the model's inside it.
    """
    manifest = run_manifest(model)
    noted = phase_of(manifest, "rewordings") if manifest is not None else {}
    if manifest is None or not noted.get("kinds"):
        return TrainedWordings()
    salt, hashes = manifest.get("salt"), hashes_in(noted, "hashes")
    if not isinstance(salt, str) or not hashes:
        return TrainedWordings(notes=(LOST,))
    return TrainedWordings(frozenset(hashes), salt)
