"""IDK: fine-tuning on refusals to the forget questions (TOFU, Maini et al. 2024, arXiv 2401.06121, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.losses.objective import REFUSALS, Term, answer
from rkld.losses.targets import to_labels
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("idk")
@dataclass(frozen=True)
class Refusal(Method):
    """``−log π_θ(y_idk | x)``, with one refusal per question drawn from the seed (TOFU draws anew each time).

    TOFU has cross-entropy on retain records beside it."""

    refusals: ClassVar[tuple[str, ...]] = ("forget",)
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return [Term("forget", "forget" + REFUSALS, answer, to_labels, self.weight)]
