"""UNDIAL: self-distillation with the gold token's logit lowered (Dong et al. 2024, arXiv 2402.10052; NAACL 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rkld.losses.chunked import RowLoss
from rkld.losses.divergences import forward_kl
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.teacher.logits import Teacher


@METHODS.register("undial")
@dataclass(frozen=True)
class UNDIAL(Method):
    """``KL(softmax(l_o − β · onehot(y)) ‖ π_θ)``: the paper's cross-entropy to this target, less its entropy."""

    beta: float = 10.0  # of 3, 10 and 30, which the authors advise

    cached: ClassVar[tuple[str, ...]] = ("original",)

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            target = teacher.original(inputs, spare)
            labels = inputs["labels"][:, None]
            target.scatter_add_(-1, labels, target.new_full(labels.shape, -self.beta))
            target.sub_(torch.logsumexp(target, dim=-1, keepdim=True))
            return forward_kl(logits, target, spare[1])

        return loss
