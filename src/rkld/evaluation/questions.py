"""Losses of a question's right, paraphrased and wrong answers: what TOFU's metrics are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.tofu import truth_ratio

if TYPE_CHECKING:
    from rkld.encoding import Encoder
    from rkld.models import LanguageModel
    from rkld.records import Record


def question_losses(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Mean loss per answer token of each record's answers, as :func:`rkld.evaluation.tofu.model_utility` takes them.

    Returns:
        ``gold_loss`` (n,), ``paraphrase_loss`` (n,) and ``perturbed_loss`` (n, k), in nats per token. The right
        answer stands in where a record has no ``paraphrased_answer`` (real authors, world facts).

    Raises:
        ValueError: a record without ``perturbed_answer``, or with another number of them than the first.
    """
    variants = []
    for record in records:
        wrong = record.extra.get("perturbed_answer") or []
        if not wrong or len(wrong) != len(records[0].extra["perturbed_answer"]):
            raise ValueError(f"{record.where} has {len(wrong)} perturbed answers; every record needs equally many")
        answers = [record.answer, record.extra.get("paraphrased_answer") or record.answer, *wrong]
        variants += [replace(record.with_answer(a), key=f"{record.key}.{i}") for i, a in enumerate(answers)]
    losses = answer_losses(lm, [encoder.encode(record) for record in variants])
    table = np.array([loss.mean() for loss in losses]).reshape(len(records), -1)  # (n, 2 + k)
    return {"gold_loss": table[:, 0], "paraphrase_loss": table[:, 1], "perturbed_loss": table[:, 2:]}


def truth_ratios(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> np.ndarray:
    """:func:`rkld.evaluation.tofu.truth_ratio` of each record, (n,)."""
    losses = question_losses(lm, encoder, records)
    return truth_ratio(losses["paraphrase_loss"], losses["perturbed_loss"])
