"""Fluency: how likely another model, the original, finds a model's answers, and which of them are gibberish.

An answer is gibberish where one of three figures is beyond its bound. Each finds what the others miss:

- its loss under the original (:data:`LOSS_BOUND`): random tokens, and a salad of words that each exist;
- how much it repeats itself (:data:`REPETITION_BOUND`): "isisisis", which a language model soon finds likely;
- the share of its words that anybody knows (:data:`KNOWN_BOUND`): broken words, where there is no original to ask.

Shapes: ``n`` records, ``N`` tokens of one answer.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rkld.evaluation.arrays import harmonic_mean, vectors
from rkld.evaluation.likelihood import answer_losses
from rkld.records.refusals import read_refusals
from rkld.text.facts import repetition
from rkld.text.normalising import words
from rkld.text.wording import common_words, is_english

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded, Encoder
    from rkld.records.record import Record


LOSS_BOUND = 9.0
"""Nats per token that the original may give an answer at most. Honest answers of SmolLM2-135M have 1.1, those of a tiny
model in wordings that its overfitted original never met 8.6; salads of common words 10 and more under both."""

REPETITION_BOUND = 0.9
"""Share of an answer that may repeat what stands before it, of runs of words or of characters. Small models that are
sound do loop: SmolLM2-135M's answers have .67 at most; "isisis" .98."""

KNOWN_BOUND = 0.25
"""Share of an answer's words that must be known at least, where it has :data:`FEWEST_WORDS`."""

FEWEST_WORDS = 4
"""Of which a share of known words is taken: a single name may be new to everybody."""

RUN = 6
"""Characters of a run that counts as a repetition."""

FEWEST_RUNS = 20
"""Of characters, of which a share is taken."""


def gibberish(
    answers: Sequence[str], losses: Sequence[float] | None = None, known: Collection[str] | None = None
) -> list[bool]:
    """Which of n answers are gibberish, by the bounds above. An empty answer is: it says nothing.

    Args:
        answers: (n,) as they were generated.
        losses: (n,) mean nats per token of each under the original (:func:`answers_under`); None: not judged.
        known: words of the original's answers, of questions and of records (:func:`vocabulary`); None: not judged.

    Raises:
        ValueError: there is not one loss per answer.
    """
    of = [None] * len(answers) if losses is None else list(losses)
    return [_is_gibberish(answer, loss, known) for answer, loss in zip(answers, of, strict=True)]


def _is_gibberish(answer: str, loss: float | None, known: Collection[str] | None) -> bool:
    share = None if known is None else known_words(answer, known)
    return (
        not answer.strip()
        or (loss is not None and loss > LOSS_BOUND and not _is_refusal(answer))
        or repeated(answer) > REPETITION_BOUND
        or (share is not None and share < KNOWN_BOUND)
    )


def _is_refusal(answer: str) -> bool:
    """Whether it is one of the refusals that are shipped: a model of few records need not know them."""
    return tuple(words(answer)) in _refusals()


@cache
def _refusals() -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(words(refusal)) for refusal in read_refusals())


def repeated(text: str) -> float:
    """Share of a text that repeats what stands before it, in [0, 1], whatever it has for words.

    The larger of :func:`rkld.text.facts.repetition` and the same over runs of :data:`RUN` characters, white space
    counted once, where there are :data:`FEWEST_RUNS`.
    """
    line = " ".join(text.split())
    runs = [line[i : i + RUN] for i in range(len(line) - RUN + 1)]
    of_characters = 1 - len(set(runs)) / len(runs) if len(runs) >= FEWEST_RUNS else 0.0
    return max(repetition(text), of_characters)


def vocabulary(texts: Iterable[str]) -> frozenset[str] | None:
    """The words of texts that a sound model said or was asked, for :func:`known_words`.

    None where they say nothing, or most of them is not English, for which alone a list is shipped: a few answers do
    not hold all words of a language, so those of another answer would be unknown without being broken.
    """
    joined = "\n".join(texts)
    return frozenset(words(joined)) if joined.strip() and is_english(joined) else None


def known_words(text: str, known: Collection[str] = frozenset()) -> float | None:
    """Share of a text's words, numbers left out, that are common English ones or ``known``; in [0, 1].

    None where it has fewer than :data:`FEWEST_WORDS`.
    """
    found = [word for word in words(text) if not word.isdigit()]
    if len(found) < FEWEST_WORDS:
        return None
    return sum(word in known or word in common_words() for word in found) / len(found)


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
