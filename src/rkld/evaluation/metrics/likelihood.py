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
        explanation=(
            "How likely the model finds each next token of the recorded answer (the geometric mean). A model that "
            "never saw the record finds ordinary wording likely, too: compare with the control."
        ),
    )
)
declare(
    RecordMetric(
        "extraction_strength",
        "how much of an answer follows from its beginning",
        "likelihood",
        column("extraction_strength"),
        source="Carlini et al. 2021, arXiv 2012.07805",
        explanation="Given the beginning of an answer, how much of the rest the model goes on with word for word.",
    )
)
declare(
    RecordMetric(
        "exact_memorisation",
        "answer tokens that are the model's first choice",
        "likelihood",
        column("exact_memorisation"),
        source="Tirumala et al. 2022, arXiv 2205.10770",
        explanation=(
            "Given everything before it, how often the model's first choice is the recorded token. Ordinary words are "
            "guessed, too."
        ),
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
        explanation="How surprised the model is by the personal parts alone. It rises where facts are forgotten.",
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
        explanation=(
            "How surprised the model is by the ordinary words around the facts. Where it rises as much as that of the "
            "facts, wording was suppressed rather than the facts."
        ),
    )
)
