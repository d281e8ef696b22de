"""RMU: forget text's hidden states steered to a random direction, others held (Li et al. 2024, arXiv 2403.03218)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rkld.errors import UserError
from rkld.losses.objective import StateTerm, Term, answer, scored
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("rmu")
@dataclass(frozen=True)
class RMU(Method):
    """``‖h_θ − c·u‖² / d`` on forget records plus ``hold · ‖h_θ − h_o‖² / d`` on retain (else replayed) ones (eq. 3–5).

    h are the outputs of one block, u a unit vector drawn from the seed with entries in [0, 1). As in the authors' code
    squares are averaged over the d dimensions. They train three blocks' MLPs and read every token; here all weights up
    to the block are trained, and the states read are those that predict the marked tokens.

    Attributes:
        layer: the block, from 0; None: 7 of 32 as for Zephyr-7B, in proportion.
        coefficient: c. It depends on the model: the norm of its states is a few units to some hundreds.
        hold: weight of the retain term.
        seed: of u.
    """

    layer: int | None = None
    coefficient: float = 6.5
    hold: float = 1200.0
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("retain", "replay")
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        config = lm.inner.config.get_text_config()
        blocks, d = config.num_hidden_layers, config.hidden_size
        layer = min(round(blocks * 7 / 32), blocks - 2) if self.layer is None else self.layer
        if not 0 <= layer < blocks - 1:
            raise UserError(f"--method-arg layer is {layer}; this model has blocks 0 to {blocks - 2} to choose from.")
        direction = torch.rand(d, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        direction *= self.coefficient / direction.norm()
        part = f"layer{layer}"

        def steer(states: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
            states = _accurate(states)
            return (states - direction.to(states)).square().mean(-1)

        def hold(states: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
            return (_accurate(states) - inputs[part]).square().mean(-1)

        others = "retain" if "retain" in sets else "replay"
        return [
            StateTerm("forget", "forget", scored, steer, layer=layer),
            StateTerm("hold", others, answer, hold, self.hold, cached=(part,), layer=layer),
        ]


def _accurate(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
