"""Further membership: attacks of many passes a record (arXiv 2402.17012, 2406.15968, 2305.18462)."""

from __future__ import annotations

from rkld.auditing.inputs import Task
from rkld.auditing.reading import Attack, Reader
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.membership import further_scores
from rkld.evaluation.readings import Rows, by_key
from rkld.pipeline.preparing import encode_all
from rkld.records.encoding import Encoder


@ATTACKS.register("further_membership")
class FurtherMembership(Attack):
    """Scores by the gradient's norm, by ReCaLL (strangers before the record) and by the record's neighbours."""

    title = "membership by gradients, strangers before the record, and neighbours of it"
    risk = "membership inference"
    needs = "--holdout, two or more records that were never trained on"
    cost = "about 15 passes a record, one of them backwards"
    source = "arXiv 2402.17012, 2406.15968, 2305.18462"

    def missing(self, task: Task) -> str | None:
        return None if len(task.holdout) > 1 else f"needs {self.needs}"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_all(encoder, [*task.forget, *task.holdout])

    def read(self, reader: Reader) -> dict[str, Rows]:
        task = reader.task
        sets = {"forget": task.forget, "holdout": task.holdout}
        return {
            name: by_key(records, further_scores(*reader.loaded(), records, task.holdout))
            for name, records in sets.items()
        }
