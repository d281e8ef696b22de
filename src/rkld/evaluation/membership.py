"""Membership inference: can it be seen that the forget records were trained on? Against records that never were.

Every score is lower for what the model knows. So the AUC, the chance that a forget record's score is lower than that
of a never-trained (holdout) one, is near 1 where membership shows and .5 where it does not. It says so only of the
model if text alone does not tell the two apart: that is measured beside it (:func:`text_auc`).

Shapes: ``n`` records, ``N`` tokens of one answer, ``T`` predictions of a batch, ``d`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from rkld.evaluation.arrays import harmonic_mean, in_unit_interval, vector, vectors
from rkld.evaluation.likelihood import ROWS, answer_losses, measuring
from rkld.evaluation.memorisation import answer_content
from rkld.evaluation.statistics import FEWEST_PERSONS, Figure, Persons, bootstrap
from rkld.models.hidden_states import BATCH_TOKENS, batches, hidden_at, pad, predictors
from rkld.models.modes import evaluating
from rkld.text.normalising import words
from rkld.text.wording import unnamed

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded, Encoder
    from rkld.records.record import Record


MIN_K = 0.4
"""Share of an answer's tokens, the least likely, that Min-K% looks at, as in OpenUnlearning on TOFU."""

TEXT_MARGIN = 0.1
"""A text-only AUC further than this from .5, its interval beyond .5, makes the model's AUC uninterpretable."""


# Scores on arrays: lower for members


def loss_scores(losses: Sequence[ArrayLike]) -> np.ndarray:
    """Mean loss per token of each record, (n,): Yeom et al. 2018 (arXiv 1709.01604). ``losses``: n of (N,), nats."""
    return np.array([record.mean() for record in vectors(losses, "losses")])


def zlib_scores(losses: Sequence[ArrayLike], texts: Sequence[str]) -> np.ndarray:
    """Mean loss per token over the bytes of the text as zlib compresses it, (n,).

    Carlini et al. 2021 (arXiv 2012.07805), with OpenUnlearning's mean. ``texts`` are the answers the losses are of.
    """
    means = loss_scores(losses)
    if len(texts) != len(means):
        raise ValueError(f"losses are about {len(means)} records, texts about {len(texts)}")
    return means / [len(zlib.compress(text.encode("utf-8"))) for text in texts]


def min_k_scores(log_probabilities: Sequence[ArrayLike], k: float = MIN_K) -> np.ndarray:
    """Minus the mean log-probability of the least likely share k of the tokens (one at least), (n,).

    Min-K% Prob, Shi et al. 2024 (arXiv 2310.16789). ``log_probabilities``: n of (N,), in nats.
    """
    if not 0 < k <= 1:
        raise ValueError(f"k is {k}; it is a share, above 0 and at most 1")
    return np.array(
        [-np.sort(r)[: max(1, int(len(r) * k))].mean() for r in vectors(log_probabilities, "log_probabilities")]
    )


def min_k_plus_plus_scores(
    log_probabilities: Sequence[ArrayLike],
    means: Sequence[ArrayLike],
    deviations: Sequence[ArrayLike],
    k: float = MIN_K,
) -> np.ndarray:
    """:func:`min_k_scores` of ``(log p − μ) / σ``, (n,): Min-K%++, Zhang et al. 2025 (arXiv 2404.02936).

    μ and σ are mean and standard deviation of log p over the vocabulary, under the model's own distribution, at each
    position: ``means`` and ``deviations``, n of (N,) like ``log_probabilities``. σ² counts as 1e-6 at least.
    """
    named = {"log_probabilities": log_probabilities, "means": means, "deviations": deviations}
    arrays = [vectors(rows, name) for name, rows in named.items()]
    lengths = [[len(row) for row in rows] for rows in arrays]
    if not lengths[0] == lengths[1] == lengths[2]:
        raise ValueError("log_probabilities, means and deviations are not about the same tokens")
    return min_k_scores([(p - mu) / np.maximum(sigma, 1e-3) for p, mu, sigma in zip(*arrays, strict=True)], k)


def reference_scores(losses: Sequence[ArrayLike], reference_losses: Sequence[ArrayLike]) -> np.ndarray:
    """Mean loss less that of a reference model, per record, (n,): Carlini et al. 2021 (arXiv 2012.07805)."""
    ours, theirs = loss_scores(losses), loss_scores(reference_losses)
    if len(ours) != len(theirs):
        raise ValueError(f"losses are about {len(ours)} records, reference_losses about {len(theirs)}")
    difference: np.ndarray = ours - theirs
    return difference


def recall_scores(losses: Sequence[ArrayLike], behind_others: Sequence[ArrayLike]) -> np.ndarray:
    """Minus the mean loss behind records that were never trained on, over the mean loss alone, per record, (n,).

    ReCaLL, Xie et al. 2024 (arXiv 2406.15968): of a record that was learned strangers before it raise the loss most.
    With its sign turned round this is the ratio of mean log-likelihoods in the authors' code (ruoyuxie/recall), which
    reads all tokens of a text; here losses are whatever is given. Losses below 1e-6 nats count as that. ValueError
    where the two are not about as many records.
    """
    alone, behind = loss_scores(losses), loss_scores(behind_others)
    if len(alone) != len(behind):
        raise ValueError(f"losses are about {len(alone)} records, behind_others about {len(behind)}")
    ratio: np.ndarray = -behind / np.maximum(alone, 1e-6)
    return ratio


def neighbourhood_scores(losses: Sequence[ArrayLike], neighbours: Sequence[Sequence[ArrayLike]]) -> np.ndarray:
    """Mean loss less the mean of those of a record's neighbours, which differ from it in a token, per record, (n,).

    Mattern et al. 2023 (arXiv 2305.18462), checked against the authors' code (justusmattern27/neighbour-mia); how
    neighbours are found is another thing (:func:`further_scores`). ``neighbours`` are n lists of (N,) losses.
    ValueError where a record has none, or they are not about as many records.
    """
    alone = loss_scores(losses)
    if len(alone) != len(neighbours) or not all(map(len, neighbours)):
        raise ValueError(f"{len(alone)} records need as many lists of neighbours, none of them empty")
    means = np.array([loss_scores(some).mean() for some in neighbours])
    difference: np.ndarray = alone - means
    return difference


def scaled_confidences(losses: Sequence[ArrayLike]) -> np.ndarray:
    """``log(p / (1 − p))`` of the geometric mean p of a record's token probabilities, (n,); higher for members.

    The statistic of LiRA (Carlini et al. 2022, arXiv 2112.03570), which is nearly Gaussian over models. Mean losses
    count as 1e-9 nats at least.
    """
    means = np.maximum(loss_scores(losses), 1e-9)
    confidences: np.ndarray = -np.log(np.expm1(np.minimum(means, 500.0)))
    return confidences


FEW_SHADOWS = 64
"""With fewer shadow models of a kind, all records share that kind's variance, as in LiRA."""


def likelihood_ratio_scores(confidences: ArrayLike, shadows: ArrayLike, learned: ArrayLike) -> np.ndarray:
    """U-LiRA: how much likelier a record's confidence is of models that never had it, in nats, (n,); lower for members.

    Hayes et al. 2024 (arXiv 2403.01218): an attacker of its own for each record. A Gaussian is fitted to the
    confidences of shadow models that learned the record and unlearned it by the method under test, another to those
    that never had it; the score is the log-likelihood of the second less that of the first. The paper's algorithm could
    be read in others' code alone; sharing variances where there are few shadow models is LiRA's.

    Args:
        confidences: :func:`scaled_confidences` of the model under test, (n,).
        shadows: the same of s shadow models, (s, n).
        learned: whether a shadow model learned the record and unlearned it, else it never had it, (s, n).

    Raises:
        ValueError: a record of which fewer than two shadow models have learned it, or fewer than two have not; shapes
            that differ; values that are no numbers.
    """
    ours = vector(confidences, "confidences")
    theirs, had = np.asarray(shadows, dtype=float), np.asarray(learned, dtype=bool)
    if theirs.ndim != 2 or theirs.shape != had.shape or theirs.shape[1] != len(ours) or not np.isfinite(theirs).all():
        raise ValueError(f"shadows {theirs.shape} and learned {had.shape} must be (s, {len(ours)}), of numbers")
    fitted = []
    for kind in (~had, had):
        counts = kind.sum(axis=0)
        if counts.min() < 2:
            raise ValueError("every record needs two shadow models that learned it and two that never had it")
        means = np.where(kind, theirs, 0.0).sum(axis=0) / counts
        squares = (np.where(kind, theirs - means, 0.0) ** 2).sum(axis=0)
        shared = squares.sum() / (counts.sum() - len(counts))
        variances = np.where(counts < FEW_SHADOWS, shared, squares / (counts - 1))
        fitted.append((means, np.sqrt(np.maximum(variances, 1e-12))))
    never, once = (-np.log(spread) - 0.5 * ((ours - mean) / spread) ** 2 for mean, spread in fitted)
    scores: np.ndarray = never - once
    return scores


def true_positive_rate(forget_scores: ArrayLike, holdout_scores: ArrayLike, rate: float) -> float:
    """Share of forget records (n,) below a threshold under which at most a share ``rate`` of the holdout (m,) lies.

    The largest such threshold is taken (Carlini et al. 2022, arXiv 2112.03570). With fewer than 1 / rate holdout
    records none of these lies under it. ValueError for NaN, infinity or nothing, or a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}; it must lie in [0, 1)")
    forget, holdout = vector(forget_scores, "forget_scores"), np.sort(vector(holdout_scores, "holdout_scores"))
    return float((forget < holdout[math.floor(rate * len(holdout) + 1e-9)]).mean())


def auc(forget_scores: ArrayLike, holdout_scores: ArrayLike) -> float:
    """Chance that a forget record's score (n,) is lower than a holdout record's (m,); a tie counts half.

    The area under the ROC curve, as the Mann–Whitney statistic over n·m. ValueError for NaN, infinity or nothing.
    """
    from scipy.stats import rankdata

    forget, holdout = vector(forget_scores, "forget_scores"), vector(holdout_scores, "holdout_scores")
    n, m = len(forget), len(holdout)
    ranks = rankdata(np.concatenate([forget, holdout]))  # ties share the mean of their ranks
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def priv_leak(auc_value: float, retrained_auc: float = 0.5) -> float:
    """``100 · ((1 − AUC) − (1 − AUC_ret)) / (1 − AUC_ret)``: MUSE, Shi et al. 2024 (arXiv 2407.06460).

    0 where the model shows as much as the retrained one; below 0 where it still remembers, above 0 where it has
    over-forgotten. ValueError where an AUC is not in [0, 1], or the retrained one is 1.
    """
    ours, theirs = vector([auc_value, retrained_auc], "AUC", in_unit_interval)
    if theirs == 1:
        raise ValueError("the retrained AUC is 1: PrivLeak divides by 1 − AUC")
    return float(100 * ((1 - ours) - (1 - theirs)) / (1 - theirs))


def privacy_score(aucs: ArrayLike, retrained_aucs: ArrayLike) -> float:
    """OpenUnlearning's Priv: harmonic mean over k attacks of how near each AUC (k,) is to the retrained model's (k,).

    Dorna et al. 2025 (arXiv 2506.12618) say of each score only that it lies in [0, 1] and tells how closely the model
    agrees with the retrained one; its formula is not published (locuslab/open-unlearning, issues 150 and 172). Here it
    is ``max(0, 1 − |AUC − AUC_ret| / AUC_ret)``, one less the relative difference that their code reports; so do not
    set it beside the paper's table. ValueError where an AUC is not in [0, 1], a retrained one is 0, or k differs.
    """
    ours, theirs = vector(aucs, "aucs", in_unit_interval), vector(retrained_aucs, "retrained_aucs", in_unit_interval)
    if len(ours) != len(theirs) or not theirs.all():
        raise ValueError(f"{len(ours)} AUCs need as many retrained ones above 0; there are {np.count_nonzero(theirs)}")
    return harmonic_mean(np.maximum(0, 1 - np.abs(ours - theirs) / theirs), "the scores")


def auc_figure(
    forget_scores: ArrayLike,
    holdout_scores: ArrayLike,
    forget_persons: Persons = None,
    holdout_persons: Persons = None,
    *,
    seed: int = 0,
) -> Figure:
    """:func:`auc` with an interval: a bootstrap of both sets, never narrower than Newcombe's.

    Newcombe 2006 (Statistics in Medicine 25, method 5) needs no spread, so an AUC of 1 does not claim certainty.
    """
    forget, holdout = vector(forget_scores, "forget_scores"), vector(holdout_scores, "holdout_scores")
    found = bootstrap(
        lambda f, h: auc(forget[f], holdout[h]),
        (len(forget), len(holdout)),
        (forget_persons, holdout_persons),
        bounds=(0.0, 1.0),
        seed=seed,
    )
    low, high = _newcombe(found.value, len(forget), len(holdout))
    method = f"{found.method}; Newcombe where wider"
    return Figure(found.value, min(low, found.low), max(high, found.high), found.n, method)


def text_tells(text: Figure) -> bool:
    """Whether a text-only AUC is far from .5: further than :data:`TEXT_MARGIN`, and its interval beyond .5."""
    return abs(text.value - 0.5) > TEXT_MARGIN and not text.low <= 0.5 <= text.high


# Text alone


def text_auc(
    forget: Sequence[str],
    holdout: Sequence[str],
    identifiers: Sequence[str] = (),
    forget_persons: Persons = None,
    holdout_persons: Persons = None,
    *,
    seed: int = 0,
) -> Figure:
    """How well forget texts can be distinguished from holdout texts without any model (AUC); .5: not at all.

    What does far better than chance would make any model's AUC meaningless (Das et al. 2024, arXiv 2406.16201;
    Meeus et al. 2024, arXiv 2406.17975). A bag of words (naive Bayes, add-one) is trained and tested across ten folds,
    whole persons in each, names left out. Where the forget set, or the holdout, is about too few persons for that, a
    person's own topics would pass for a shift: there the texts' compressibility alone (zlib bytes per byte) is the
    score, and an AUC below .5 is turned round. ValueError where a set is empty.
    """
    for name, texts in (("forget", forget), ("holdout", holdout)):
        if not texts:
            raise ValueError(f"the {name} set has no texts")
    sides = [_people(forget_persons, len(forget)), _people(holdout_persons, len(holdout))]
    if min(len(set(side)) for side in sides) < FEWEST_PERSONS:
        ours, theirs = (np.array([_compressibility(t) for t in texts]) for texts in (forget, holdout))
        if auc(ours, theirs) < 0.5:
            ours, theirs = -ours, -theirs
        how = "compressibility"
    else:
        bags = [[Counter(words(unnamed(t, identifiers))) for t in texts] for texts in (forget, holdout)]
        (ours, theirs), how = _bayes_scores(bags, sides), "bag of words"
    figure = auc_figure(ours, theirs, forget_persons, holdout_persons, seed=seed)
    return Figure(figure.value, figure.low, figure.high, figure.n, f"{how}; {figure.method}")


FOLDS = 10


def _bayes_scores(bags: Sequence[Sequence[Counter[str]]], sides: Sequence[Sequence[Hashable]]) -> list[np.ndarray]:
    """Minus the log-odds per word of being a forget text, from the folds that a text's person is not in."""
    vocabulary = len(set().union(*(bag for side in bags for bag in side)))
    folds = []
    for persons in sides:
        fold_of = {person: number % FOLDS for number, person in enumerate(dict.fromkeys(persons))}
        folds.append([fold_of[person] for person in persons])
    scores = [np.zeros(len(side)) for side in bags]
    for fold in range(FOLDS):
        counts = []
        for texts, fold_of_text in zip(bags, folds, strict=True):
            training = (bag for bag, f in zip(texts, fold_of_text, strict=True) if f != fold)
            counts.append(sum(training, Counter[str]()))
        totals = [count.total() + vocabulary + 1 for count in counts]
        for side, (texts, fold_of_text) in enumerate(zip(bags, folds, strict=True)):
            for i in (i for i, f in enumerate(fold_of_text) if f == fold):
                odds = [
                    number * math.log((counts[0][w] + 1) * totals[1] / ((counts[1][w] + 1) * totals[0]))
                    for w, number in texts[i].items()
                ]
                scores[side][i] = -sum(odds) / max(texts[i].total(), 1)
    return scores


def _people(persons: Persons, n: int) -> Sequence[Hashable]:
    """Labels for the folds; where nobody says whose the texts are, each is on its own."""
    return range(n) if persons is None else persons


def _compressibility(text: str) -> float:
    raw = text.encode("utf-8")
    return len(zlib.compress(raw)) / max(len(raw), 1)


# Of a model


class VocabularyScores(NamedTuple):
    """A model's distribution at the N marked tokens of one record, given all tokens before each."""

    log_probabilities: np.ndarray
    """(N,) float64: of the tokens themselves, in nats."""
    means: np.ndarray
    """(N,) float64: of the log-probability over the vocabulary, under the model's own distribution."""
    deviations: np.ndarray
    """(N,) float64: standard deviation of the same."""


def vocabulary_scores(
    lm: LanguageModel, encoded: Sequence[Encoded], *, batch_tokens: int = BATCH_TOKENS
) -> list[VocabularyScores]:
    """Log-probability of every answer token, with its mean and deviation over the vocabulary; in the order given.

    Logits are made for a few hundred predictions at a time. Up to rounding, values depend neither on ``batch_tokens``
    nor on the other records. The softmax is taken in float32, for float64 models in float64.
    """
    found: dict[int, VocabularyScores] = {}
    with measuring(lm.model):
        for batch in batches([len(record.ids) for record in encoded], batch_tokens):
            records = [encoded[i] for i in batch]
            ids = pad(records)
            rows = predictors([record.answer for record in records], ids.shape[1])
            targets = ids.flatten()[rows + 1].to(lm.device)  # (T,)
            hidden = hidden_at(lm.backbone, ids.to(lm.device), rows.to(lm.device))  # (T, d)
            chunks = zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True)
            values = torch.cat([_over_vocabulary(lm.logits(h), t) for h, t in chunks], dim=1)  # (3, T)
            ends = np.cumsum([sum(record.answer) for record in records])
            for i, some in zip(batch, np.split(values.double().cpu().numpy(), ends[:-1], axis=1), strict=True):
                found[i] = VocabularyScores(*some)
    return [found[i] for i in range(len(encoded))]


def _over_vocabulary(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(3, T) of logits (T, V): log p of the targets, mean and standard deviation of log p under p."""
    log_p = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=-1)
    p = log_p.exp()
    own = log_p.gather(1, targets[:, None])[:, 0]
    # Rows of padded vocabularies may be at −∞, where p · log p is 0. Centred: E[x²] − μ² would cancel.
    log_p = log_p.masked_fill_(p == 0, 0.0)
    mean = (p * log_p).sum(dim=1)
    variance = p.mul_(log_p.sub_(mean[:, None]).square_()).sum(dim=1)
    return torch.stack([own, mean, variance.sqrt()])


def attack_scores(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Record], *, reference: LanguageModel | None = None
) -> dict[str, np.ndarray]:
    """All attacks' scores of the records' answers, attack → (n,): ``loss``, ``zlib``, ``min_k``, ``min_k_plus_plus``.

    With a ``reference`` model of the same tokenizer, ``reference`` too. Min-K% and Min-K%++ leave out the tokens that
    end a turn, as OpenUnlearning does; losses have them. ValueError without records.
    """
    encoded = [encoder.encode(record) for record in records]
    scores = vocabulary_scores(lm, encoded)
    losses = [-found.log_probabilities for found in scores]
    content = answer_content(lm, encoded)
    kept = [[values[c] for values in found] for found, c in zip(scores, content, strict=True)]
    by_name = {
        "loss": loss_scores(losses),
        "zlib": zlib_scores(losses, [record.answer for record in records]),
        "min_k": min_k_scores([found[0] for found in kept]),
        "min_k_plus_plus": min_k_plus_plus_scores(
            [found[0] for found in kept], [found[1] for found in kept], [found[2] for found in kept]
        ),
    }
    if reference is not None:
        theirs = [-found.log_probabilities for found in vocabulary_scores(reference, encoded)]
        by_name["reference"] = reference_scores(losses, theirs)
    return by_name


SHOTS = 5
"""Records that ReCaLL puts before another; the authors' code takes any number (its example: 7)."""

NEIGHBOURS = 8
"""Of each record: as many tokens are replaced, one at a time."""


def further_scores(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Record], strangers: Sequence[Record]
) -> dict[str, np.ndarray]:
    """Scores of attacks that take several passes a record: ``gradient_norm``, ``recall``, ``neighbourhood``; each (n,).

    All read the answers' tokens, given all before them. The neighbours are the model's own: an answer token gives way
    to the one that the model would rather have said there. The paper's come from a masked language model, whose input
    is noised, and are the 50 to 100 likeliest of a text; so do not set these figures beside the paper's.

    Args:
        strangers: records that were never trained on, two at least, which ReCaLL puts before each: never the record
            itself.

    Raises:
        ValueError: no records, or too few strangers.
    """
    encoded, others = ([encoder.encode(record) for record in some] for some in (records, strangers))
    losses = answer_losses(lm, encoded)
    room = lm.context_length
    behind = [_behind(e, [other for other in others if other.ids != e.ids][:SHOTS], room) for e in encoded]
    neighbours = [_neighbours(lm, e) for e in encoded]
    theirs = answer_losses(lm, [one for some in neighbours for one in some])
    ends = np.cumsum([len(some) for some in neighbours])
    grouped = [theirs[end - len(some) : end] for end, some in zip(ends, neighbours, strict=True)]
    return {
        "gradient_norm": gradient_norms(lm, encoded),
        "recall": recall_scores(losses, answer_losses(lm, behind)),
        "neighbourhood": neighbourhood_scores(losses, grouped),
    }


def gradient_norms(lm: LanguageModel, encoded: Sequence[Encoded]) -> np.ndarray:
    """Mean over the weights' tensors of the L2 norm of the gradient of a record's mean answer loss, (n,).

    Wang et al. 2024 (arXiv 2402.17012), as OpenUnlearning has it. All weights of floating point count, whether or not
    they are trained; the model ends as it began.
    """
    weights = [p for p in lm.model.parameters() if p.is_floating_point()]
    trained = [p.requires_grad for p in weights]
    found = []
    try:
        for p in weights:
            p.requires_grad_(True)
        with evaluating(lm.model), torch.enable_grad():
            for e in encoded:
                logits = lm.model(input_ids=torch.tensor([e.ids], device=lm.device)).logits[0, :-1]
                marks = torch.tensor(e.answer[1:], device=lm.device)
                labels = torch.tensor(e.ids[1:], device=lm.device)[marks]
                logits = logits[marks].to(torch.promote_types(logits.dtype, torch.float32))
                loss = torch.nn.functional.cross_entropy(logits, labels)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
                norms = [g.norm().double() for g in gradients if g is not None]
                found.append(float(torch.stack(norms).mean()))
    finally:
        for p, was in zip(weights, trained, strict=True):
            p.requires_grad_(was)
    return np.array(found)


def _behind(encoded: Encoded, before: Sequence[Encoded], room: int | None) -> Encoded:
    """A record behind others, of which only their ends are left where the model's context is full."""
    ids = [token for other in before for token in other.ids]
    ids = ids if room is None else ids[max(0, len(ids) - max(0, room - len(encoded.ids))) :]
    no = (False,) * len(ids)
    return replace(
        encoded,
        ids=(*ids, *encoded.ids),
        answer=(*no, *encoded.answer),
        scored=(*no, *encoded.scored),
        prompt_length=len(ids) + encoded.prompt_length,
    )


def _neighbours(lm: LanguageModel, encoded: Encoded) -> list[Encoded]:
    """The record with one answer token replaced by the likeliest other there, at some places spread over the answer."""
    places = [t for t, a in enumerate(encoded.answer) if a]
    chosen = sorted({places[i * len(places) // NEIGHBOURS] for i in range(min(NEIGHBOURS, len(places)))})
    with measuring(lm.model):
        hidden = hidden_at(
            lm.backbone,
            torch.tensor([encoded.ids], device=lm.device),
            torch.tensor([t - 1 for t in chosen], device=lm.device),
        )
        logits = lm.logits(hidden)
        own = torch.tensor([encoded.ids[t] for t in chosen], device=lm.device)
        likeliest = logits.scatter(1, own[:, None], -torch.inf).argmax(-1).tolist()
    ids = encoded.ids
    return [replace(encoded, ids=(*ids[:t], other, *ids[t + 1 :])) for t, other in zip(chosen, likeliest, strict=True)]


def _newcombe(value: float, n: int, m: int) -> tuple[float, float]:
    """Interval for an AUC: where |AUC − θ| is 1.96 standard errors of an exponential model with that θ."""
    from scipy.optimize import brentq

    middle = (n + m) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + middle * (1 - theta) / (2 - theta) + middle * theta / (1 + theta)
        return (value - theta) ** 2 - 1.959964**2 * theta * (1 - theta) * spread / (n * m)

    # At an AUC of 0 or 1 itself there is a root that is no end of the interval.
    low = brentq(excess, 0.0, min(value, 1 - 1e-9)) if value > 0 else 0.0
    high = brentq(excess, max(value, 1e-9), 1.0) if value < 1 else 1.0
    return float(low), float(high)
