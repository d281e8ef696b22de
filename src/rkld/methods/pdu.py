"""PDU: the likeliest token's logit levelled, retain loss held by a bound (Entesari et al. 2025, arXiv 2506.05314)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rkld.errors import UserError
from rkld.losses.objective import Constraint, Term, answer
from rkld.losses.targets import RowLoss, to_labels
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("pdu")
@dataclass(frozen=True)
class PDU(Method):
    """``(max_v l_v − mean_v l_v)²`` on forget records' logits, so that cross-entropy on retain records stays below ε.

    The bound is held by a weight λ that each step moves by ``rate · (loss − ε)``, never below 0 (primal–dual). As in
    the authors' code (open-unlearning), with the values of their TOFU runs; a step there is a micro-batch, here one of
    the optimizer.

    Attributes:
        bound: ε, in nats per token: what retain records may cost.
        hold: λ at the beginning.
        rate: of λ's steps, per nat.
        wait: epochs before λ moves.
    """

    bound: float = 0.3
    hold: float = 100.0
    rate: float = 5.0
    wait: int = 5

    needs: ClassVar[tuple[str, ...]] = ("retain",)
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    def __post_init__(self) -> None:
        if self.hold <= 0 or self.rate < 0 or self.wait < 0:
            raise UserError(
                f"--method-arg hold is {self.hold}, rate {self.rate} and wait {self.wait}; hold must be above 0, the "
                "others 0 or more."
            )

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        bounded = Constraint(self.bound, self.rate, self.wait)
        held = Term("hold", "retain", answer, to_labels, self.hold, constraint=bounded)
        return [*super().terms(teacher, sets, lm), held]

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            largest, index = logits.max(-1, keepdim=True)
            height = largest - logits.mean(-1, keepdim=True)
            gradient = spare[0].copy_(height.mul(-2 / logits.shape[-1]).expand_as(logits))
            return height.squeeze(-1).square(), gradient.scatter_add_(-1, index, 2 * height)

        return loss
