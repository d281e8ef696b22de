"""Generation backends: what the readings need of a model, whether it is loaded here or served elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from rkld.evaluation.answering import answer_cap, greedy_answers
from rkld.evaluation.generation import greedy
from rkld.evaluation.prefilling import generation_prompts
from rkld.evaluation.sampling import sample

if TYPE_CHECKING:
    import numpy as np

    from rkld.evaluation.generation import Generated
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
        max_new_tokens: int | None,
        prefills: Sequence[str] | None = None,
        progress: Progress = None,
    ) -> list[list[Generated]]:
        """Greedy answers to the records, in their order: one for each mode of the template (one alone with prefills).

        ``max_new_tokens`` is the longest; None: as long as :func:`rkld.evaluation.answering.answer_cap` has it.
        ``prefills`` are beginnings of the answers (one per record, "" for none), which the model continues as if they
        were its own; they are not repeated in what is returned. White space at a prefill's end belongs to what follows.
        """

    def samples(
        self, records: Sequence[Record], n: int, *, seed: int, max_new_tokens: int | None, progress: Progress = None
    ) -> list[list[Generated]]:
        """n answers to each record, drawn at temperature 1 from the whole distribution."""

    def continuations(
        self, prompts: Sequence[Sequence[int]], caps: Sequence[int], *, progress: Progress = None
    ) -> list[Generated]:
        """What comes greedily behind each prompt (token ids), at most so many new tokens."""

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
        max_new_tokens: int | None,
        prefills: Sequence[str] | None = None,
        progress: Progress = None,
    ) -> list[list[Generated]]:
        """See :meth:`GenerationBackend.answers`."""
        prompts = None if prefills is None else [[p] for p in generation_prompts(self.encoder, records, prefills)]
        return greedy_answers(
            self.lm,
            self.encoder,
            records,
            max_new_tokens=max_new_tokens,
            prompts=prompts,
            follow=True,
            progress=progress,
        )

    def samples(
        self, records: Sequence[Record], n: int, *, seed: int, max_new_tokens: int | None, progress: Progress = None
    ) -> list[list[Generated]]:
        """See :meth:`GenerationBackend.samples`."""
        prompts = generation_prompts(self.encoder, records)
        caps = [answer_cap(self.encoder, record, max_new_tokens=max_new_tokens) for record in records]
        return sample(self.lm, prompts, n, seed=seed, max_new_tokens=caps, progress=progress)

    def continuations(
        self, prompts: Sequence[Sequence[int]], caps: Sequence[int], *, progress: Progress = None
    ) -> list[Generated]:
        """See :meth:`GenerationBackend.continuations`."""
        return greedy(self.lm, prompts, max_new_tokens=caps, progress=progress)

    def losses(self, records: Sequence[Record]) -> list[np.ndarray]:
        """See :meth:`GenerationBackend.losses`."""
        from rkld.evaluation.likelihood import answer_losses

        return answer_losses(self.lm, [self.encoder.encode(record) for record in records])
