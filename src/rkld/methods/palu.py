"""PALU: each fact's first tokens levelled among the likeliest logits (Zhai et al. 2026, arXiv 2601.03190, ACL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rkld.errors import UserError
from rkld.losses.objective import Term, scored
from rkld.losses.targets import RowLoss
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("palu")
@dataclass(frozen=True)
class PALU(Method):
    """``mean_{v ∈ top} (l_v − mean_u l_u)²`` with top the original's likeliest tokens, and retain cross-entropy.

    As in the authors' code. There facts alone are scored, ``--score spans``, and the words around them held to the
    original, which ``--keep-weight`` does here (by forward KL; theirs is the reverse).

    Attributes:
        top: how many tokens of the vocabulary are levelled.
        first: how many tokens of each fact (a run of scored ones), from its first; 0: all.
    """

    top: int = 1  # both are the authors' (theirs of "all" is −1); they search 1 to 10000, and 1 to 10
    first: int = 0

    cached: ClassVar[tuple[str, ...]] = ("original",)
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def __post_init__(self) -> None:
        if self.top < 1 or self.first < 0:
            raise UserError(
                f"--method-arg top is {self.top} and first {self.first}; top must be 1 or more, first 0 or more."
            )

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        def beginnings(encoded: Encoded) -> Sequence[bool]:
            found, run = [], 0
            for marked in scored(encoded):
                run = run + 1 if marked else 0
                found.append(0 < run <= (self.first or run))
            return found

        return [Term("forget", "forget", beginnings, self.loss(teacher), self.weight, cached=self.cached)]

    def loss(self, teacher: Teacher) -> RowLoss:
        def loss(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            size = logits.shape[-1]
            top = min(self.top, size)
            index = teacher.original(inputs, spare).topk(top, dim=-1).indices
            height = logits.gather(-1, index) - logits.mean(-1, keepdim=True)  # (n, top)
            gradient = spare[0].copy_((height.sum(-1, keepdim=True) * (-2 / (top * size))).expand_as(logits))
            return height.square().mean(-1), gradient.scatter_add_(-1, index, height * (2 / top))

        return loss
