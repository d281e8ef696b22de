"""Base vector: what records change in the base is subtracted; then self-distillation (arXiv 2506.20941, 2212.04089)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.errors import UserError
from rkld.losses.objective import Term
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("base_vector")
@dataclass(frozen=True)
class BaseVector(Method):
    """``θ_o − β · (θ_base tuned on the records − θ_base)``, then the original's own answers are distilled again.

    The vector is Rezaei et al.'s (2025, arXiv 2506.20941, from the checkpoint before the data), the negation Ilharco et
    al.'s (2023, arXiv 2212.04089). The distillation has no term of the forget records: forward KL to the original on
    replayed answers and retain records brings back what else the subtraction took. It is not RKLD, and needs no teacher
    that knows the records better.

    β is the first that leaves the stopping rule's gap within its margin: doubled while the records are known too well,
    halved while less than strangers', then interpolated, which costs a check each (:meth:`next_beta`). The distillation
    brings some of the records back, so at its checks as much more of the vector is subtracted, or less, as keeps the
    gap at 0 (:meth:`further`): one distillation is enough. Terms that any method can be given may join it (``keep``,
    which holds what is not scored).

    Attributes:
        beta: the first β, and the only one where no rule steers.
        most: the largest β. 1 is what the records change in the base; far above it a gap that stays is a poor aim.
        tries: how many β at most before the distillation.
        tuning_epochs: passes over the forget records while the base is tuned on them.
        rate: peak learning rate of that, in multiples of ``--lr``, where ``--strengthen-lr`` is not given.
    """

    beta: float = 1.0
    most: float = 2.0
    tries: int = 4
    tuning_epochs: int = 8
    rate: float = 2.0

    needs: ClassVar[tuple[str, ...]] = ("replay", "retain")
    start: ClassVar[Literal["original", "base", "negated"]] = "negated"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise UserError(f"--method-arg {field.name} is {getattr(self, field.name)}; it must be above 0.")
        if self.beta > self.most:
            raise UserError(f"--method-arg beta is {self.beta:g}, above the largest that is tried: most={self.most:g}.")

    def tuned_on(self, forget: list[Encoded], retain: list[Encoded]) -> list[list[Encoded]]:
        """The records that the base is tuned on, of each vector.

        Args:
            forget: with their rewordings, which the vector is of, too.
        """
        return [forget]

    def next_beta(self, gaps: Mapping[float, float], margin: float) -> float | None:
        """The β to try next, or None where one of those tried will do, or enough were.

        Args:
            gaps: β → the rule's gap with it: positive where the records are still known too well.
            margin: the rule's.
        """
        if len(gaps) >= self.tries or any(abs(gap) <= margin for gap in gaps.values()):
            return None
        too_small, too_large = ([b for b, gap in gaps.items() if (gap > 0) is known] for known in (True, False))
        if not too_large:
            found = min(2 * max(too_small), self.most)
        elif not too_small:
            found = min(too_large) / 2
        else:
            low, high = max(too_small), min(too_large)
            found = round(low + (high - low) * gaps[low] / (gaps[low] - gaps[high]), 4)
        return None if found in gaps else found

    def further(self, beta: float, gap: float, rise: float, slope: float, share: float = 1.0) -> float:
        """How much more of the vector to subtract (negative: less) where the distillation has brought records back.

        Args:
            beta: what has been subtracted by now.
            gap: the rule's, now.
            rise: of the gap since the last check, beyond what was subtracted there. Half as much is expected again.
            slope: by how much the gap falls with β (:func:`slope`); not above 0: nothing can be said.
            share: of what that comes to.
        """
        if slope <= 0:
            return 0.0
        more = share * min(max((gap + rise / 2) / slope, -LARGEST_STEP), LARGEST_STEP)
        more = min(max(beta + more, 0.0), self.most) - beta
        return more if abs(more) >= SMALLEST_STEP else 0.0

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return []


SMALLEST_STEP, LARGEST_STEP = 0.005, 0.5
"""Of β, at one check: less is not worth reading the vector."""

APART = 0.25
"""Of two β whose gaps tell how fast it falls: nearer ones differ by little more than chance."""


def slope(gaps: Mapping[float, float], beta: float) -> float:
    """By how much the gap falls with β near ``beta``, one of ``gaps``: β → gap, of which 0 is the original's.

    From the nearest smaller β that is :data:`APART` or more; beyond ``beta`` it may have fallen as far as it can, and a
    slope that is taken too small would have β swing. Where it does not fall between the two, from the original.
    """
    nearest = max((b for b in gaps if b <= beta - APART), default=0.0)
    found = [(gaps[b] - gaps[beta]) / (beta - b) for b in (nearest, 0.0) if b < beta]
    return next((one for one in found if one > 0), 0.0)
