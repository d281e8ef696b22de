"""Last: no check ends the run, its last step is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rkld.stopping.comparison import Comparison, Material
from rkld.stopping.evidence import Evidence
from rkld.stopping.registry import STOPPING_RULES
from rkld.stopping.rule import StoppingRule


@STOPPING_RULES.register("last")
@dataclass(frozen=True)
class Last(StoppingRule):
    """``aim`` optimizer steps have been taken, as a simulation on recorded evidence has it; a run reads nothing."""

    help: ClassVar[str] = "the last step of the last epoch, whatever is still known"
    steers: ClassVar[bool] = False

    @classmethod
    def compare(cls, material: Material) -> Comparison | None:
        return None

    def gap(self, evidence: Evidence) -> float:
        return self.aim - evidence.step
