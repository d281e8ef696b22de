"""Generation backends: what the readings need of a model, whether it is loaded here or served elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from rkld.auditing.prefilling import generation_prompts

if TYPE_CHECKING:
    import numpy as np

    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record

Progress = Callable[[int], object] | None
"""Called with the number of answers just made."""


class GenerationBackend(Protocol):
    """A model that answers records' last questions, and continues plain texts from their prefix."""

    def answers(
        self,
        records: Sequence[Record],
        *,
        max_new_tokens: int,
        prefills: Sequence[str] | None = None,
        progress: Progress = None,
    ) -> list[str]:
        """Greedy answers, one per record, in their order.

        ``prefills`` are beginnings of the answers (one per record, "" for none), which the model continues as if they
        were its own; they are not repeated in what is returned. White space at a prefill's end belongs to what follows.
        """

    def samples(
        self, records: Sequence[Record], n: int, *, seed: int, max_new_tokens: int, progress: Progress = None
    ) -> list[list[str]]:
        """n answers to each record, drawn at temperature 1 from the whole distribution."""

    def losses(self, records: Sequence[Record]) -> list[np.ndarray] | None:
        """Negative log-likelihood in nats of each answer token, end of turn included: per record float64 (tokens,).

        None where the model does not give it.
        """


class LocalBackend:
    """A model loaded here."""

    def __init__(self, lm: LanguageModel, encoder: Encoder) -> None:
        self.lm = lm
        self.encoder = encoder

    def answers(
        self,
        records: Sequence[Record],
        *,
        max_new_tokens: int,
        prefills: Sequence[str] | None = None,
        progress: Progress = None,
    ) -> list[str]:
        """See :meth:`GenerationBackend.answers`."""
        from rkld.evaluation.generation import greedy, known_prefixes
        from rkld.evaluation.likelihood import answer_scores

        known = None
        if prefills is None and all(record.answer for record in records):
            # What the model gives of the right answer in any case need not be generated.
            encoded = [self.encoder.encode(record) for record in records]
            known = known_prefixes(self.lm, encoded, answer_scores(self.lm, encoded))
        prompts = generation_prompts(self.encoder, records, prefills)
        generated = greedy(self.lm, prompts, max_new_tokens=max_new_tokens, starts=known, progress=progress)
        return [answer.text for answer in generated]

    def samples(
        self, records: Sequence[Record], n: int, *, seed: int, max_new_tokens: int, progress: Progress = None
    ) -> list[list[str]]:
        """See :meth:`GenerationBackend.samples`."""
        from rkld.evaluation.sampling import sample

        prompts = generation_prompts(self.encoder, records)
        generated = sample(self.lm, prompts, n, seed=seed, max_new_tokens=max_new_tokens, progress=progress)
        return [[answer.text for answer in some] for some in generated]

    def losses(self, records: Sequence[Record]) -> list[np.ndarray]:
        """See :meth:`GenerationBackend.losses`."""
        from rkld.evaluation.likelihood import answer_losses

        return answer_losses(self.lm, [self.encoder.encode(record) for record in records])
