"""``audit.json``: figures, comparisons, gates and verdict, made of the readings of all models. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rkld.auditing.attacks.prompts import PREFIXES
from rkld.auditing.attacks.relearning import effort
from rkld.auditing.gates import judge, judge_all
from rkld.auditing.inputs import Task
from rkld.auditing.metrics import (
    MEMBERSHIP,
    Metric,
    Readings,
    auc_difference,
    difference,
    membership_scores,
    metrics,
    truth_ratios,
)
from rkld.evaluation import membership as mia
from rkld.evaluation.fluency import utility_score
from rkld.evaluation.memorisation import correct_share, memorisation_score
from rkld.evaluation.statistics import Figure, bootstrap, equivalence
from rkld.evaluation.tofu import forget_quality, logged_ratios, model_utility, read_logs
from rkld.runfolder.manifest import run_of
from rkld.settings.auditing import AuditSettings

FORMAT = 1
"""Of audit.json."""


RELEARNED = 0.5
"""Probability of the rest, relative to the original's (to 1 without one), at which it counts as back."""


AGGREGATES = {
    "mem": ("harmonic mean of what is not memorised", "high", "OpenUnlearning, arXiv 2506.12618"),
    "priv": ("harmonic mean of closeness of membership to the control's", "high", "OpenUnlearning, arXiv 2506.12618"),
    "model_utility": ("harmonic mean of nine utility values", "high", "TOFU, arXiv 2401.06121"),
    "util": (
        "harmonic mean of model utility and 1 − repetition, relative to the original's",
        "high",
        "after OpenUnlearning, arXiv 2506.12618, without its gibberish classifier",
    ),
    "ks_distance": ("Kolmogorov–Smirnov distance of truth ratios to the retrained model's", "low", "TOFU"),
    "forget_quality": ("p-value of the same test: never a proof of equality", "high", "TOFU, arXiv 2401.06121"),
    "relearning_effort": ("optimizer steps until the rest is back", "high", ""),
}
"""Name → what it says, which way a model that never saw the records has it, source."""


def known_names(settings: AuditSettings) -> list[str]:
    """Every name a gate can have."""
    attacks = [f"{attack}_{what}" for attack in MEMBERSHIP for what in ("auc", "priv_leak")]
    return [*(metric.name for metric in metrics(settings)), *attacks, *AGGREGATES]


def model_path(source: str) -> str:
    """The model that a run folder holds, where ``source`` is one."""
    folder = Path(source)
    return str(folder / "model") if run_of(source) == folder and (folder / "model").is_dir() else source


def document(
    task: Task,
    readings: Mapping[str, Readings],
    *,
    models: Mapping[str, Any],
    inputs: Mapping[str, Any],
    not_run: Sequence[Mapping[str, str]],
    versions: Mapping[str, str],
    seconds: float,
) -> dict[str, Any]:
    """The whole of audit.json, of plain values without NaN or infinity (an unbounded end is null).

    Args:
        readings: role ("audited", "control", "original") → readings.
        models, inputs, not_run, versions, seconds: written as they are.
    """
    settings = task.settings
    found = _Figures(task, readings)
    named = found.all()
    gates = [judge(*gate, named) for gate in settings.gates()]
    verdict, reasons = judge_all(gates, task.steering.doubts)
    content = {
        "format": FORMAT,
        "verdict": verdict,
        "reasons": reasons,
        "gates": gates,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": seconds,
        "versions": dict(versions),
        "settings": _settings(settings),
        "models": dict(models),
        "inputs": {
            **inputs,
            "left_out": sorted(task.steering.left_out),
            "steering_notes": list(task.steering.notes),
            "probes": task.probed,
        },
        "metrics": named,
        "membership": found.membership_notes,
        "curves": {
            role: {name: read["relearning"][name] for name in ("steps", "probabilities", "learned")}
            for role, read in readings.items()
            if "relearning" in read
        },
        "general": {role: read["general"] for role, read in readings.items() if "general" in read},
        "not_run": list(not_run),
    }
    if not settings.redact:
        content["texts"] = _texts(task, readings)
    return plain(content)


class _Figures:
    """Every named number of the document."""

    def __init__(self, task: Task, readings: Mapping[str, Readings]):
        self.task, self.readings, self.seed = task, readings, task.settings.seed
        self.scores = {
            role: scores
            for role, read in readings.items()
            if (scores := membership_scores(read, readings.get("control"))) is not None
        }
        """Of membership: role → set → attack → scores."""
        self.persons = [task.labels([record.key for record in task.forget]), _subjects(task.holdout)]
        """Whose the forget and the holdout records are."""
        self.membership_notes: dict[str, Any] | None = None

    def all(self) -> dict[str, Any]:
        named = {metric.name: entry for metric in metrics(self.task.settings) if (entry := self._metric(metric))}
        named |= self._membership()
        for name, make in {
            "mem": self._mem, "priv": self._priv, "model_utility": self._utility, "util": self._util,
            "relearning_effort": self._effort,
        }.items():  # fmt: skip
            figures = {role: made for role in self.readings if (made := make(role)) is not None}
            if figures:
                named[name] = self._entry(*AGGREGATES[name], figures)
        return named | self._forget_quality()

    def _entry(self, title: str, forgotten: str, source: str, figures: Mapping[str, Figure | dict]) -> dict[str, Any]:
        return {
            "title": title, "forgotten": forgotten, "source": source,
            "figures": {role: asdict(f) if isinstance(f, Figure) else f for role, f in figures.items()},
        }  # fmt: skip

    def _metric(self, metric: Metric) -> dict[str, Any] | None:
        """Figures of each model, differences over the same records, and the records themselves."""
        values = {
            role: found
            for role, read in self.readings.items()
            if metric.reading in read and (found := metric.values(read[metric.reading]))
        }
        if not values:
            return None
        labels = {role: self._labels(found) for role, found in values.items()}
        figures = {role: metric.figure(found, labels[role], self.seed) for role, found in values.items()}
        entry = self._entry(metric.title, metric.forgotten, metric.source, figures)
        entry["against"] = {
            role: self._comparison(difference(metric, values["audited"], theirs, labels["audited"], self.seed), role)
            for role, theirs in values.items()
            if role != "audited" and "audited" in values and theirs.keys() == values["audited"].keys()
        }
        entry["records"] = values
        return entry

    def _labels(self, values: Mapping[str, float]) -> list | None:
        return self.task.labels([key.rsplit("/", 1)[0] if "/" in key else key for key in values])

    def _comparison(self, found: Figure, role: str) -> dict[str, Any]:
        """A paired difference; to the control, whether it is shown to lie within the margin stated beforehand."""
        entry = asdict(found)
        if role == "control":
            entry |= {"margin": self.task.settings.margin}
            entry |= {"equivalent": equivalence(found, self.task.settings.margin).established}
        return entry

    # Membership

    def _membership(self) -> dict[str, Any]:
        if not self.scores:
            return {}
        task, scores, persons = self.task, self.scores, self.persons
        text = mia.text_auc(
            [record.answer for record in task.forget], [record.answer for record in task.holdout], task.identifiers,
            *persons, seed=self.seed,
        )  # fmt: skip
        control = scores.get("control")
        self.membership_notes = {
            "text_auc": asdict(text),
            "interpretable": not mia.text_tells(text),
            "note": "text alone tells the sets apart: not interpretable" if mia.text_tells(text) else "",
            "reference": "control" if control else "assumed .5",
        }
        named: dict[str, Any] = {}
        for attack in MEMBERSHIP:
            pairs = {
                role: (sets["forget"][attack], sets["holdout"][attack])
                for role, sets in scores.items()
                if attack in sets["forget"]
            }
            figures = {role: mia.auc_figure(*pair, *persons, seed=self.seed) for role, pair in pairs.items()}
            if not figures:
                continue
            entry = self._entry(f"AUC of membership by {attack.replace('_', ' ')}", "low", _SOURCES[attack], figures)
            entry["against"] = {
                role: self._comparison(auc_difference(pairs["audited"], pairs[role], persons, self.seed), role)
                for role in pairs
                if role != "audited" and "audited" in pairs
            }
            named[f"{attack}_auc"] = entry
            reference = figures["control"].value if "control" in figures else 0.5
            if reference < 1:  # PrivLeak divides by 1 − AUC
                leaks = {role: _leak(figure, reference) for role, figure in figures.items()}
                named[f"{attack}_priv_leak"] = self._entry(
                    f"PrivLeak by {attack.replace('_', ' ')}", "", "MUSE, arXiv 2407.06460", leaks
                )
        return named

    # Aggregates: None where a part is missing

    def _mem(self, role: str) -> Figure | None:
        likelihood, contrast = (self.readings[role].get(name) for name in ("likelihood", "contrast"))
        if not likelihood or not contrast or "extraction_strength" not in next(iter(likelihood.values())):
            return None
        strength, exact = (
            np.array([row[name] for row in likelihood.values()])
            for name in ("extraction_strength", "exact_memorisation")
        )
        paraphrase = np.exp([-row["paraphrase_loss"] for row in contrast.values()])
        share = correct_share(list(truth_ratios(contrast).values()))

        def statistic(f: np.ndarray, c: np.ndarray) -> float:
            return memorisation_score(
                extraction_strength=strength[f].mean(), exact_memorisation=exact[f].mean(),
                paraphrase_probability=paraphrase[c].mean(), truth_ratio=share[c].mean(),
            )  # fmt: skip

        keys = (list(likelihood), list(contrast))
        return self._drawn(statistic, keys, [self.task.labels(some) for some in keys])

    def _priv(self, role: str) -> Figure | None:
        """Closeness of the four attacks' AUC to the control's, the audited records of both drawn together."""
        if "control" not in self.scores or role not in self.scores:
            return None
        pairs = {
            name: [[np.array(sets[part][attack]) for part in ("forget", "holdout")] for attack in MEMBERSHIP[:4]]
            for name, sets in self.scores.items()
        }

        def statistic(f: np.ndarray, h: np.ndarray) -> float:
            ours, theirs = ([mia.auc(a[f], b[h]) for a, b in pairs[name]] for name in (role, "control"))
            # Closeness is relative to the control's AUC, so one of 0 counts as the least that so many pairs can show.
            return mia.privacy_score(ours, np.maximum(theirs, 1 / (2 * f.size * h.size)))

        sizes = [len(some) for some in pairs[role][0]]
        return bootstrap(statistic, sizes, self.persons, bounds=(0.0, 1.0), seed=self.seed)

    def _utility(self, role: str) -> Figure | None:
        arrays = self._utility_arrays(role)
        if arrays is None:
            return None
        return self._drawn(lambda *drawn: _model_utility(arrays, drawn), self._utility_keys(role), None)

    def _util(self, role: str) -> Figure | None:
        """Relative to the original's, which is taken as it came out."""
        arrays = {name: self._utility_arrays(name) for name in (role, "original") if name in self.readings}
        if arrays.get(role) is None or arrays.get("original") is None:
            return None
        fluent = {
            name: np.array([1 - row["repetition"] for row in self.readings[name]["answers"].values()])
            for name in arrays
        }
        first = _model_utility(arrays["original"]), float(fluent["original"].mean())
        if not all(first):
            return None  # nothing can be compared with an original of no use at all

        def statistic(*drawn: np.ndarray) -> float:
            *questions, answers = drawn
            return utility_score(
                model_utility=_model_utility(arrays[role], questions), fluency=float(fluent[role][answers].mean()),
                initial_model_utility=first[0], initial_fluency=first[1],
            )  # fmt: skip

        keys = [*self._utility_keys(role), list(self.readings[role]["answers"])]
        return self._drawn(statistic, keys, None, bounds=(0.0, math.inf))

    def _utility_keys(self, role: str) -> list[list[str]]:
        return [list(self.readings[role][name]) for name in _UTILITY]

    def _utility_arrays(self, role: str) -> dict[str, dict[str, np.ndarray]] | None:
        """Set → field of :func:`rkld.evaluation.tofu.model_utility` → values; None where a part is missing."""
        sets = {name: self.readings[role].get(name) for name in _UTILITY}
        if not all(rows and "perturbed_loss" in next(iter(rows.values())) for rows in sets.values()):
            return None
        fields = {"gold_loss": "gold_loss", "paraphrase_loss": "paraphrase_loss", "perturbed_loss": "perturbed_loss",
                  "rouge": "rouge_l"}  # fmt: skip
        return {
            name: {theirs: np.array([row[ours] for row in rows.values()]) for theirs, ours in fields.items()}
            for name, rows in sets.items()
        }

    def _effort(self, role: str) -> dict[str, Any] | None:
        """Steps until the rest is back; null: not within the budget."""
        reading = self.readings[role].get("relearning")
        if not reading:
            return None
        curves = np.array(list(reading["probabilities"].values()))  # (n, checks)
        full = (self.readings.get("original") or {}).get("likelihood", {})
        known = [math.exp(-full[key]["loss"]) for key in reading["probabilities"] if key in full]
        level = RELEARNED * (float(np.mean(known)) if known else 1.0)

        budget = reading["steps"][-1]

        def steps(rows: np.ndarray) -> float:
            found = effort(reading["steps"], curves[rows].mean(axis=0), level)
            return budget + 1 if found is None else found

        drawn = asdict(bootstrap(steps, len(curves), self.task.labels(list(reading["probabilities"])), seed=self.seed))
        never = {end: None for end in ("value", "low", "high") if drawn[end] > budget}
        return {**drawn, **never, "level": level, "budget": budget}

    def _forget_quality(self) -> dict[str, Any]:
        """Against the control's truth ratios, or those of --retain-logs."""
        logs = self.task.settings.retain_logs
        theirs = (
            logged_ratios(read_logs(logs)) if logs
            else np.array(list(truth_ratios(self.readings.get("control", {}).get("contrast", {})).values()))
        )  # fmt: skip
        ratios = {
            role: np.array(list(truth_ratios(read["contrast"]).values()))
            for role, read in self.readings.items()
            if "contrast" in read and (logs or role != "control")
        }
        if not theirs.size or not ratios:
            return {}
        tests = {role: forget_quality(found, theirs) for role, found in ratios.items()}

        def distance(role: str, found: np.ndarray) -> Figure:
            if len(found) != len(theirs):
                return self._drawn(lambda d, t: forget_quality(found[d], theirs[t]).statistic, (found, theirs), None)
            # The same questions are asked of both models, so both are drawn together.
            labels = self.task.labels(list(truth_ratios(self.readings[role]["contrast"])))
            return self._drawn(lambda d: forget_quality(found[d], theirs[d]).statistic, [found], [labels])

        distances = {role: distance(role, found) for role, found in ratios.items()}
        quality = {
            role: {"value": test.pvalue, "low": None, "high": None, "n": test.n, "retrained_n": test.retrained_n,
                   "method": "p-value, no interval; the same questions are asked of both models, so it is inflated"}
            for role, test in tests.items()
        }  # fmt: skip
        return {
            "ks_distance": self._entry(*AGGREGATES["ks_distance"], distances),
            "forget_quality": self._entry(*AGGREGATES["forget_quality"], quality),
        }

    def _drawn(
        self, statistic: Callable[..., float], samples: Sequence[Sized], persons: Any,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Figure:  # fmt: skip
        return bootstrap(statistic, [len(some) for some in samples], persons, bounds=bounds, seed=self.seed)


_UTILITY = ("retain", "real_authors", "world_facts")


def _model_utility(arrays: Mapping[str, Mapping[str, np.ndarray]], drawn: Sequence[Any] = ()) -> float:
    """Of the rows ``drawn`` from each set; by default of all."""
    rows = zip(arrays.items(), drawn or [slice(None)] * len(arrays), strict=True)
    return model_utility(**{name: {n: a[d] for n, a in logs.items()} for (name, logs), d in rows}).value


_SOURCES = {
    "loss": "Yeom et al. 2018, arXiv 1709.01604",
    "zlib": "Carlini et al. 2021, arXiv 2012.07805",
    "min_k": "Shi et al. 2024, arXiv 2310.16789",
    "min_k_plus_plus": "Zhang et al. 2025, arXiv 2404.02936",
    "reference": "Carlini et al. 2021, arXiv 2012.07805",
}


def _leak(auc: Figure, reference: float) -> Figure:
    """PrivLeak falls as the AUC rises, so the ends change places."""
    value, high, low = (mia.priv_leak(end, reference) for end in (auc.value, auc.low, auc.high))
    return Figure(value, low, high, auc.n, f"{auc.method}; reference AUC {reference:.3f}")


def _subjects(records: Sequence[Any]) -> list[str] | None:
    found = [record.subject for record in records]
    return None if None in found else found


# Plain values


def _settings(settings: AuditSettings) -> dict[str, Any]:
    """As they were used, without whom it is about; redacted also without the names of files."""
    found = asdict(settings)
    hidden = ["subject"]
    if settings.redact:
        hidden += ["forget", "holdout", "retain", "neighbours", "real_authors", "world_facts", "probes", "retain_logs"]
        hidden += ["system_prompt", "chat_template"]
    return {name: value for name, value in found.items() if name not in hidden}


def _texts(task: Task, readings: Mapping[str, Readings]) -> dict[str, Any]:
    """Everything that was asked and said. What a model said is not to be trusted wherever it is shown."""
    records = {
        record.key: {
            "question": record.question,
            "answer": record.answer,
            "facts": list(task.facts.get(record.key, ())),
        }
        for record in (*task.forget, *task.reworded)
    }
    said: dict[str, Any] = {}
    for role, read in readings.items():
        said[role] = {name: kept for name, reading in read.items() if (kept := _said(reading))}
    return {"prefixes": list(PREFIXES), "records": records, "said": said}


def _said(reading: Any) -> Any:
    """What a reading holds of text: answers and completions, in its own shape."""
    if not isinstance(reading, dict):
        return None
    found = {}
    for key, value in reading.items():
        if key in ("answer", "answers", "completions") and isinstance(value, str | list):
            found[key] = value
        elif kept := _said(value):
            found[key] = kept
    return found


def plain(value: Any) -> Any:
    """JSON's own types: tuples as lists, infinity as null. ValueError for NaN, which is no result."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            raise ValueError("a figure is NaN")
        return float(value) if math.isfinite(value) else None
    return value
