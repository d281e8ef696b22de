"""TOFU's figures of a model, by the names of the tables' columns, from the losses of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rkld.errors import Diverged
from rkld.evaluation.arrays import harmonic_mean
from rkld.evaluation.metric import RecordMetric, Rows
from rkld.evaluation.registry import METRICS
from rkld.evaluation.tofu import forget_quality, model_utility, truth_ratio
from rkld.records.record import Record
from rkld.text.matching import mentions

SETS = ("forget", "retain", "real_authors", "world_facts")
"""TOFU's sets of questions; the last three make model utility."""

FROM_ANSWERS = ("rouge_l", "names_whole")
"""What is read of the answers that a model generates; the rest is of likelihoods alone."""

FIGURES = (
    "forget_quality",
    "ks_distance",
    "forget_probability",
    "forget_rouge_l",
    "forget_truth_ratio",
    "forget_correct_share",
    "forget_names_whole",
    "retain_probability",
    "retain_rouge_l",
    "retain_truth_ratio",
    "retain_correct_share",
    "real_authors_probability",
    "real_authors_rouge_l",
    "real_authors_truth_ratio",
    "real_authors_correct_share",
    "world_facts_probability",
    "world_facts_rouge_l",
    "world_facts_truth_ratio",
    "world_facts_correct_share",
    "likelihood_utility",
    "model_utility",
)

Losses = Mapping[str, Mapping[str, np.ndarray]]
"""Set → "gold_loss" (n,), "paraphrase_loss" (n,), "perturbed_loss" (n, k), in nats per token; "rouge" (n,), ROUGE-L
recall, where answers were made, and of the forget set "names_whole" (m,), see :func:`names_whole`."""


def names_whole(records: Sequence[Record], answers: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Whether an answer has the names whole (m,), of those m records whose question and right answer both have any.

    The question gives the name away, so a model that was never trained on the person can write it as well: names that
    come out garbled are harm that neither forget quality nor a low probability shows.
    """
    found = []
    for record, answer in zip(records, answers, strict=True):
        expected = [name for name in names if mentions(record.question, [name]) and mentions(record.answer, [name])]
        if expected:
            found.append(all(mentions(answer, [name]) for name in expected))
    return np.array(found)


def forget_ratios(losses: Losses) -> np.ndarray:
    """Truth ratios (n,) of the forget set."""
    return truth_ratio(losses["forget"]["paraphrase_loss"], losses["forget"]["perturbed_loss"])


BY_RECORD = ("probability", "rouge_l", "truth_ratio", "correct_share")
"""Metrics that are means over the records of a set, as the audit and ``rkld unlearn`` have them. The truth ratio is
TOFU's; correct_share is the later form of it, p(right) / (p(right) + p(wrong)) (arXiv 2506.12618)."""


def _rows(columns: Mapping[str, np.ndarray]) -> Rows:
    """A set's columns (n, …) as the rows that metrics take; without the answers' where none were made."""
    named = {"loss": "gold_loss", "paraphrase_loss": "paraphrase_loss", "perturbed_loss": "perturbed_loss"}
    named |= {"rouge_l": "rouge"} if "rouge" in columns else {}
    return {
        str(i): {name: columns[column][i].tolist() for name, column in named.items()}
        for i in range(len(columns["gold_loss"]))
    }


def question_figures(losses: Losses, retrained: Sequence[float]) -> dict[str, float]:
    """:data:`FIGURES`, and "n"; model utility, ROUGE-L and whole names where answers were made.

    Args:
        retrained: the retrained model's truth ratios on the forget set.

    Raises:
        Diverged: a likelihood is no number.
    """
    if any(np.isnan(each).any() for found in losses.values() for each in found.values()):
        raise Diverged("the likelihoods of the answers are no numbers")
    test = forget_quality(forget_ratios(losses), retrained)
    found: dict[str, float] = {"n": test.n, "forget_quality": test.pvalue, "ks_distance": test.statistic}
    for name in SETS:
        rows = _rows(losses[name])
        for each in BY_RECORD:
            metric = METRICS.get(each)
            assert isinstance(metric, RecordMetric)
            here = metric.on(name)
            if values := list(here.values(rows).values()):
                found[here.name] = float(np.mean(values))
        if len(losses[name].get("names_whole", ())):
            found[f"{name}_names_whole"] = float(losses[name]["names_whole"].mean())
    six = [found[f"{name}_{part}"] for name in SETS[1:] for part in ("probability", "truth_ratio")]
    found["likelihood_utility"] = harmonic_mean(six)
    if all("rouge" in losses[name] for name in SETS):
        found["model_utility"] = model_utility(**{name: losses[name] for name in SETS[1:]}).value
    return found
