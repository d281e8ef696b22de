"""In which dtype the unlearned model is written: as its source was, with what rounding the weights moves.

Training needs float32: the steps are smaller than what bfloat16 tells apart. The trained weights can be rounded all the
same, if the model then says what it said before. That is not taken for granted: rounding can bring back what was
unlearned (of 4 bits: Zhang et al. 2024, arXiv 2410.16454), or harm the rest. A weight that came in bfloat16 and moved
by less than half of what that tells apart goes back to what it was, so a short training is undone; rounded at random
such weights are as far, taken together, as they were. (SmolLM2-135M, Ada Lovelace, 3 steps: 85 % of the weights went
back, and the loss on the forget records from 4.61 nats to 2.83; at random, by three seeds, to 4.61, 4.61 and 4.62.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from rkld.errors import NotFinite
from rkld.evaluation.likelihood import answer_losses
from rkld.models.language_model import LanguageModel
from rkld.models.writing import round_in_place
from rkld.records.encoding import Encoded

HELD = 0.01
"""Nats: how far the mean loss per answer token of a set may move, either way; of the sets that are measured before and
after a run. The probability of an answer then moves by 1 % of itself. SmolLM2-135M, tuned on twenty records,
moved by .003 to .004 when rounded to bfloat16; half unlearned (4 epochs, rate 5e-5), by .004 on what it kept, and on
what it forgot by −.090: the probability rose from .557 to .596, which is said."""


Made: TypeAlias = tuple[LanguageModel, list[LanguageModel]]
"""The model as its figures are read, and what is written of it: itself, or its two models."""


def round_best(
    make: Callable[[], Made], sets: Mapping[str, Sequence[Encoded]], dtype: torch.dtype, seed: int
) -> tuple[Made, dict[str, float]]:
    """The model with weights that ``dtype`` can hold, rounded to the nearest where that moves it by no more than
    :data:`HELD`, else by the way that moves it less; and how far it moved.

    Args:
        make: the model as it was trained, anew each time.
        sets: name → records to see it by.
        seed: of the weights that are rounded at random.
    """

    def rounded(way: int | None) -> tuple[Made, dict[str, float]]:
        made = make()
        return made, round_and_compare(*made, sets, dtype, way)

    made, nearest = rounded(None)
    if furthest(nearest) <= HELD or dtype != torch.bfloat16:
        return made, nearest
    del made  # before the next one is made: there is room for one
    made, at_random = rounded(seed)
    if furthest(at_random) < furthest(nearest):
        return made, at_random
    del made
    return rounded(None)


def furthest(moved: Mapping[str, float]) -> float:
    """How far the set that moved most did."""
    return max(map(abs, moved.values()), default=0.0)


def round_and_compare(
    outcome: LanguageModel,
    parts: Sequence[LanguageModel],
    sets: Mapping[str, Sequence[Encoded]],
    dtype: torch.dtype,
    seed: int | None = None,
) -> dict[str, float]:
    """Round the parts' weights in place to what ``dtype`` can hold, and see how far that moves the model.

    Args:
        outcome, parts: of :data:`Made`.
        sets: name → records to see it by.
        seed: as of :func:`rkld.models.writing.round_in_place`.

    Returns:
        name → how far the mean loss of the set moved, in nats a token; infinite where it is no number.
    """
    before = _losses(outcome, sets)
    for part in parts:
        round_in_place(part.model, dtype, seed)
    after = _losses(outcome, sets)
    moved = {name: after[name] - before[name] for name in before}
    return {name: float(value) if np.isfinite(value) else float("inf") for name, value in moved.items()}


def _losses(lm: LanguageModel, sets: Mapping[str, Sequence[Encoded]]) -> dict[str, float]:
    """Name → mean over records of the mean loss per answer token, in nats; no number where the model is ruined."""
    try:
        return {name: float(np.mean([x.mean() for x in answer_losses(lm, s)])) for name, s in sets.items() if s}
    except NotFinite:
        return dict.fromkeys(sets, float("nan"))


def saved_dtype(asked: str, source: torch.dtype | None, trained: torch.dtype) -> torch.dtype:
    """The dtype to write in: as asked for; with "auto" the source's, or that of training where it is narrower."""
    if asked != "auto":
        return getattr(torch, asked)
    return source if source is not None and source.itemsize < trained.itemsize else trained
