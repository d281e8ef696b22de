"""JensUn: Jensen–Shannon divergence to a few words that say nothing (Singh et al. 2025, arXiv 2509.02820)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rkld.errors import UserError
from rkld.losses.divergences import jensen_shannon, jensen_shannon_to
from rkld.losses.objective import Term, answer, scored
from rkld.losses.targets import Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("jensun")
@dataclass(frozen=True)
class JensUn(Method):
    """``JS(π_θ, onehot)`` on forget records and ``JS(π_θ, π_o)`` on retain (else replayed) ones, both at most log 2.

    Behind the recorded answer's tokens, one after another, the student learns to be certain of the tokens of ``words``,
    again and again. As in the authors' code.

    Attributes:
        words: what is said, token by token.
        hold: weight of the retain term.
    """

    words: str = "No idea"  # the authors', as the weights are
    hold: float = 1.0

    needs: ClassVar[tuple[str, ...]] = ("retain", "replay")
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        pattern: list[int] = lm.tokenizer.encode(self.words, add_special_tokens=False)
        if not pattern:
            raise UserError(f"--method-arg words is {self.words!r}, which this model's tokenizer makes no token of.")

        def said(encoded: Encoded) -> list[int]:
            found, place = [], 0
            for marked in encoded.answer:
                found.append(pattern[place % len(pattern)])
                place += marked
            return found

        def forget(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
            return jensen_shannon_to(logits, inputs["labels"], spare[0])

        hold = Towards(jensen_shannon, teacher.original)
        others = "retain" if "retain" in sets else "replay"
        return [
            Term("forget", "forget", scored, forget, self.weight, labels=said),
            Term("hold", others, answer, hold, self.hold, cached=("original",)),
        ]
