"""PMC: trained on its own answers, those least like its first (Scholten et al. 2025, arXiv 2507.04219)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rkld.errors import UserError
from rkld.losses.objective import OWN, Term, answer
from rkld.losses.targets import to_labels
from rkld.methods.method import Method, OwnAnswers
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("pmc")
@dataclass(frozen=True)
class PartialModelCollapse(Method):
    """``−log π_θ(ŷ | x)`` with ŷ the student's own answer, and cross-entropy on retain records: partial model collapse.

    No recorded answer of the forget records is read.

    Of ``samples`` answers that the student draws at the beginning of an epoch, and the one taken in the epoch before,
    ŷ is that which says least of the original's own greedy answer (ROUGE-L recall). The authors draw at every step; the
    weight is one over theirs of the retain loss.

    Attributes:
        samples, temperature, top_p: of the draw.
    """

    samples: int = 20  # these four are the authors', for Llama-3.2-3B-Instruct on TOFU
    temperature: float = 0.9
    top_p: float = 0.95
    weight: float = 1 / 1.25

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "rt"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"--method-arg samples is {self.samples}, temperature {self.temperature} and top_p {self.top_p}; "
                "samples must be 1 or more, the temperature above 0 and top_p in (0, 1]."
            )

    @property
    def own_answers(self) -> OwnAnswers:
        return OwnAnswers(self.samples, self.temperature, self.top_p, unlike=True)

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        return [Term("own", "forget" + OWN, answer, to_labels, self.weight)]
