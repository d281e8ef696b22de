"""One answer as it comes, token by token, and what would come next: for whoever watches a model.

Shapes: L tokens so far, V rows of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from rkld.evaluation.generation import can_go_on, default_generation_config, end_ids, ended, left_padded, room
from rkld.evaluation.sampling import chance_of, draw, next_logits

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel


class AnswerStream:
    """An answer that grows by a token with each :meth:`step`.

    At a temperature of 0 it is that of :func:`rkld.evaluation.generation.greedy`, else the first of
    :func:`rkld.evaluation.sampling.sample` with the same seed.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompt: Sequence[int],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int = 200,
    ) -> None:
        """UserError where the prompt (token ids) is empty or fills the context."""
        self.lm, self.temperature, self.top_p = lm, temperature, top_p
        self.cap = min(max_new_tokens, *room(lm, [prompt]))
        self.chance = chance_of(seed, 0, 0, max_new_tokens)
        self.new: list[int] = []
        """Token ids of the answer so far."""
        self._ends = end_ids(lm)
        self._ids, self._attention = left_padded([prompt], lm.device)
        self._cache: Any = None

    @property
    def finished(self) -> bool:
        """Whether it has come to its end, not merely to its longest length."""
        return ended(self.new, self._ends)

    @property
    def done(self) -> bool:
        """Whether no token follows."""
        return self.finished or len(self.new) >= self.cap

    @property
    def text(self) -> str:
        """The answer so far, without half of a character at its end."""
        text: str = self.lm.tokenizer.decode(self.new, skip_special_tokens=True)
        return text if self.done else text.rstrip("\ufffd")

    def step(self) -> None:
        """One token more. Between two steps the model may be used otherwise."""
        with default_generation_config(self.lm):
            logits, self._cache = next_logits(self.lm, self._ids, self._attention, self._cache)
        if self._cache is not None and not can_go_on(self._cache):
            self._cache = None  # a recurrent state: everything is read again
        if self.temperature > 0:
            row, chance = torch.zeros(1, dtype=torch.int64), torch.tensor([self.chance[len(self.new)]])
            token = int(draw(logits, row.to(logits.device), chance, self.temperature, self.top_p))
        else:
            token = int(logits.argmax())
        self.new.append(token)
        self._ids = torch.cat([self._ids, torch.tensor([[token]], device=self._ids.device)], dim=1)
        self._attention = torch.ones_like(self._ids)


def next_token_probabilities(lm: LanguageModel, prompt: Sequence[int]) -> torch.Tensor:
    """The probability of every token to follow the prompt (token ids): (V,) float64, on the CPU.

    UserError where the prompt is empty or fills the context.
    """
    room(lm, [prompt])
    with default_generation_config(lm):
        logits, _ = next_logits(lm, *left_padded([prompt], lm.device), None)
    return logits[0].double().softmax(dim=-1).cpu()
