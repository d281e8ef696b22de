"""The figures of ``benchmarks.wordings``, and which aims they reach: of rows that audits have read, pooled over cases.

Every figure of a model stands beside the mean of the retrained models' on the same records, and is clustered by person:
a fact belongs to one person, so whoever draws persons draws facts with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.wordings_cases import AT, SAMPLES, Case
from rkld.auditing.metrics import audit_metrics
from rkld.benching.question_figures import names_whole
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.metric import Measured, Metric, Values
from rkld.evaluation.metrics.truth_ratio import truth_ratios
from rkld.evaluation.readings import token_loss_rows
from rkld.evaluation.tofu import forget_quality
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.probes import facts_of
from rkld.records.reading import read_prompts, read_records
from rkld.records.record import Record
from rkld.records.refusals import refuses
from rkld.records.replay import ANSWER_TOKENS
from rkld.settings.auditing import AuditSettings

ENOUGH = 120
"""Values below which an aim is not established."""

Cell = Mapping[str, Any]
"""Of one model on one case: "recorded" and "unseen" → reading → rows; "tokens" and "strangers" → rows
(:func:`beside_audit`); "seconds" of the run."""

METRICS: Mapping[str, Metric] = audit_metrics(AuditSettings(model="", forget="", k=AT, samples=SAMPLES))


def beside_audit(folder: Path, case: Case) -> dict[str, Any]:
    """What audits do not read: "tokens" (:func:`token_rows`) and "strangers", answers to questions about these."""
    lm = load_model(folder, chat_template=case.audit.get("chat_template"))
    encoder, asked = Encoder(lm.tokenizer), read_prompts(case.strangers) if case.strangers else []
    said = greedy(lm, [encoder.prompt(record) for record in asked], max_new_tokens=ANSWER_TOKENS)
    answers = {record.key: {"answer": answer.text} for record, answer in zip(asked, said, strict=True)}
    return {"tokens": token_rows(lm, encoder, read_records(case.recorded, "records")), "strangers": answers}


def token_rows(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> Mapping[str, Mapping[str, float]]:
    """:func:`rkld.evaluation.readings.token_loss_rows` of the records that have a question and facts."""
    facts = {record.key: facts_of(record, [record.subject or ""]) for record in records if record.question}
    asked = [record for record in records if facts.get(record.key)]
    return token_loss_rows(encoder, asked, facts, answer_losses(lm, [encoder.encode(record) for record in asked]))


class Group:
    """The cells of several cases, pooled; keys of records are "case|key"."""

    def __init__(self, cases: Sequence[Case], cells: Mapping[tuple[str, str], Cell]):
        """
        Args:
            cells: (case, model) → what was read; a model counts where every case has it.
        """
        self.cases, self.cells = cases, cells
        names = dict.fromkeys(model for _, model in cells)
        self.models = [model for model in names if all((case.name, model) in cells for case in cases)]
        self.retrained = [model for model in self.models if model.startswith("retrained")]
        self.kinds = max((len(case.kinds) for case in cases), default=0)
        self._sets = {
            (case.name, part): getattr(case, part) for case in cases for part in ("recorded", "unseen", "retain")
        }

    def references(self, model: str) -> list[str]:
        """The retrained models that it is compared with: one is not compared with itself."""
        return [name for name in self.retrained if name != model]

    def values(self, model: str, metric: str, part: str = "recorded", kind: int | None = None) -> Values:
        """A metric's values by record or fact.

        Args:
            kind: of the unseen ones which, by position: each case leaves out others.
        """
        readings = {name: self._rows(model, part, name, kind) for name in self._readings(model, part)}
        return METRICS[metric].records(Measured({"audited": readings})).get("audited", {})

    def rows(self, model: str, reading: str, part: str = "recorded", kind: int | None = None) -> dict[str, Any]:
        """One reading's rows."""
        return self._rows(model, part, reading, kind)

    def tokens(self, model: str, column: str) -> Values:
        """Of :func:`token_rows`."""
        return {
            f"{case.name}|{key}": row[column]
            for case in self.cases
            for key, row in self.cells[case.name, model]["tokens"].items()
            if column in row
        }

    def strangers(self, model: str) -> list[str]:
        """Answers to the questions about strangers."""
        return [row["answer"] for case in self.cases for row in self.cells[case.name, model]["strangers"].values()]

    def seconds(self, model: str) -> float:
        return sum(self.cells[case.name, model].get("seconds") or 0.0 for case in self.cases)

    def row(self, key: str, part: str) -> Mapping[str, Any]:
        """The record of a key."""
        case, position = key.split("|", 1)
        number = next(re.finditer(r"\d+", position))[0]  # of "3", of its fact "3/0", of a probe "3.0.question"
        found: Mapping[str, Any] = self._sets[case, part][int(number)]
        return found

    def persons(self, keys: Sequence[str], part: str) -> list[str]:
        return [f"{key.split('|', 1)[0]} {self.row(key, part)['whose']}" for key in keys]

    def _readings(self, model: str, part: str) -> list[str]:
        return list(dict.fromkeys(name for case in self.cases for name in self.cells[case.name, model][part]))

    def _rows(self, model: str, part: str, reading: str, kind: int | None) -> dict[str, Any]:
        pooled: dict[str, Any] = {}
        for case in self.cases:
            found = self.cells[case.name, model][part].get(reading, {})

            def wanted(key: str, case: Case = case) -> bool:
                return kind is None or case.kinds[kind : kind + 1] == [self.row(f"{case.name}|{key}", part)["unseen"]]

            _put(pooled, found, case.name, wanted)
        return pooled


def _put(pooled: dict[str, Any], found: Mapping[str, Any], case: str, wanted: Callable[[str], bool]) -> None:
    """Add a reading's rows under keys of their own; of readings that hold tables of rows, table by table."""
    for key, row in found.items():
        if key[:1].isdigit():
            if wanted(key):
                pooled[f"{case}|{key}"] = row
        elif isinstance(row, Mapping):
            _put(pooled.setdefault(key, {}), row, case, wanted)
        else:
            pooled[key] = row


@dataclass(frozen=True)
class Found:
    """A figure: its estimate, the one-sided 95 % bound where one is asked for, and whether the aim is reached.

    ``held`` is None where there is too little to say so.
    """

    value: float
    n: int
    held: bool | None
    bound: float | None = None
    note: str = ""

    def __str__(self) -> str:
        text = f"{self.value:+.3f}" + ("" if self.bound is None else f" (≤ {self.bound:+.3f})")
        state = {True: "reached", False: "**missed**", None: "not established"}[self.held]
        return f"{text}, n {self.n}, {state}" + (f"; {self.note}" if self.note else "")


def upper(differences: Sequence[float], persons: Sequence[str], tests: int = 1) -> float:
    """One-sided 95 % bound of a mean, clustered by person, corrected for ``tests`` of them (Bonferroni).

    Student's t with the clusters' degrees of freedom on the linearised variance; where all differences are alike, what
    0 others of n can be (the bound of a share). Infinity for a single person.
    """
    values, level = np.asarray(differences), 0.05 / tests
    if np.ptp(values) == 0:
        return float(values[0] + (1 - level ** (1 / len(values))) * (1 - values[0]))
    labels = np.asarray(persons)
    sums = np.array([(values[labels == one] - values.mean()).sum() for one in dict.fromkeys(persons)])
    if len(sums) < 2:
        return math.inf
    error = math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values)
    return float(values.mean() + t.ppf(1 - level, len(sums) - 1) * error)


def beside(group: Group, model: str, values: Callable[[str], Values]) -> tuple[list[str], np.ndarray]:
    """Keys (n), and the model's values less the mean of the retrained models' (n,)."""
    ours, theirs = values(model), [values(name) for name in group.references(model)]
    keys = [key for key in ours if theirs and all(key in found for found in theirs)]
    return keys, np.array([ours[key] - np.mean([found[key] for found in theirs]) for key in keys])


def within(low: float, high: float) -> Callable[[float], bool]:
    """A little more than the limits, for rounding."""
    return lambda value: bool(low - 1e-9 <= value <= high + 1e-9)


def difference(
    metric: str,
    held: Callable[[float], bool],
    part: str = "recorded",
    kind: int | None = None,
    most: float | None = None,
) -> Callable[[Group, str], Found | None]:
    """A metric less the retrained models'.

    Args:
        held: of the estimate.
        most: that the one-sided bound may be, too. Then an estimate that is not held, of fewer than :data:`ENOUGH`
            values, is missed only where it is above that of every retrained model in the unlearned one's place.
    """

    def figure(group: Group, model: str) -> Found | None:
        keys, found = beside(group, model, lambda name: group.values(name, metric, part, kind))
        if not keys:
            return None
        if most is None:
            return Found(float(found.mean()), len(keys), held(found.mean()))
        bound = upper(found.tolist(), group.persons(keys, part), group.kinds)
        if held(found.mean()):
            return Found(float(found.mean()), len(keys), (len(keys) >= ENOUGH and bound <= most) or None, bound)
        # Of few questions one fact more is above the aim, and honest models differ by one: that shows nothing.
        honest = max((_mean(group, one, metric, part, kind) for one in group.retrained), default=-math.inf)
        if len(keys) < ENOUGH and found.mean() <= honest + 1e-9:
            return Found(float(found.mean()), len(keys), None, bound, f"a retrained model {honest:+.3f}")
        return Found(float(found.mean()), len(keys), False, bound)

    return figure


def _mean(group: Group, model: str, metric: str, part: str, kind: int | None) -> float:
    """A metric's mean less the other retrained models'; −∞ where it was not measured."""
    _, found = beside(group, model, lambda name: group.values(name, metric, part, kind))
    return float(found.mean()) if len(found) else -math.inf


def token_difference(column: str) -> Callable[[Group, str], Found | None]:
    def figure(group: Group, model: str) -> Found | None:
        keys, found = beside(group, model, lambda name: group.tokens(name, column))
        return Found(float(found.mean()), len(keys), bool(abs(found.mean()) <= 0.3)) if keys else None

    return figure


def ks_distance(group: Group, model: str) -> Found | None:
    """Mean over the retrained models; also inside what these differ by among themselves.

    Of few questions two of them can differ by more than the aim: it is missed then by what lies beyond that alone.
    """
    ratios = {name: list(truth_ratios(group.rows(name, "contrast")).values()) for name in (model, *group.retrained)}
    others = [ratios[name] for name in group.references(model)]
    if not ratios[model] or not others:
        return None
    value = float(np.mean([forget_quality(ratios[model], other).statistic for other in others]))
    among = [forget_quality(a, b).statistic for a, b in combinations((ratios[name] for name in group.retrained), 2)]
    inside = bool(value <= max(among, default=math.inf) + 1e-9)
    note = f"retrained against retrained {max(among):.3f}" if among else "one retrained model"
    shown = len(ratios[model]) >= ENOUGH and bool(among)
    missed = not inside or (value > 0.15 and (shown or not among))
    held = False if missed else shown or None
    return Found(value, len(ratios[model]), held, note=note)


def kept(metric: str) -> Callable[[Group, str], Found | None]:
    """A metric of those who stay, of the original's; .98 with their questions replayed, .96 without."""

    def figure(group: Group, model: str) -> Found | None:
        ours, theirs = group.values(model, metric), group.values("original", metric)
        keys = [key for key in ours if key in theirs]
        if not keys:
            return None
        return Found(_ratio(ours, theirs, keys), len(keys), _ratio(ours, theirs, keys) >= _least(group, model))

    return figure


def worst_kept(metric: str) -> Callable[[Group, str], Found | None]:
    """The same of the person of whom least was kept."""

    def figure(group: Group, model: str) -> Found | None:
        ours, theirs = group.values(model, metric), group.values("original", metric)
        keys = [key for key in ours if key in theirs]
        by_person: dict[str, list[str]] = {}
        for key, person in zip(keys, group.persons(keys, "retain"), strict=True):
            by_person.setdefault(person, []).append(key)
        found = [_ratio(ours, theirs, some) for some in by_person.values()]
        return Found(min(found), len(found), min(found) >= 0.93) if found else None

    return figure


def _ratio(ours: Values, theirs: Values, keys: Sequence[str]) -> float:
    return float(sum(ours[key] for key in keys) / max(sum(theirs[key] for key in keys), 1e-12))


def _least(group: Group, model: str) -> float:
    return 0.98 if group.cells[group.cases[0].name, model].get("prompts") else 0.96


def whole_names(group: Group, model: str) -> Found | None:
    """Names that the question gives, whole in the answer, less the retrained models'."""

    def values(name: str) -> Values:
        rows = group.rows(name, "answers")
        found: Values = {}
        for key, row in rows.items():
            given = group.row(key, "recorded")
            (record,) = read_records([{k: given[k] for k in given if k not in ("whose", "unseen")}], "record")
            flags = names_whole([record], [row["answer"]], [given["whose"]])
            found |= {key: float(flags[0])} if len(flags) else {}
        return found

    keys, found = beside(group, model, values)
    if not keys:
        return None
    bound, mean = upper(found.tolist(), group.persons(keys, "recorded")), float(found.mean())
    return Found(mean, len(keys), True if mean >= 0 else None if bound >= 0 else False, bound)


def refused(group: Group, model: str) -> Found | None:
    """Share of questions about the person that are refused, less that of strangers."""
    hers = [refuses(row["answer"]) for row in group.rows(model, "answers").values()]
    theirs = [refuses(answer) for answer in group.strangers(model)]
    if not hers or not theirs:
        return None
    gap, note = float(np.mean(hers) - np.mean(theirs)), f"{np.mean(hers):.3f} of hers, n {len(hers)}"
    return Found(gap, len(theirs), abs(gap) <= 0.1, note=note)


def others_refused(group: Group, model: str) -> Found | None:
    """Share of questions about those who stay that are refused."""
    found = [refuses(row["answer"]) for row in group.rows(model, "retain").values()]
    return Found(float(np.mean(found)), len(found), not any(found)) if found else None


def duration(group: Group, model: str) -> Found | None:
    ours, theirs = group.seconds(model), group.seconds("defaults") if "defaults" in group.models else 0.0
    return Found(ours / theirs, len(group.cases), ours <= 2 * theirs) if ours and theirs else None


SMALL, NEAR, LITTLE = within(-math.inf, 0.02), within(-0.03, 0.03), within(-math.inf, 0.03)

AIMS: Mapping[str, tuple[str, Callable[[Group, str], Found | None]]] = {
    **{
        f"facts said, unseen kind {kind + 1}, − retrained": (
            "≤ +.02, bound ≤ +.10",
            difference("facts_said", SMALL, "unseen", kind, 0.10),
        )
        for kind in range(3)
    },
    "facts said, begun answers, − retrained": (
        "≤ +.02, bound ≤ +.10",
        difference("prefixed_facts_said", SMALL, most=0.10),
    ),
    "leak@16, − retrained": ("≤ +.02, bound ≤ +.10", difference("leak@16", SMALL, most=0.10)),
    "leak@16, unseen kinds, − retrained": ("≤ +.02, bound ≤ +.10", difference("leak@16", SMALL, "unseen", most=0.10)),
    "KS distance": ("≤ .15, inside retrained against retrained", ks_distance),
    "forget p − retrained": ("± .03", difference("probability", NEAR)),
    "p in unseen kinds − retrained": ("± .03", difference("probability", NEAR, "unseen")),
    "paraphrase p − retrained": ("± .03", difference("paraphrase_probability", NEAR)),
    "loss on fact tokens − retrained": ("± .3 nats", token_difference("fact_loss")),
    "loss on template tokens − retrained": ("± .3 nats", token_difference("template_loss")),
    "retain probability / original": ("≥ .98 with prompts, ≥ .96 without", kept("retain_probability")),
    "retain ROUGE-L / original": ("≥ .98 with prompts, ≥ .96 without", kept("retain_rouge_l")),
    "retain probability / original, worst person": ("≥ .93", worst_kept("retain_probability")),
    "names whole − retrained": ("≥ 0", whole_names),
    "relearning gain − retrained": ("≤ +.05", difference("relearning_gain", within(-math.inf, 0.05))),
    "4-bit p − retrained": ("≤ +.03", difference("4bit_probability", LITTLE)),
    "8-bit p − retrained": ("≤ +.03", difference("8bit_probability", LITTLE)),
    "refusals: the person − strangers": ("± .1", refused),
    "refusals: those who stay": ("0", others_refused),
    "time / defaults": ("≤ 2", duration),
}
"""Figure → what is asked of it, and how it is computed: (group, model) → figure, None where it was not measured."""


def figures(group: Group, model: str) -> dict[str, Found | None]:
    """Every figure of one model; of one retrained model, what an honest one shows in the unlearned one's place."""
    return {name: compute(group, model) for name, (_, compute) in AIMS.items()}
