"""UNDO: an unlearned model distilled into a noised copy of the original (Lee et al. 2025, arXiv 2506.06278)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from rkld.errors import UserError
from rkld.losses.divergences import forward_kl
from rkld.losses.targets import Loss, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.models.sharded import like
from rkld.models.state import trainable_state
from rkld.teacher.logits import Teacher


@METHODS.register("undo")
@dataclass(frozen=True)
class UNDO(Method):
    """The student starts as ``(1 − share) θ_o + share · noise · N`` and learns, by forward KL, what the unlearned says.

    N is Xavier's uniform initialisation of matrices, 0 for vectors, as in the authors' code. They unlearn first by a
    method of choice and distil on pretraining data. Here the unlearned model is RKLD's teacher (``l_o − α ReLU(l_aug −
    l_o)``) on the forget records and the original on the others, which are what brings the rest back: give many.

    Attributes:
        share: of the weights that is replaced: more of it forgets more surely, and takes more to repair.
        noise: scale of N.
        seed: of N; None: the run's.
    """

    share: float = 0.25  # the authors', on WMDP
    noise: float = 0.1
    seed: int | None = None

    cached: ClassVar[tuple[str, ...]] = ("original", "strengthened")
    needs: ClassVar[tuple[str, ...]] = ("replay", "retain")
    changes_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.noise <= 1:
            raise UserError(
                f"--method-arg share is {self.share} and noise {self.noise}; both must lie between 0 and 1."
            )

    @torch.no_grad()
    def begin(self, lm: LanguageModel, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed if self.seed is None else self.seed)
        for parameter in trainable_state(lm).values():
            parameter.mul_(1 - self.share)
            if parameter.dim() > 1:
                drawn = nn.init.xavier_uniform_(torch.empty(parameter.shape), generator=chance)
                parameter.add_(like(drawn.to(parameter.dtype), parameter), alpha=self.share * self.noise)

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(forward_kl, teacher.composite)
