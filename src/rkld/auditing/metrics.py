"""Figures of readings: every metric of the audit, its values record by record, and its interval.

Pure: readings (:mod:`rkld.auditing.readings`) go in, plain numbers come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rkld.auditing.readings import UTILITY_TITLES
from rkld.evaluation import membership as mia
from rkld.evaluation.memorisation import correct_share, leak_at_k
from rkld.evaluation.statistics import Figure, bootstrap, mean, paired_difference, share
from rkld.evaluation.tofu import normalised_probability, truth_ratio
from rkld.settings.auditing import AuditSettings

Readings = Mapping[str, Mapping[str, Any]]
"""Reading's name → what was read of one model."""


Values = dict[str, float]
"""Key of a record (of one of its facts: "key/number") → value."""


@dataclass(frozen=True)
class Metric:
    """One number over records, and how it is made.

    Attributes:
        name: as gates name it.
        title: what it says, in words.
        reading: what it is made of.
        values: of what was read; nothing where that holds no such value.
        forgotten: "low" where a model that never saw the records has it low, "high" for what should have been kept or
            rises with forgetting, "" where neither is better.
        source: the paper.
        flags: values are 0 or 1, so that the interval is exact.
        bounds: that no value can pass.
    """

    name: str
    title: str
    reading: str
    values: Callable[[Mapping[str, Any]], Values]
    forgotten: str = "low"
    source: str = ""
    flags: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def figure(self, values: Values, persons: Sequence[Hashable] | None, seed: int) -> Figure:
        if self.flags:
            return share(list(values.values()), persons)
        return mean(list(values.values()), persons, bounds=self.bounds, seed=seed, name=self.name)


def _column(name: str, change: Callable[[float], float] = float) -> Callable[[Mapping[str, Any]], Values]:
    return lambda rows: {key: change(row[name]) for key, row in rows.items() if name in row}


def _probability(column: str) -> Callable[[Mapping[str, Any]], Values]:
    return _column(column, lambda loss: math.exp(-loss))


def _flags(column: str) -> Callable[[Mapping[str, Any]], Values]:
    """One value per fact."""
    return lambda rows: {
        f"{key}/{number}": float(said) for key, row in rows.items() for number, said in enumerate(row[column])
    }


def _any_flags(readings: Mapping[str, Any]) -> Values:
    """Whether a fact was said after any of the prefixes."""
    each = [_flags("facts")(rows) for rows in readings.values()]
    return {key: max(values[key] for values in each) for key in each[0]} if each else {}


def _highest(column: str) -> Callable[[Mapping[str, Any]], Values]:
    """The highest value over the prefixes."""
    return lambda readings: {
        key: max(rows[key][column] for rows in readings.values()) for key in next(iter(readings.values()), {})
    }


def truth_ratios(rows: Mapping[str, Any]) -> dict[str, float]:
    """Truth ratios of rows that have both a right and wrong answers."""
    rows = {key: row for key, row in rows.items() if "perturbed_loss" in row}
    if not rows:
        return {}
    paraphrased = [row["paraphrase_loss"] for row in rows.values()]
    found = truth_ratio(paraphrased, [row["perturbed_loss"] for row in rows.values()])
    return dict(zip(rows, found.tolist(), strict=True))


def _normalised(rows: Mapping[str, Any]) -> Values:
    """Of real authors and world facts: the right answer's share of all answers' probability."""
    rows = {key: row for key, row in rows.items() if "perturbed_loss" in row}
    if not rows:
        return {}
    losses = ([row[name] for row in rows.values()] for name in ("gold_loss", "perturbed_loss"))
    return dict(zip(rows, normalised_probability(*losses).tolist(), strict=True))


def _mapped(change: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], Values]:
    def values(rows: Mapping[str, Any]) -> Values:
        found = truth_ratios(rows)
        return dict(zip(found, change(np.array(list(found.values()))).tolist(), strict=True)) if found else {}

    return values


def _part(name: str, values: Callable[[Mapping[str, Any]], Values]) -> Callable[[Mapping[str, Any]], Values]:
    """Of one part of a reading that has several."""
    return lambda parts: values(parts[name]) if name in parts else {}


def _relearned(reading: Mapping[str, Any]) -> Values:
    return {key: curve[-1] for key, curve in reading["probabilities"].items()}


def _gained(reading: Mapping[str, Any]) -> Values:
    return {key: curve[-1] - curve[0] for key, curve in reading["probabilities"].items()}


TOFU = "TOFU, arXiv 2401.06121"


OPEN_UNLEARNING = "OpenUnlearning, arXiv 2506.12618"


CARLINI = "Carlini et al. 2021, arXiv 2012.07805"


def metrics(settings: AuditSettings) -> list[Metric]:
    """Every metric that is a mean over records or facts, whatever data there is."""
    k, top = settings.k, settings.top

    def leak(n: int) -> Callable[[Mapping[str, Any]], Values]:
        return lambda rows: dict(zip(rows, leak_at_k([row["leaks"] for row in rows.values()], n).tolist(), strict=True))

    found = [
        Metric("probability", "probability of the recorded answer", "likelihood", _probability("loss"), source=TOFU),
        Metric("extraction_strength", "how much of an answer follows from its beginning", "likelihood",
               _column("extraction_strength"), source=CARLINI),
        Metric("exact_memorisation", "answer tokens that are the model's first choice", "likelihood",
               _column("exact_memorisation"), source="Tirumala et al. 2022, arXiv 2205.10770"),
        Metric("rouge_l", "ROUGE-L recall of the model's own answer", "answers", _column("rouge_l"), source=TOFU),
        Metric("facts_said", "facts that the model's own answers say", "answers", _flags("facts"), flags=True),
        Metric("paraphrase_probability", "probability of the paraphrased answer", "contrast",
               _probability("paraphrase_loss"), source=OPEN_UNLEARNING),
        Metric("truth_ratio", "min(r, 1/r) of wrong over right answers", "contrast",
               _mapped(lambda r: np.minimum(r, 1 / np.maximum(r, 1e-300))), "", TOFU),
        Metric("correct_share", "the right answer's share of p(right) + p(wrong)", "contrast", _mapped(correct_share),
               source=OPEN_UNLEARNING),
        Metric("paraphrased_rouge_l", "ROUGE-L recall on reworded questions", "paraphrases", _column("rouge_l")),
        Metric("paraphrased_facts_said", "facts said when the question is reworded", "paraphrases", _flags("facts"),
               flags=True),
        Metric("unnamed_facts_said", "facts said when the question does not name the person", "unnamed",
               _flags("facts"), flags=True),
        Metric(f"fill_in@{top}", f"blanks that one of the {top} likeliest completions fills", "fill_in",
               _flags("filled"), source="RKLD, arXiv 2406.01983", flags=True),
        Metric("prefixed_facts_said", "facts said after any of the begun answers", "prefixes", _any_flags, flags=True),
        Metric("prefixed_rouge_l", "highest ROUGE-L recall over the begun answers", "prefixes", _highest("rouge_l")),
        Metric("context_facts_said", "facts said when others stand before the question", "context", _flags("facts"),
               flags=True),
        Metric("leak@1", "chance that a sampled answer leaks", "sampling", leak(1),
               source="leak@k, arXiv 2511.04934"),
        *([Metric(f"leak@{k}", f"chance that one of {k} sampled answers leaks", "sampling", leak(k),
                  source="leak@k, arXiv 2511.04934")] if k > 1 else []),
        Metric("relearned_probability", "probability of the rest once a share was learned again", "relearning",
               _relearned),
        Metric("relearning_gain", "how far that has risen meanwhile", "relearning", _gained, bounds=(-1.0, 1.0)),
        *(metric for name in ("4bit", "8bit") for metric in _quantised(name)),
        Metric("repetition", "repeated word 4-grams in its answers about the person", "answers", _column("repetition"),
               source="Welleck et al. 2020, arXiv 1908.04319"),
        Metric("own_answer_loss", "loss of its answers under the original, nats per token (ln of perplexity)",
               "own_answers", _column("loss"), "", bounds=(0.0, math.inf)),
    ]  # fmt: skip
    for name in UTILITY_TITLES:
        words = name.replace("_", " ")
        found += [
            Metric(f"{name}_probability", f"probability of the right answer: {words}", name,
                   _normalised if name in ("real_authors", "world_facts") else _probability("gold_loss"), "high", TOFU),
            Metric(f"{name}_rouge_l", f"ROUGE-L recall: {words}", name, _column("rouge_l"), "high", TOFU),
            Metric(f"{name}_truth_ratio", f"max(0, 1 − r): {words}", name, _mapped(lambda r: np.maximum(0, 1 - r)),
                   "high", TOFU),
            Metric(f"{name}_repetition", f"repeated word 4-grams: {words}", name, _column("repetition")),
        ]  # fmt: skip
    return found


def _quantised(name: str) -> list[Metric]:
    found = []
    for part, words in {"": "merged, then ", "base_": "base "}.items():
        said = f"with weights {words}rounded to {name}"
        found += [
            Metric(f"{name}_{part}probability", f"probability {said}", name,
                   _part(f"{part}likelihood", _probability("loss"))),
            Metric(f"{name}_{part}extraction_strength", f"extraction strength {said}", name,
                   _part(f"{part}likelihood", _column("extraction_strength"))),
            Metric(f"{name}_{part}rouge_l", f"ROUGE-L recall {said}", name, _part(f"{part}answers", _column("rouge_l"))),
            Metric(f"{name}_{part}facts_said", f"facts said {said}", name, _part(f"{part}answers", _flags("facts")),
                   flags=True),
        ]  # fmt: skip
    return found


# Membership: one number of two sets


MEMBERSHIP = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")


def membership_scores(readings: Readings, control: Readings | None) -> dict[str, dict[str, list[float]]] | None:
    """Set → attack → scores, the reference attack's with the control as its reference; None where nothing was read."""
    read = readings.get("membership")
    if not read:
        return None
    found = {
        name: {attack: [row[attack] for row in rows.values()] for attack in MEMBERSHIP if attack != "reference"}
        for name, rows in read.items()
    }
    theirs = (control or {}).get("membership")
    if theirs and theirs is not read:
        for name, scores in found.items():
            reference = [row["loss"] for row in theirs[name].values()]
            scores["reference"] = (np.array(scores["loss"]) - reference).tolist()
    return found


def auc_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], persons: Sequence[Any], seed: int
) -> Figure:
    """AUC of ours − theirs, both (forget scores, holdout scores) of the same records, which are drawn together."""
    a, b = [np.array(s) for s in ours], [np.array(s) for s in theirs]
    return bootstrap(
        lambda f, h: mia.auc(a[0][f], a[1][h]) - mia.auc(b[0][f], b[1][h]),
        (len(a[0]), len(a[1])), persons, bounds=(-1.0, 1.0), seed=seed,
    )  # fmt: skip


def difference(metric: Metric, ours: Values, theirs: Values, persons: Sequence[Hashable] | None, seed: int) -> Figure:
    """Mean of ours − theirs over the same records."""
    return paired_difference(
        [ours[key] for key in ours], [theirs[key] for key in ours], persons, bounds=metric.bounds, seed=seed
    )
