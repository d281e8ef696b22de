"""MSA: what records change in the base subtracted, what others change added (Rezaei et al. 2025, arXiv 2506.20941)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.methods.base_vector import BaseVector
from rkld.methods.registry import METHODS
from rkld.records.encoding import Encoded


@METHODS.register("msa")
@dataclass(frozen=True)
class ModelStateArithmetic(BaseVector):
    """``θ_o − β (θ_f − θ_base) + retained (θ_r − θ_base)``: the base tuned on forget records, and on retain records.

    Nothing is trained afterwards (:class:`rkld.methods.base_vector.BaseVector` distils). Without ``--retain`` the
    second vector is left out. β is the paper's α, of which the authors try 1, 1.5 and 2; it is found as there.

    Attributes:
        tuning_epochs, rate: as of ``base_vector``, for both vectors.
        retained: weight of the second vector, the paper's β.
    """

    tuning_epochs: int = 10  # these three are the authors'
    rate: float = 1.0
    retained: float = 1.0

    needs: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False
    accepts_extra_terms: ClassVar[bool] = False
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    def tuned_on(self, forget: list[Encoded], retain: list[Encoded]) -> list[list[Encoded]]:
        return [forget, retain] if retain else [forget]
