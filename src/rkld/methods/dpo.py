"""DPO, refusals preferred to forget answers (Rafailov et al. 2023, arXiv 2305.18290; TOFU, arXiv 2401.06121)."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from rkld.losses.objective import REFUSALS, AnswerTerm, scored
from rkld.methods.method import Method
from rkld.methods.registry import METHODS


@METHODS.register("dpo")
@dataclass(frozen=True)
class DPO(Method):
    """``−2/β · log σ(β (log π_θ(y_idk)/π_o(y_idk) − log π_θ(y)/π_o(y)))`` on whole answers (DPO's eq. 7).

    The factor 2/β, as in NPO, keeps the size of the loss apart from β.
    """

    beta: float = 0.1  # both papers

    refusals = ("forget",)

    def terms(self, teacher, sets, lm):
        def loss(forget, refusal):
            gain = refusal.log_likelihood - refusal.reference - (forget.log_likelihood - forget.reference)
            return -2 / self.beta * logsigmoid(self.beta * gain)

        pair = "forget" + REFUSALS
        return [AnswerTerm("forget", "forget", scored, loss, self.weight, cached=("reference",), pair=pair)]
