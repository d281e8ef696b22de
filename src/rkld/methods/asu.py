"""ASU: towards the original with its attention smoothed (Zare Zade et al. 2026, arXiv 2603.01285, ICLR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rkld.errors import UserError
from rkld.losses.divergences import forward_kl
from rkld.losses.objective import Term, scored
from rkld.losses.targets import Loss, Towards
from rkld.methods.method import Method
from rkld.methods.registry import METHODS
from rkld.models.language_model import LanguageModel
from rkld.models.smoothed_attention import scaled
from rkld.records.encoding import Encoded
from rkld.teacher.logits import Teacher


@METHODS.register("asu")
@dataclass(frozen=True)
class ASU(Method):
    """``KL(π_τ ‖ π_θ)``, π_τ the original whose attention is ``softmax(q·k / (τ √d))`` in every layer that has one.

    In a hybrid the other layers stay as they are. A mean over each answer, then over answers. Facts hang on precise
    attention, function words less. The equations were read in readers' notes on the paper, which itself could not be
    had.

    Attributes:
        temperature: τ; results are said to be alike from 2 to 2.8.
    """

    temperature: float = 2.4  # the middle of the paper's range; what it takes could not be read

    def __post_init__(self) -> None:
        if not 1 <= self.temperature <= 1000:
            raise UserError(f"--method-arg temperature is {self.temperature}; it must lie in [1, 1000].")

    @property
    def _states(self) -> str:
        return f"smoothed{self.temperature:f}".rstrip("0").rstrip(".")

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        scaled(lm.backbone)  # or it is refused before time is spent
        return [Term("forget", "forget", scored, self.loss(teacher), self.weight, "record", cached=(self._states,))]

    def remarks(self, lm: LanguageModel) -> list[str]:
        smoothed, layers = len(scaled(lm.backbone)), lm.inner.config.get_text_config().num_hidden_layers
        if smoothed >= layers:
            return []
        what = f"{smoothed} attention modules of a model of {layers} layers are smoothed"
        return [f"{self.name}: {what}; the other layers stay as they are, and may still say what is to be forgotten."]

    def loss(self, teacher: Teacher) -> Loss:
        return Towards(forward_kl, teacher.of_states(self._states))
