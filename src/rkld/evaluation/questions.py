"""Losses of a question's right, paraphrased and wrong answers: what TOFU's metrics are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rkld.evaluation.likelihood import answer_scores
from rkld.evaluation.tofu import truth_ratio

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded, Encoder
    from rkld.records.record import Record


def encode_answers(encoder: Encoder, records: Sequence[Record]) -> list[Encoded]:
    """Each record's question with each of its answers: the right, the paraphrased, the k perturbed; (n · (2 + k)).

    The right answer stands in where a record has no ``paraphrased_answer`` (real authors, world facts).

    Raises:
        ValueError: a record without ``perturbed_answer``, or with another number of them than the first.
    """
    variants = []
    for record in records:
        wrong = record.extra.get("perturbed_answer") or []
        if not wrong or len(wrong) != len(records[0].extra["perturbed_answer"]):
            raise ValueError(f"{record.where} has {len(wrong)} perturbed answers; every record needs equally many")
        # The record itself, not its text: thoughts and tool calls are no content.
        reworded = record.extra.get("paraphrased_answer")
        answers = [record, record.with_answer(reworded) if reworded else record, *map(record.with_answer, wrong)]
        variants += [replace(answer, key=f"{record.key}.{i}") for i, answer in enumerate(answers)]
    return [encoder.encode(record) for record in variants]


def question_scores(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Record], encoded: Sequence[Encoded] | None = None
) -> list[list[Scores]]:
    """Scores of each record's answers, in the order of :func:`encode_answers`: (n) lists of 2 + k.

    The answers to a question are read in one pass over it. ``encoded``: the answers as encode_answers
    returns them, for a model that is measured repeatedly: encoding takes longer than reading.
    """
    if not records:
        return []
    scores = answer_scores(lm, encode_answers(encoder, records) if encoded is None else encoded)
    each = len(scores) // len(records)
    return [scores[start : start + each] for start in range(0, len(scores), each)]


def mean_losses(scores: Sequence[Sequence[Scores]]) -> dict[str, np.ndarray]:
    """Mean loss per answer token, as :func:`rkld.evaluation.tofu.model_utility` takes them, of question_scores'.

    Returns:
        ``gold_loss`` (n,), ``paraphrase_loss`` (n,) and ``perturbed_loss`` (n, k), in nats per token.
    """
    if not scores:
        raise ValueError("there are no questions, so they have no mean losses")
    table = np.array([[answer.losses.mean() for answer in answers] for answers in scores])  # (n, 2 + k)
    return {"gold_loss": table[:, 0], "paraphrase_loss": table[:, 1], "perturbed_loss": table[:, 2:]}


def question_losses(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> dict[str, np.ndarray]:
    """:func:`mean_losses` of the records' :func:`question_scores`."""
    return mean_losses(question_scores(lm, encoder, records))


def truth_ratios(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> np.ndarray:
    """:func:`rkld.evaluation.tofu.truth_ratio` of each record, (n,)."""
    losses = question_losses(lm, encoder, records)
    return truth_ratio(losses["paraphrase_loss"], losses["perturbed_loss"])
