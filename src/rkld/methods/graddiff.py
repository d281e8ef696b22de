"""GradDiff, gradient difference (Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121, section 3): GA + RT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.methods.gradient_ascent import GradientAscent
from rkld.methods.registry import METHODS


@METHODS.register("graddiff")
@dataclass(frozen=True)
class GradDiff(GradientAscent):
    """Gradient ascent on the forget answers, plus cross-entropy on those to keep."""

    needs: ClassVar[tuple[str, ...]] = ("retain",)
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"
