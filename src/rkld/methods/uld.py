"""ULD: an assistant that knows the forget set alone, its logits subtracted (Ji et al. 2024, arXiv 2406.08607)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rkld.errors import UserError
from rkld.losses.divergences import to_uniform
from rkld.losses.objective import Term, answer
from rkld.methods.method import LogitArithmetic
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("uld")
@dataclass(frozen=True)
class LogitOffset(LogitArithmetic):
    """``l_o − offset · l_a`` (eq. 4), for tokens that the original holds likely; the others keep ``l_o``.

    The assistant learns the forget answers and, with weight ``hold``, the uniform distribution on retain answers (on
    replayed ones where there are none), so that it takes nothing from them. The authors' assistant is the original's
    first eight blocks with LoRA, for speed; ours is whole. They add paraphrases to both sets.

    Attributes:
        offset: strength of the subtraction.
        floor: tokens below this share of the likeliest one's probability keep their logits; a share ``floor`` of the
            vocabulary, the likeliest tokens, never do.
        hold: weight of the uniform term.
    """

    offset: float = 0.8  # these three are the authors', on TOFU
    floor: float = 0.01
    hold: float = 5.0

    needs: ClassVar[tuple[str, ...]] = ("retain", "replay")
    accepts_extra_terms: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.floor < 1:
            raise UserError(f"--method-arg floor is {self.floor}; it must lie between 0 and 1.")

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        others = "retain" if "retain" in sets else "replay"
        uniform = Term("uniform", others, answer, lambda logits, _, spare: to_uniform(logits, spare[0]), self.hold)
        return [*super().terms(teacher, sets, lm), uniform]

    def logits(self, original: Tensor, assistant: Tensor, alpha: float) -> Tensor:
        kept = max(1, int(self.floor * original.shape[-1]))
        least = original.kthvalue(original.shape[-1] - kept + 1, dim=-1, keepdim=True).values
        likely = original >= torch.minimum(least, original.amax(-1, keepdim=True) + math.log(self.floor))
        return original - self.offset * torch.where(likely, assistant, 0)
