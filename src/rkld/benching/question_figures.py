"""TOFU's figures of a model, by the names of the tables' columns, from the losses of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rkld.errors import Diverged
from rkld.evaluation.arrays import harmonic_mean
from rkld.evaluation.tofu import (
    forget_quality,
    forget_truth_ratio,
    model_utility,
    normalised_probability,
    probability,
    truth_ratio,
    utility_truth_ratio,
)
from rkld.records.record import Record
from rkld.text.matching import mentions

SETS = ("forget", "retain", "real_authors", "world_facts")
"""What is asked, in TOFU's words; the last three make model utility."""

FROM_ANSWERS = ("rouge_l", "names_whole")
"""What is read of the answers that a model generates; the rest is of likelihoods alone."""

FIGURES = (
    "forget_quality",
    "ks_distance",
    "forget_probability",
    "forget_rouge_l",
    "forget_truth_ratio",
    "forget_names_whole",
    "retain_probability",
    "retain_rouge_l",
    "retain_truth_ratio",
    "real_authors_probability",
    "real_authors_rouge_l",
    "real_authors_truth_ratio",
    "world_facts_probability",
    "world_facts_rouge_l",
    "world_facts_truth_ratio",
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
        gold, wrong = losses[name]["gold_loss"], losses[name]["perturbed_loss"]
        each = truth_ratio(losses[name]["paraphrase_loss"], wrong)
        plain = name in ("forget", "retain")
        found[f"{name}_probability"] = float(
            (probability(gold) if plain else normalised_probability(gold, wrong)).mean()
        )
        if "rouge" in losses[name]:
            found[f"{name}_rouge_l"] = float(losses[name]["rouge"].mean())
        if len(losses[name].get("names_whole", ())):
            found[f"{name}_names_whole"] = float(losses[name]["names_whole"].mean())
        found[f"{name}_truth_ratio"] = (forget_truth_ratio if name == "forget" else utility_truth_ratio)(each)
    six = [found[f"{name}_{part}"] for name in SETS[1:] for part in ("probability", "truth_ratio")]
    found["likelihood_utility"] = harmonic_mean(six)
    if all("rouge" in losses[name] for name in SETS):
        found["model_utility"] = model_utility(**{name: losses[name] for name in SETS[1:]}).value
    return found
