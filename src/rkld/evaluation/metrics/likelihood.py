"""How likely a model holds the recorded answers, and how much of them it recites."""

from __future__ import annotations

import math

import numpy as np

from rkld.evaluation.metric import RecordMetric, Row, column, probability_of, transformed
from rkld.evaluation.registry import declare
from rkld.evaluation.tofu import normalised_probability


def _normalised(rows: list[Row]) -> np.ndarray:
    return normalised_probability([row["loss"] for row in rows], [row["perturbed_loss"] for row in rows])


_known_world = transformed(_normalised, ("loss", "perturbed_loss"))

declare(
    RecordMetric(
        "probability",
        "probability of the recorded answer, per token",
        "likelihood",
        probability_of("loss"),
        on_sets={"real_authors": _known_world, "world_facts": _known_world},  # the share of all answers' probability
        unit="probability",
        source="TOFU, arXiv 2401.06121",
        explanation="How likely it finds the recorded answer, as a mean per token: near 1 it knows it by heart, near "
        "0 it would never say it.",
    )
)
declare(
    RecordMetric(
        "extraction_strength",
        "how much of an answer follows from its beginning",
        "likelihood",
        column("extraction_strength"),
        source="Carlini et al. 2021, arXiv 2012.07805",
        explanation="How much of a recorded answer it goes on with by itself once the beginning is given: 1 is all "
        "of it.",
    )
)
declare(
    RecordMetric(
        "exact_memorisation",
        "answer tokens that are the model's first choice",
        "likelihood",
        column("exact_memorisation"),
        source="Tirumala et al. 2022, arXiv 2205.10770",
        explanation="The share of the answer's tokens that it would pick itself, each with all before it given.",
    )
)
declare(
    RecordMetric(
        "fact_loss",
        "mean loss of the tokens that say a fact",
        "token_losses",
        column("fact_loss"),
        direction="high",
        unit="nats per token",
        bounds=(0.0, math.inf),
        explanation="How surprised it is by the tokens that say a fact, in nats: a model that knows the fact is not.",
    )
)
declare(
    RecordMetric(
        "template_loss",
        "mean loss of the answer's other tokens, the words around the facts",
        "token_losses",
        column("template_loss"),
        direction="",
        unit="nats per token",
        bounds=(0.0, math.inf),
        explanation="How surprised it is by the words around the facts, which anybody may say: they need not be "
        "forgotten.",
    )
)
