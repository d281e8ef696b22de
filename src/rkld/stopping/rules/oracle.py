"""Oracle: the smallest KS distance to the retrained model, as the paper stops (arXiv 2406.01983, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from rkld.evaluation.tofu import forget_quality
from rkld.stopping.evidence import Evidence
from rkld.stopping.registry import STOPPING_RULES
from rkld.stopping.rule import StoppingRule


@STOPPING_RULES.register("oracle")
@dataclass(frozen=True)
class Oracle(StoppingRule):
    """The best forget quality of the whole run. It never ends one."""

    retrained: tuple[float, ...] = ()
    """The retrained model's truth ratios."""

    help: ClassVar[str] = "the smallest KS distance to the retrained model"
    margin: ClassVar[float] = -math.inf
    benchmarks_only: ClassVar[bool] = True

    def gap(self, evidence: Evidence) -> float:
        """The KS statistic of both models' truth ratios: 0 where they are equally distributed."""
        return forget_quality(evidence.truth_ratios, self.retrained).statistic - self.aim
