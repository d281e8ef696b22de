"""What one check of the student reads: losses on the records that steer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.questions import question_losses
from rkld.evaluation.tofu import probability as probability_of_loss
from rkld.evaluation.tofu import truth_ratio
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder
from rkld.records.record import Record


@dataclass(frozen=True)
class Evidence:
    """A model's losses on the steering records at one optimizer step, in nats per scored token."""

    step: int
    gold_loss: tuple[float, ...]
    """(n,): of each record's answer."""
    paraphrase_loss: tuple[float, ...] = ()
    """(m,): of the true answer of each question that has wrong answers of its kind."""
    perturbed_loss: tuple[tuple[float, ...], ...] = ()
    """(m, k): of the wrong ones."""

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Evidence:
        """What :func:`dataclasses.asdict` gave, also after a journey through JSON."""
        wrong = tuple(tuple(losses) for losses in row["perturbed_loss"])
        return cls(row["step"], tuple(row["gold_loss"]), tuple(row["paraphrase_loss"]), wrong)

    @classmethod
    def from_arrays(cls, step: int, losses: Mapping[str, np.ndarray]) -> Evidence:
        """From arrays of :func:`rkld.evaluation.questions.mean_losses`: (n,), (m,) and (m, k), by the fields' names."""
        wrong = tuple(map(tuple, losses["perturbed_loss"].tolist()))
        return cls(step, tuple(losses["gold_loss"].tolist()), tuple(losses["paraphrase_loss"].tolist()), wrong)

    @property
    def probabilities(self) -> np.ndarray:
        """(n,): of each record ``exp(−loss)``. ValueError without records, or where a loss is no number."""
        return probability_of_loss(self.gold_loss)

    @property
    def probability(self) -> float:
        """Their mean. Raises as above."""
        return float(self.probabilities.mean())

    @property
    def truth_ratios(self) -> np.ndarray:
        """(m,), as of TOFU. ValueError without questions, or where a loss is no number."""
        return truth_ratio(self.paraphrase_loss, self.perturbed_loss)

    @property
    def share_outranked(self) -> float:
        """Share of wrong answers less likely than the true one, ties by half: ½ by chance. Raises as above."""
        self.truth_ratios  # noqa: B018 checks the losses
        true, wrong = np.array(self.paraphrase_loss)[:, None], np.array(self.perturbed_loss)
        return float((np.greater(wrong, true) + 0.5 * np.equal(wrong, true)).mean())


def read_evidence(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Encoded], questions: Sequence[Record], step: int
) -> Evidence:
    """One check of a model. It reads, and changes nothing: no gradients, no dropout, no random numbers.

    Args:
        records: whose ``scored`` tokens' likelihood is read.
        questions: records with ``perturbed_answer``, equally many each; maybe none.
        step: optimizer steps taken so far.
    """
    gold = np.array([losses.mean() for losses in answer_losses(lm, records, mask="scored")])
    if not questions:
        return Evidence(step, tuple(gold.tolist()))
    return Evidence.from_arrays(step, {**question_losses(lm, encoder, questions), "gold_loss": gold})
