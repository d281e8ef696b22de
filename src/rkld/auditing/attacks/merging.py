"""Merging with the original: how little of it brings the facts back.

Weights between two checkpoints, ``θ(λ) = θ_after + λ · (θ_before − θ_after)`` (Wortsman et al. 2022, arXiv 2109.01903,
eq. 1), are a model that people make and publish. The smaller λ is at which half of what the original knew is back, the
nearer the facts lie. A retrained control is merged with the original in the same way, to be set beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from rkld.auditing.attacks.relearning import effort, half_of_the_original
from rkld.auditing.inputs import Task
from rkld.auditing.reading import Attack, Reader
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.likelihood import probability
from rkld.evaluation.metric import Aggregate, Measured, Metric, RecordMetric, Values
from rkld.evaluation.statistics import bootstrap
from rkld.models.language_model import LanguageModel
from rkld.models.state import check_same_weights, own_weights
from rkld.pipeline.preparing import encode_all
from rkld.records.encoding import Encoder

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""λ at which the records are looked at."""

LITTLE = 0.2
"""λ of the metric ``merged_probability``."""


@ATTACKS.register("merging")
class Merging(Attack):
    """Likelihood of the records in models between this one and the original; of the original itself nothing."""

    title = "weights merged with the original's"
    risk = "relearning"
    beside = ("original",)
    needs = "--original, and memory for both"
    cost = "10 readings of the likelihoods"
    source = "Wortsman et al. 2022, arXiv 2109.01903, eq. 1"

    def why_not_applicable(self, lm: LanguageModel) -> str | None:
        return "the weights are quantised: there is nothing between them and others" if lm.is_quantised else None

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_all(encoder, task.forget)

    def read(self, reader: Reader) -> dict[str, Any]:
        """``shares`` (C,), and ``probabilities`` (key → (C,))."""
        if reader.role == "original":
            return {}
        lm, encoder = reader.loaded()
        original, encoded = reader.other("original"), encode_all(encoder, reader.task.forget)
        found = []
        with reader.progress.bar(f"{reader.role}: {self.name}", len(SHARES)) as advance:
            for share in SHARES:
                with merged(lm, original, share) as between:
                    found.append(probability(between, encoded))
                advance(1)
        curves = np.asarray(found)  # (C, n)
        columns = {e.key: curves[:, i].tolist() for i, e in enumerate(encoded)}
        return {"shares": list(SHARES), "probabilities": columns}

    def metrics(self) -> list[Metric]:
        return [
            RecordMetric(
                "merged_probability",
                f"probability with {LITTLE:g} of the original merged in",
                self.name,
                partial(_at, LITTLE),
                unit="probability",
                explanation="How likely the records are once a little of the original is mixed into the weights.",
                source=self.source,
            ),
            Aggregate(
                "merging_share",
                "how much of the original brings half back",
                _share,
                direction="high",
                unit="share of the way",
                risk="relearning",
                explanation="How much of the original must be mixed in until half of what it knew is back.",
                source=self.source,
            ),
        ]


@contextmanager
@torch.no_grad()
def merged(lm: LanguageModel, original: LanguageModel, share: float) -> Iterator[LanguageModel]:
    """``lm`` with weights ``θ + share · (θ_original − θ)``, for as long as the block lasts.

    Afterwards both models are what they were, bit by bit. Adapters of either are merged into its weights meanwhile.

    Raises:
        UserError: the models differ in their parameters.
    """
    check_same_weights(lm, original)
    ours, theirs = own_weights(lm), own_weights(original)
    kept = [(p, p.detach().to("cpu", copy=True)) for p in (*ours.values(), *theirs.values())]
    adapters = [one for one in (lm, original) if one.is_adapter]
    try:
        for one in adapters:
            one.model.merge_adapter()
        for name, parameter in ours.items():
            if parameter.is_floating_point():
                # In one rounding: a sum in bfloat16 would round small shares of a small difference away.
                between = torch.lerp(parameter.double(), theirs[name].to(parameter.device).double(), share)
                parameter.copy_(between)
        yield lm
    finally:
        for one in adapters:
            one.model.unmerge_adapter()  # by subtraction, which only the copies make exact
        for parameter, before in kept:
            parameter.copy_(before)


def _at(share: float, reading: Mapping[str, Any]) -> Values:
    if not reading:
        return {}
    place = list(reading["shares"]).index(share)
    return {key: curve[place] for key, curve in reading["probabilities"].items()}


def _share(measured: Measured, role: str) -> dict[str, Any] | None:
    """λ at which half is back; null: not even with all of the original, as where it never knew the records."""
    reading = measured.of(role, "merging")
    if not reading:
        return None
    keys, shares = list(reading["probabilities"]), reading["shares"]
    curves = np.array(list(reading["probabilities"].values()))  # (n, C)
    level = half_of_the_original(measured, keys)

    def least(rows: np.ndarray) -> float:
        found = effort(shares, curves[rows].mean(axis=0), level)
        return 2.0 if found is None else found

    drawn = asdict(bootstrap(least, len(curves), measured.persons(keys), seed=measured.seed))
    return {**drawn, **{end: None for end in ("value", "low", "high") if drawn[end] > 1}, "level": level}
