"""Fluency: how likely another model, the original, finds a model's answers.

How much an answer repeats itself is measured by :func:`rkld.text.facts.repetition`.

Shapes: ``n`` records, ``N`` tokens of one answer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rkld.evaluation.arrays import harmonic_mean, vectors
from rkld.evaluation.likelihood import answer_losses

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded, Encoder
    from rkld.records.record import Record


def perplexity(losses: Sequence[ArrayLike]) -> np.ndarray:
    """``exp`` of the mean loss per token, per record; n arrays (N,) of nats → (n,). ValueError for an empty one."""
    return np.exp([record.mean() for record in vectors(losses, "losses")])


def utility_score(
    *, model_utility: float, fluency: float, initial_model_utility: float, initial_fluency: float
) -> float:
    """OpenUnlearning's Util: harmonic mean of model utility and fluency, over that of the model before unlearning.

    Dorna et al. 2025 (arXiv 2506.12618). All four lie in [0, 1]; fluency is there the mean probability, by a
    classifier, that answers on the forget set are no gibberish. About 1 where nothing was lost, 0 where either is 0.
    ValueError where a value is outside, or the initial score is 0.
    """
    initial = harmonic_mean([initial_model_utility, initial_fluency], "the initial utility and fluency")
    if initial == 0:
        raise ValueError("the initial model's utility or fluency is 0: nothing can be compared with it")
    return harmonic_mean([model_utility, fluency], "utility and fluency") / initial


def answers_under(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Record], answers: Sequence[str]
) -> list[np.ndarray]:
    """Losses that ``lm`` has on given answers to the records' last questions; n arrays (N,) float64, nats.

    Plain texts are continued from their prefix. The end of turn is left out, as an answer may have been cut before it;
    an empty answer is nothing else, so its one loss is that of ending at once. Answers are tokenized anew; what runs
    past the context is left out. ValueError where there is not one answer per record.
    """
    cutting = copy.copy(encoder)  # tokenized anew, an answer of odd characters can become longer than it was
    cutting.max_length = encoder.max_length or encoder.context_length
    special = set(lm.tokenizer.all_special_ids)
    pairs = zip(records, answers, strict=True)
    return answer_losses(lm, [_own(cutting, record, answer, special) for record, answer in pairs])


def _own(encoder: Encoder, record: Record, answer: str, special: set[int]) -> Encoded:
    """The record with this answer, of which the content alone is marked, or the end of turn where there is none."""
    if record.form == "text":
        prompt = encoder.prompt(record)
        prefix = encoder.tokenizer.decode(prompt, skip_special_tokens=True)
        encoded = encoder.encode(record.with_answer(prefix + answer))
        pairs = enumerate(zip(prompt, encoded.ids, strict=False))
        begin = next((t for t, (there, here) in pairs if there != here), len(prompt))
    else:
        encoded = encoder.encode(encoder.answered(record, answer if answer.strip() else "x"))
        begin = encoded.prompt_length
    marked = [t for t in range(begin, len(encoded.ids)) if encoded.answer[t]]
    content = {t for t in marked if encoded.ids[t] not in special}
    if content and answer.strip():
        return replace(encoded, answer=tuple(t in content for t in range(len(encoded.ids))))
    ends = [encoded.ids[t] for t in marked if t not in content] or [encoder.tokenizer.eos_token_id]
    ids = (*encoded.ids[:begin], *ends)
    return replace(encoded, ids=ids, answer=tuple(t >= begin for t in range(len(ids))))
