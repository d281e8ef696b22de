"""TOFU's metrics, as the code behind all published figures has them (Maini et al. 2024, arXiv 2401.06121).

A loss is ``L(a|q)``: the mean negative log-likelihood per answer token, in nats, end of sequence included.
Shapes: ``n`` questions, ``k`` wrong (perturbed) answers to each.
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from rkld.errors import ODD_VALUES, UserError
from rkld.evaluation.arrays import harmonic_mean, vector
from rkld.files import new_file, write_text

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


# Tasks and fields of the TOFU authors' logs, and their names here.
_TASKS = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}

_FIELDS = {
    "avg_gt_loss": "gold_loss",
    "avg_paraphrased_loss": "paraphrase_loss",
    "average_perturb_loss": "perturbed_loss",
    "rougeL_recall": "rouge",
}

# The same of open-unlearning's TOFU_EVAL.json: "forget_Q_A_Prob" → "value_by_index" → "0" → "avg_loss". The truth
# ratio's name was written both ways over time.
_OPEN_TASKS = {"forget": "forget", "retain": "retain", "ra": "real_authors", "wf": "world_facts"}

_OPEN_FIELDS = {
    "Q_A_Prob": ("avg_loss", "gold_loss"),
    "Q_A_PARA_Prob": ("avg_loss", "paraphrase_loss"),
    "Q_A_PERT_Prob": ("avg_loss", "perturbed_loss"),
    "Q_A_ROUGE": ("rougeL_recall", "rouge"),
    "Truth_Ratio": ("score", "truth_ratio"),
    "truth_ratio": ("score", "truth_ratio"),
}


def probability(loss: ArrayLike) -> np.ndarray:
    """``exp(−L)`` per question; loss (n,) → (n,)."""
    probabilities: np.ndarray = np.exp(-vector(loss, "loss"))
    return probabilities


def normalised_probability(gold_loss: ArrayLike, perturbed_loss: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
    """``p / (p + Σ_k wrong p_k)`` per question, p = exp(−L); losses (n,) and (n, k) → (n,).

    TOFU's probability on real authors and world facts.
    """
    gold = vector(gold_loss, "gold_loss")
    wrong = _per_answer(perturbed_loss, len(gold), "perturbed_loss")
    # Relative to the right answer, so that nothing underflows where all answers are improbable.
    with np.errstate(over="ignore"):
        return np.array([1 / (1 + np.exp(g - w).sum()) for g, w in zip(gold, wrong, strict=True)])


def truth_ratio(paraphrase_loss: ArrayLike, perturbed_loss: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
    """``r = exp(L(paraphrase) − mean_k L(perturbed_k))`` per question; losses (n,) and (n, k) → (n,).

    The geometric mean of the wrong answers' probabilities over that of the paraphrased right answer: below 1
    where the model prefers the right one. ``perturbed_loss`` may be a list of n sequences of unequal lengths.
    The old TOFU script keeps ``1/r``; its aggregates come out the same. ValueError for NaN, infinity, empty
    input or unequal n.
    """
    paraphrase = vector(paraphrase_loss, "paraphrase_loss")
    perturbed = _per_answer(perturbed_loss, len(paraphrase), "perturbed_loss")
    with np.errstate(over="ignore"):
        ratios: np.ndarray = np.exp(paraphrase - [losses.mean() for losses in perturbed])
    return ratios


def forget_truth_ratio(ratios: ArrayLike) -> float:
    """``mean(min(r, 1/r))``, the forget set's aggregate: 1 where right and wrong are equally likely."""
    r = _ratios(ratios, "ratios")
    with np.errstate(divide="ignore"):
        return float(np.minimum(r, 1 / r).mean())


def utility_truth_ratio(ratios: ArrayLike) -> float:
    """``mean(max(0, 1 − r))``, the aggregate of all other sets: near 1 where right answers are preferred."""
    return float(np.maximum(0, 1 - _ratios(ratios, "ratios")).mean())


@dataclass(frozen=True)
class ForgetQuality:
    """Kolmogorov–Smirnov test. A high p-value proves no equality: show ``statistic`` and both n with it."""

    pvalue: float
    statistic: float  # the KS distance, 0 to 1
    n: int  # questions of the unlearned model
    retrained_n: int  # questions of the retrained model


def forget_quality(ratios: ArrayLike, retrained_ratios: ArrayLike) -> ForgetQuality:
    """Test between the truth ratios (n,) and (m,) of the unlearned and of the retrained model on the forget set.

    n and m may differ, as where published logs stop at 300 questions. The p-value is exact up to 10 000 questions,
    as in the published figures. ValueError where one of the two holds NaN, a negative value or nothing.
    """
    from scipy.stats import ks_2samp

    ours, theirs = _ratios(ratios, "ratios"), _ratios(retrained_ratios, "retrained_ratios")
    test = ks_2samp(ours, theirs)
    return ForgetQuality(float(test.pvalue), float(test.statistic), n=len(ours), retrained_n=len(theirs))


@dataclass(frozen=True)
class ModelUtility:
    """``value`` and the nine it is the harmonic mean of, such as ``parts["retain.probability"]``."""

    value: float
    parts: Mapping[str, float]


def model_utility(
    *,
    retain: Mapping[str, ArrayLike],
    real_authors: Mapping[str, ArrayLike],
    world_facts: Mapping[str, ArrayLike],
) -> ModelUtility:
    """Harmonic mean of {retain, real authors, world facts} × {probability, ROUGE-L recall, truth ratio}.

    Each mapping holds ``gold_loss`` (n,), ``paraphrase_loss`` (n,), ``perturbed_loss`` (n, k) and ``rouge``
    (n,), ROUGE-L recall. On real authors and world facts probability is normalised over the answers, and
    ``paraphrase_loss`` may be left out: they have no paraphrases, the right answer stands in. The value is 0
    where one of the nine is. ValueError, naming the set, for a missing array, NaN, infinity, nothing, unequal
    n, or a ROUGE outside [0, 1].
    """
    parts: dict[str, float] = {}
    for name, logs in (("retain", retain), ("real_authors", real_authors), ("world_facts", world_facts)):
        try:
            found = _utility_parts(logs, known_world=name != "retain")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        parts |= {f"{name}.{part}": value for part, value in found.items()}
    return ModelUtility(harmonic_mean(list(parts.values())), parts)


def _utility_parts(logs: Mapping[str, ArrayLike], known_world: bool) -> dict[str, float]:
    """The three values of one set; ``known_world`` for real authors and world facts."""
    if known_world and "gold_loss" in logs:
        logs = {"paraphrase_loss": logs["gold_loss"], **logs}
    missing = [field for field in _FIELDS.values() if field not in logs]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    gold, rouge = vector(logs["gold_loss"], "gold_loss"), vector(logs["rouge"], "rouge")
    ratios = truth_ratio(logs["paraphrase_loss"], logs["perturbed_loss"])
    if not len(gold) == len(rouge) == len(ratios):
        lengths = f"{len(gold)}, {len(rouge)} and {len(ratios)}"
        raise ValueError(f"gold_loss, rouge and paraphrase_loss are about {lengths} questions")
    if rouge.min() < 0 or rouge.max() > 1:
        raise ValueError(f"rouge must lie in [0, 1], found {rouge.min():g} to {rouge.max():g}")
    p = normalised_probability(gold, logs["perturbed_loss"]) if known_world else probability(gold)
    return {
        "probability": float(p.mean()),
        "rouge": float(rouge.mean()),
        "truth_ratio": utility_truth_ratio(ratios),
    }


def rouge_l_recall(generated: str, gold: str) -> float:
    """ROUGE-L recall of ``generated`` against ``gold``, 0 to 1, with stemming (rouge-score, as TOFU uses it).

    Longest common subsequence of words over the words of ``gold``. Only ASCII letters and digits count
    as parts of words: a gold answer without any gives 0.
    """
    return float(_scorer().score(gold, generated)["rougeL"].recall)


@functools.cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def read_logs(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """A model's published results (``.json`` or ``.json.gz``), as ``model_utility`` takes them.

    Either the TOFU authors' aggregated evaluation log or open-unlearning's ``TOFU_EVAL.json``. Returns
    ``{"forget" | "retain" | "real_authors" | "world_facts": {"gold_loss": (n,), "paraphrase_loss": (n,),
    "perturbed_loss": (n, k), "rouge": (n,)}}``, questions in the order of their numbers; what the log lacks
    is left out. Of open-unlearning there is ``truth_ratio`` (n,) as well. UserError where the file is no such log.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        log = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise UserError(f"Cannot read the evaluation log {path}: {error}. Give a .json or .json.gz file.") from error
    try:
        tasks = _tasks(log) if isinstance(log, dict) else {}
        found = {name: _arrays(fields) for name, fields in tasks.items()}
    except ODD_VALUES as error:
        raise UserError(
            f"{path} is damaged: every field must hold one number per question ({error}). Fetch it again."
        ) from error
    if not found:
        raise UserError(
            f"{path} is no evaluation log of TOFU: expected one of the keys {', '.join(_TASKS)},"
            " or those of open-unlearning, such as forget_Q_A_Prob."
        )
    return found


def write_logs(
    path: str | Path, logs: Mapping[str, Mapping[str, ArrayLike]], form: Literal["open-unlearning", "tofu"]
) -> None:
    """Write a model's results as :func:`read_logs` reads them; it gives back the same numbers.

    Args:
        path: ``.json``, or ``.json.gz`` for a compressed file.
        logs: what :func:`read_logs` returns; other fields than it knows are left out.
        form: open-unlearning's ``TOFU_EVAL.json`` with its mean of every metric, or the TOFU authors' log.

    Raises:
        ValueError: a field holds no numbers, or none at all of those that are known.
    """
    fields = {
        task: {name: np.asarray(logs[task][name], dtype=float) for name in _FIELDS.values() if name in logs[task]}
        for task in _OPEN_TASKS.values()
        if task in logs
    }
    if not any(fields.values()):
        raise ValueError(f"no results to write: give some of {', '.join(_FIELDS.values())}")
    text = json.dumps(_as_open_unlearning(fields) if form == "open-unlearning" else _as_tofu(fields)) + "\n"
    path = Path(path)
    if path.suffix == ".gz":
        with new_file(path) as new:
            new.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        write_text(path, text)


def _as_tofu(fields: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Task → field → question number → value, by the names of the authors' logs."""
    return {
        task: {theirs: _numbered(fields[ours][name]) for theirs, name in _FIELDS.items() if name in fields[ours]}
        for task, ours in _TASKS.items()
        if ours in fields
    }


def _as_open_unlearning(fields: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Metric → its mean, and question number → its parts. A mean over wrong answers is one over all of them."""
    found: dict[str, Any] = {}
    for prefix, task in _OPEN_TASKS.items():
        own = fields.get(task, {})
        for metric, (part, field) in _OPEN_FIELDS.items():
            if field not in own:
                continue
            values = own[field]
            parts = {"prob": np.exp(-values), part: values} if part == "avg_loss" else {part: values}
            columns = {name: values.tolist() for name, values in parts.items()}
            rows = {str(i): {name: column[i] for name, column in columns.items()} for i in range(len(values))}
            mean = np.mean(next(iter(parts.values())))
            found[f"{prefix}_{metric}"] = {"agg_value": float(mean), "value_by_index": rows}
        if "perturbed_loss" in own and (right := own.get("paraphrase_loss", own.get("gold_loss"))) is not None:
            ratios = truth_ratio(right, own["perturbed_loss"])
            mean = forget_truth_ratio(ratios) if task == "forget" else utility_truth_ratio(ratios)
            rows = {number: {"score": value} for number, value in _numbered(ratios).items()}
            found[f"{prefix}_truth_ratio"] = {"agg_value": mean, "value_by_index": rows}
    return found


def _numbered(values: np.ndarray) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values.tolist())}


def logged_ratios(logs: Mapping[str, Mapping[str, ArrayLike]]) -> np.ndarray:
    """Truth ratios (n,) of the forget set in what :func:`read_logs` returned, for :func:`forget_quality`.

    From the losses where the log has them; else as open-unlearning wrote them. ValueError where there are neither.
    """
    forget = logs.get("forget", {})
    if "paraphrase_loss" in forget and "perturbed_loss" in forget:
        return truth_ratio(forget["paraphrase_loss"], forget["perturbed_loss"])
    if "truth_ratio" not in forget:
        raise ValueError("the log holds neither losses nor truth ratios of paraphrased and perturbed forget answers")
    return _ratios(forget["truth_ratio"], "truth_ratio")


def _tasks(log: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, object]]]:
    """Task → field → question number → value, of either kind of log."""
    tasks = {
        name: {ours: log[task][theirs] for theirs, ours in _FIELDS.items() if theirs in log[task]}
        for task, name in _TASKS.items()
        if task in log
    }
    for prefix, name in _OPEN_TASKS.items():
        for metric, (value, field) in _OPEN_FIELDS.items():
            rows = log.get(f"{prefix}_{metric}", {}).get("value_by_index")
            if rows:
                tasks.setdefault(name, {})[field] = {number: row[value] for number, row in rows.items()}
    return tasks


def _arrays(fields: Mapping[str, Mapping[str, object]]) -> dict[str, np.ndarray]:
    """The arrays of one task, all in the order of the question numbers."""
    questions = sorted(next(iter(fields.values()), {}), key=int)
    found = {}
    for name, values in fields.items():
        if set(values) != set(questions):
            raise ValueError(f"{name} is about other questions than the fields before it")
        found[name] = np.array([values[q] for q in questions], dtype=float)
        if np.isnan(found[name]).any():
            raise ValueError(f"{name} lacks the value of a question")
    return found


def _per_answer(values: ArrayLike | Sequence[ArrayLike], n: int, name: str) -> list[np.ndarray]:
    """n arrays of finite losses, one loss per wrong answer."""
    rows = list(cast(Sequence[ArrayLike], values))
    if len(rows) != n:
        raise ValueError(f"{name} is about {len(rows)} questions, the right answers are about {n}")
    return [vector(row, f"{name}[{i}]") for i, row in enumerate(rows)]


def _ratios(values: ArrayLike, name: str) -> np.ndarray:
    """Truth ratios (n,), n ≥ 1: not negative, infinite where exp() overflowed."""
    return vector(values, name, lambda r: r >= 0)
