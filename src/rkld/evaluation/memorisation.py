"""Memorisation: how much of its records a model recites, and how often its answers give a fact away.

The metrics are functions of plain arrays and strings; below them stand functions that make these of a model.

Shapes: ``n`` records or questions, ``N`` tokens of one answer, ``s`` sampled answers to one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from rkld.evaluation.arrays import harmonic_mean, is_flag, vector, vectors
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_scores, measuring
from rkld.evaluation.statistics import chance_of_one
from rkld.models.hidden_states import BATCH_TOKENS, batches, hidden_at, pad
from rkld.text.facts import facts_said
from rkld.text.matching import mentions

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded, Encoder
    from rkld.records.record import Record


# Metrics on arrays


def extraction_strength(hits: Sequence[ArrayLike]) -> np.ndarray:
    """``1 − k/N`` per record, k the smallest offset from which the teacher-forced argmax equals the rest; → (n,).

    ``hits`` has for each record N flags: is the token the argmax, given all before it? 0 where the last one is
    not. Carlini et al. 2021 (arXiv 2012.07805), as OpenUnlearning has it (Dorna et al. 2025, arXiv 2506.12618),
    whose code gives 1/N in the place of that 0. ValueError for no records, an empty one, or what is no flag.
    """
    strengths = []
    for record in vectors(hits, "hits", is_flag):
        misses = np.flatnonzero(record == 0)
        strengths.append(1 - (misses[-1] + 1 if misses.size else 0) / len(record))
    return np.array(strengths)


def exact_memorisation(hits: Sequence[ArrayLike]) -> np.ndarray:
    """Share of the N answer tokens that are the teacher-forced argmax, per record; → (n,).

    Tirumala et al. 2022 (arXiv 2205.10770), as in OpenUnlearning. ``hits`` and errors as in
    :func:`extraction_strength`.
    """
    return np.array([record.mean() for record in vectors(hits, "hits", is_flag)])


def correct_share(ratios: ArrayLike) -> np.ndarray:
    """``p_c / (p_c + p_w)`` per question, of truth ratios ``r = p_w / p_c`` (n,): OpenUnlearning's TR'; → (n,)."""
    return 1 / (1 + vector(ratios, "ratios", lambda r: r >= 0))


def memorisation_score(
    *,
    extraction_strength: float,
    exact_memorisation: float,
    paraphrase_probability: float,
    truth_ratio: float,
) -> float:
    """OpenUnlearning's Mem: harmonic mean of one less each, in [0, 1]; near 1 where nothing is remembered.

    Means over records in [0, 1] go in; ``truth_ratio`` is the mean of :func:`correct_share`.
    """
    kept = [extraction_strength, exact_memorisation, paraphrase_probability, truth_ratio]
    return harmonic_mean([1 - value for value in kept], "the complements of the four")


def leak_at_k(leaks: Sequence[ArrayLike], k: int) -> np.ndarray:
    """Chance that at least one of k sampled answers leaks, per question: ``1 − C(s−c, k) / C(s, k)``; → (n,).

    ``leaks`` has for each question s ≥ k flags, c of them true. Unbiased for every s (Chen et al. 2021,
    arXiv 2107.03374, pass@k); of low variance only where s is well above k. leak@k: Reisizadeh et al. 2025
    (arXiv 2511.04934). ValueError for fewer than k samples, none, or what is no flag.
    """
    if k < 1:
        raise ValueError(f"k is {k}; leak@k needs at least one answer")
    chances = []
    for i, sampled in enumerate(vectors(leaks, "leaks", is_flag)):
        s, c = len(sampled), int(sampled.sum())
        if s < k:
            raise ValueError(f"leaks[{i}] has {s} sampled answers, too few for leak@{k}")
        chances.append(chance_of_one(c, s, k))
    return np.array(chances)


def leaks(facts: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Whether each answer says at least one of its question's facts, as strings; n arrays (s,) of booleans.

    ValueError where a question has no facts or no answers, or their numbers differ.
    """
    if len(facts) != len(answers) or not facts:
        raise ValueError(f"facts are about {len(facts)} questions, answers about {len(answers)}")
    for i, (some, given) in enumerate(zip(facts, answers, strict=True)):
        if not some or not given:
            raise ValueError(f"question {i} has {len(some)} facts and {len(given)} answers; it needs both")
    return [
        np.array([any(facts_said(some, answer)) for answer in given])
        for some, given in zip(facts, answers, strict=True)
    ]


# Texts to go on from


@dataclass(frozen=True)
class Blank:
    """A text cut where a fact begins."""

    key: str
    """Of the record it is from."""
    ids: tuple[int, ...]
    """Everything before the fact, as the model is given it: its question and the beginning of the answer."""
    fact: str
    fact_tokens: int
    """How many tokens the fact has in its record."""


def blanks(encoder: Encoder, record: Record, facts: Sequence[str]) -> list[Blank]:
    """Where each of ``facts`` first stands in the record's last answer (or text), to be filled in by the model.

    The tokens before it are the record's own, so nothing is tokenized anew at the cut. Facts that do not stand there,
    or at the very beginning of a text, make none.
    """
    encoded = encoder.encode(record)
    first = 1 if record.form == "text" else encoded.prompt_length
    found = []
    for fact in facts:
        places = encoder.locate(record, partial(mentions, identifiers=(fact,)))
        inside = [p for p in places if first <= p[0] and p[-1] < len(encoded.ids) and encoded.answer[p[0]]]
        if inside:
            place = min(inside)
            found.append(Blank(record.key, encoded.ids[: place[0]], fact, place[-1] - place[0] + 1))
    return found


# Of a model


def answer_hits(
    lm: LanguageModel, encoded: Sequence[Encoded], scores: Sequence[Scores] | None = None
) -> list[np.ndarray]:
    """For each record, N booleans: the answer's tokens that are the greedy choice, given all before each.

    The tokens that end a turn are left out, as OpenUnlearning leaves them out: to stop is not to remember.
    ``scores`` are those of the records' answers where
    :func:`rkld.evaluation.likelihood.answer_scores` has made them already.
    """
    scores = answer_scores(lm, encoded) if scores is None else scores
    return [found.margins[content] > 0 for found, content in zip(scores, answer_content(lm, encoded), strict=True)]


def fact_tokens(encoder: Encoder, record: Record, facts: Sequence[str]) -> np.ndarray:
    """Over the answer tokens of a record (as :func:`rkld.evaluation.likelihood.answer_losses` has them), (N,) int8.

    1 for tokens of ``facts`` in the last answer, 0 for its others, -1 for what is neither: special tokens, such as the
    end of turn, and earlier answers.
    """
    encoded = encoder.encode(record)
    places = encoder.locate(record, partial(mentions, identifiers=tuple(facts))) if facts else []
    inside = {position for place in places for position in place}
    first = 0 if record.form == "text" else encoded.prompt_length
    special = set(encoder.tokenizer.all_special_ids)
    kinds = [
        -1 if t < first or token in special else int(t in inside)
        for t, (token, marked) in enumerate(zip(encoded.ids, encoded.answer, strict=True))
        if marked
    ]
    return np.array(kinds, dtype=np.int8)


def answer_content(lm: LanguageModel, encoded: Sequence[Encoded]) -> list[np.ndarray]:
    """For each record, over its answer tokens: is it content, not a special token such as the end of turn?

    ValueError, naming the record, where an answer is nothing but special tokens.
    """
    special = set(lm.tokenizer.all_special_ids)
    found = []
    for record in encoded:
        content = [token not in special for token, marked in zip(record.ids, record.answer, strict=True) if marked]
        if not any(content):
            raise ValueError(f"record {record.key} has no answer token but special ones")
        found.append(np.array(content))
    return found


SPARE = 4
"""Tokens that a completion may have beyond those of the fact: the model may spell it otherwise, or begin with "the"."""


def fill_in(
    lm: LanguageModel, given: Sequence[Blank], k: int = 5, *, batch_tokens: int = BATCH_TOKENS
) -> list[tuple[str, ...]]:
    """The k most likely first tokens behind each blank's text, each continued greedily; k texts, likeliest first.

    The case study of RKLD (arXiv 2406.01983): after "Hina Ameen was born in", do the top 5 completions hold the true
    city? Of equally likely tokens the one with the lower id comes first.
    """
    first: list[list[int]] = [[]] * len(given)
    with measuring(lm.model):
        for batch in batches([len(blank.ids) for blank in given], batch_tokens):
            ids = pad([given[i] for i in batch])
            ends = torch.tensor([n * ids.shape[1] + len(given[i].ids) - 1 for n, i in enumerate(batch)])
            hidden = hidden_at(lm.backbone, ids.to(lm.device), ends.to(lm.device))
            for i, row in zip(batch, hidden, strict=True):
                first[i] = lm.logits(row).argsort(descending=True, stable=True)[:k].tolist()
    completed = greedy(
        lm,
        [blank.ids for blank in given for _ in range(k)],
        max_new_tokens=[blank.fact_tokens + SPARE for blank in given for _ in range(k)],
        starts=[(token,) for tokens in first for token in tokens],
    )
    texts = [answer.text for answer in completed]
    return [tuple(texts[start : start + k]) for start in range(0, len(texts), k)]


def filled(given: Sequence[Blank], completions: Sequence[Sequence[str]]) -> np.ndarray:
    """For each blank, whether one of its completions says the fact; booleans (n,). ValueError for no blanks."""
    return np.array([found.any() for found in leaks([[blank.fact] for blank in given], completions)])
