"""AltPO: other plausible answers preferred to the recorded ones (Mekala et al. 2024, arXiv 2409.13474, COLING 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.losses.objective import ALTERNATES, Term
from rkld.methods.dpo import preference
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("altpo")
@dataclass(frozen=True)
class AltPO(Method):
    """DPO with an untrue answer in the place of the refusal, beside cross-entropy on retain records.

    The authors have the model itself write the untrue answers, five to a question. Here there is one, the same for each
    seed: of the record's ``perturbed_answer``, else the recorded one with every fact replaced by another of its kind.
    """

    beta: float = 0.1  # the authors', on TOFU

    alternates: ClassVar[tuple[str, ...]] = ("forget",)
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return [preference("forget" + ALTERNATES, self.beta, self.weight)]
