"""IDK: fine-tuning on refusals to the forget questions (TOFU, Maini et al. 2024, arXiv 2401.06121, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from rkld.losses.answers import to_labels
from rkld.losses.objective import REFUSALS, Term, answer
from rkld.methods.method import Method
from rkld.methods.registry import METHODS


@METHODS.register("idk")
@dataclass(frozen=True)
class Refusal(Method):
    """``−log π_θ(y_idk | x)``, with one refusal per question drawn from the seed (TOFU draws anew each time).

    TOFU has cross-entropy on retain records beside it."""

    refusals = ("forget",)
    retain_loss = "rt"

    def terms(self, teacher, sets, lm):
        return [Term("forget", "forget" + REFUSALS, answer, to_labels, self.weight)]
