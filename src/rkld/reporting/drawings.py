"""The charts of a report: which figures each is made of, what it says in words, and its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from rkld.evaluation.metric import BETTER
from rkld.evaluation.statistics import chance_of_one
from rkld.registry import file_and_name, without_file
from rkld.reporting import svg
from rkld.reporting.room import FEWEST_DOTS
from rkld.reporting.run import Run
from rkld.reporting.sections import Section, left_open
from rkld.reporting.svg import SHARE, Axis, Line
from rkld.reporting.words import ROLES, interval, is_share, number, written


@dataclass(frozen=True)
class DotCell:
    """One figure: drawn, and in numbers.

    Attributes:
        open: what of it was not measured; empty where all was.
    """

    drawn: Markup
    value: str
    interval: str
    open: str = ""


@dataclass(frozen=True)
class DotRow:
    """One metric of every model; a model it was not measured of has no cell."""

    label: str
    better: str
    explanation: str
    cells: Mapping[str, DotCell | None]


@dataclass(frozen=True)
class Dots:
    """A table whose cells are drawn on one axis, a column for each model."""

    title: str
    words: str
    rows: Sequence[DotRow]
    roles: Sequence[str]

    @property
    def better(self) -> str:
        """Which end is better, where it is the same in every row; else empty."""
        found = {row.better for row in self.rows}
        return found.pop() if len(found) == 1 else ""


@dataclass(frozen=True)
class Drawing:
    """A chart with its text alternative and its table."""

    title: str
    words: str
    better: str
    drawn: Markup
    alternative: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def dot_row(section: Section, name: str, label: str = "", roles: Sequence[str] = ()) -> DotRow:
    """A metric's figures; its share of the axis from 0 to 100 %."""
    metric = section.metrics.get(name, {})
    unit, gate = metric.get("unit", "share"), section.gate(name)
    cells: dict[str, DotCell | None] = {}
    for role in roles or section.roles:
        figure = section.figure(name, role)
        cells[role] = None
        if figure is not None:
            value, low, high = (number(figure.get(end)) for end in ("value", "low", "high"))
            limit = _limit(section, name, gate) if role == "audited" else None
            whole = not figure.get("range")  # of a run alone: all that it can be, and no interval around what it is
            drawn = svg.dot(role, SHARE, value, low, high, limit, marked=whole) if is_share(unit) else Markup("")
            said = [written(value, unit), interval(figure, unit)] if whole else [interval(figure, unit), ""]
            cells[role] = DotCell(drawn, said[0], said[1], left_open(figure))
    title = str(metric.get("title", name.replace("_", " ")))
    return DotRow(label or _upper(title), better(metric), str(metric.get("explanation", "")), cells)


def better(metric: Mapping[str, Any]) -> str:
    """Which end of a figure is better, in words."""
    return f"better: {BETTER.get(metric.get('forgotten', ''), BETTER[''])}"


def _limit(section: Section, name: str, gate: Mapping[str, Any] | None) -> float | None:
    """Where on the unlearned model's own axis its limit lies."""
    if gate is None or gate["state"] == "not measured":
        return None
    if gate["against"] is None:
        return number(gate["limit"])
    beside = section.figure(name, gate["against"])
    value = None if beside is None else number(beside.get("value"))
    return None if value is None else min(1.0, value + gate["limit"])


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# Tables of dots


def wordings(section: Section) -> Dots | None:
    """Facts said in every kind of wording."""
    names = [
        name
        for name, metric in section.metrics.items()
        if (name == "facts_said" or name.endswith("_facts_said"))
        and not name.startswith("worst_kind")
        and metric.get("risk") in ("regurgitation", "exfiltration", "attribute inference")
    ]
    rows = [dot_row(section, name, _upper(_after_colon(section, name) or "as recorded")) for name in names]
    words = "How many of the facts each model says when it is asked in other ways. The mark across is the limit."
    return Dots("However it is asked", words, rows, section.roles) if rows else None


def _after_colon(section: Section, name: str) -> str:
    return str(section.metrics[name].get("title", "")).partition(": ")[2]


def quantised(section: Section) -> Dots | None:
    """The same figures of rounded weights."""
    bits = [
        b for b in ("8bit", "4bit") if f"{b}_facts_said" in section.metrics or f"{b}_probability" in section.metrics
    ]
    if not bits:
        return None
    rows = [
        dot_row(section, name, f"{what}: {how}")
        for of, what in (("facts_said", "Facts said"), ("probability", "Probability"))
        for name, how in ((of, "weights as they are"), *((f"{b}_{of}", f"rounded to {b[0]} bits") for b in bits))
        if name in section.metrics
    ]
    words = "Rounding the weights, as is done to save memory, can bring back what small changes only hid."
    return Dots("Weights rounded", words, rows, section.roles)


EVERYDAY = "everyday_rouge_l"
"""Of a run, which asks such prompts before and after."""


def utility(section: Section, general: Mapping[str, Any]) -> Dots | None:
    """What the models still know of what should be kept."""
    sets = ("retain", "neighbours", "real_authors", "world_facts")
    rows = [
        dot_row(section, f"{name}_probability", f"{_upper(name.replace('_', ' '))}: probability")
        for name in sets
        if f"{name}_probability" in section.metrics
    ]
    rows += [
        dot_row(section, f"{name}_rouge_l", f"{_upper(name.replace('_', ' '))}: words of the recorded answer")
        for name in sets
        if f"{name}_rouge_l" in section.metrics
    ]
    if EVERYDAY in section.metrics:
        rows.append(dot_row(section, EVERYDAY, "Everyday prompts: words of the original's answers that it still says"))
    tasks = dict.fromkeys(task for found in general.values() for task in found)
    rows += [_task(section, general, task) for task in tasks]
    words = "Records about others, and general knowledge: before and after they should be alike."
    return Dots("What was kept", words, rows, section.roles) if rows else None


def _task(section: Section, general: Mapping[str, Any], task: str) -> DotRow:
    cells: dict[str, DotCell | None] = {}
    for role in section.roles:
        found = general.get(role, {}).get(task)
        value = number(found.get("value") if isinstance(found, Mapping) else found)
        cells[role] = None if value is None else DotCell(svg.dot(role, SHARE, value, None, None), written(value), "")
    return DotRow(f"Accuracy: {task}", better({"forgotten": "high"}), "", cells)


def fluency(section: Section) -> Dots | None:
    """Whether its answers are language."""
    names = [name for name in ("gibberish", "repetition", "known_words") if name in section.metrics]
    words = "A model that is broken says nothing about the person, and nothing about anything else."
    return Dots("Fluency", words, [dot_row(section, name) for name in names], section.roles) if names else None


# Drawings


def distribution(section: Section, name: str, title: str, words: str, dots: int) -> Drawing | None:
    """Each record's value, of every model.

    Args:
        words: what a dot shows, after what it stands for.
        dots: of a model at most: of more records each dot is one of several.
    """
    groups = {role: list(found.values()) for role in section.roles if (found := section.records(name, role))}
    if "audited" not in groups or dots < min(FEWEST_DOTS, len(groups["audited"])):
        return None
    most = max(map(len, groups.values()))
    stands = "Each dot is a record" if most <= dots else f"Each dot stands for about {most / dots:.0f} records"
    rows, said = [], []
    for role, values in groups.items():
        low, middle, high = (float(x) for x in np.quantile(values, [0.0, 0.5, 1.0]))
        rows.append([ROLES[role], str(len(values)), *(written(x) for x in (low, middle, high))])
        said.append(
            f"{ROLES[role]}: {len(values)} records, median {written(middle)}, {written(low)} to {written(high)}."
        )
    metric = section.metrics[name]
    return Drawing(
        title, f"{stands}: {words}", better(metric),
        svg.strips({role: _fewer(values, dots) for role, values in groups.items()}, ROLES, SHARE), " ".join(said),
        ["", "Records", "Least", "Median", "Most"], rows,
    )  # fmt: skip


def _fewer(values: Sequence[float], most: int) -> list[float]:
    """So many of them, as they are spread."""
    if len(values) <= most:
        return list(values)
    ordered = sorted(values)
    return [ordered[int((i + 0.5) * len(values) / most)] for i in range(most)]


def leakage(section: Section, samples: int | None) -> Drawing | None:
    """The chance that one of k drawn answers says a fact, over k: of each record's share of answers that do."""
    if not samples or samples < 2 or not section.records("leak@1", "audited"):
        return None
    known = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n <= samples]
    curves, rows = [], []
    for role in section.roles:
        counts = [round(share * samples) for share in section.records("leak@1", role).values()]
        if not counts:
            continue
        points = [(float(k), float(np.mean([chance_of_one(c, samples, k) for c in counts]))) for k in known]
        intervals = [
            (float(k), low, high)
            for name, metric in section.metrics.items()
            if name.startswith("leak@") and (figure := metric["figures"].get(role))
            if (low := number(figure["low"])) is not None and (high := number(figure["high"])) is not None
            for k in [int(name.removeprefix("leak@"))]
        ]
        curves.append(Line(role, ROLES[role], points, intervals))
        rows.append([ROLES[role], *(written(y) for _, y in points)])
    x = Axis(1.0, float(known[-1]), tuple((float(k), str(k)) for k in known), logarithmic=True)
    alternative = " ".join(
        f"{curve.name}: {written(curve.points[0][1])} of one answer, {written(curve.points[-1][1])} of {known[-1]}."
        for curve in curves
    )
    return Drawing(
        "Asked again and again",
        f"The chance that at least one of so many drawn answers says a fact: 1 to {known[-1]} answers, each twice as "
        "many as before. Upright bars are 95 % intervals.",
        better({"forgotten": "low"}), svg.lines(curves, x, SHARE_FROM_0), alternative,
        ["Answers", *map(str, known)], rows,
    )  # fmt: skip


SHARE_FROM_0 = Axis(0.0, 1.0, ((0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")))


def relearning(section: Section) -> Drawing | None:
    """How likely the other records become while some are trained on again."""
    curves = []
    for role in (role for role in ROLES if role in section.curves):
        curve = section.curves[role]
        means = np.mean(list(curve["probabilities"].values()), axis=0)
        points = [(float(step), float(mean)) for step, mean in zip(curve["steps"], means)]
        curves.append(Line(role, ROLES[role], points))
    if not curves:
        return None
    last = max(x for curve in curves for x, _ in curve.points)
    ends = [f"{c.name}: {written(c.points[0][1])} at first, {written(c.points[-1][1])} in the end." for c in curves]
    steps = [f"{x:g}" for x, _ in curves[0].points]
    return Drawing(
        "Learned again",
        "Somebody who has the weights trains them on some of the records; this is how likely the others become. Facts "
        "that were hidden come back sooner than the control learns them.",
        "better: as the control, or lower", svg.lines(curves, svg.nice_axis([0.0, last]), SHARE_FROM_0), " ".join(ends),
        ["Steps", *steps], [[c.name, *(written(y) for _, y in c.points)] for c in curves],
    )  # fmt: skip


def trajectory(run: Run) -> Drawing | None:
    """How far the student was from where it should stop, and which step was taken."""
    checks = [
        (float(check["step"]), gap)
        for check in run.checks
        if number(check.get("step")) is not None and (gap := number(check.get("gap"))) is not None
    ]
    vector = any("beta" in check for check in run.checks)
    if vector:  # of those that were tried before the first step that which was trained
        tried = [check for check in checks if check[0] == 0]
        checks = [*sorted(tried, key=lambda check: abs(check[1]))[:1], *checks[len(tried) :]]
    if len(checks) < 2:
        return None
    noted = run.manifest.get("phases", {}).get("distillation", {}).get("stop") or {}
    step = number(noted.get("step"))
    at = next(((x, y) for x, y in reversed(checks) if x == step), None)
    gaps = [y for _, y in checks]
    y = svg.nice_axis(gaps)
    chosen = None if at is None else (*at, f"taken: step {at[0]:g}")
    curve = Line("audited", "", checks)
    alternative = f"From {gaps[0]:.3g} at step {checks[0][0]:g} to {gaps[-1]:.3g} at step {checks[-1][0]:g}"
    alternative += "." if at is None else f"; step {at[0]:g} was taken, at {at[1]:.3g}."
    rule = str(run.manifest.get("settings", {}).get("stop", ""))
    called = f"the stopping rule '{rule}'" if file_and_name(rule) is None else without_file(rule, "a stopping rule")
    ends = (
        "At every check more of what the records changed in the base is subtracted, or less, to stay there."
        if vector
        else "Training ends where it has reached the aim, not where it has left it furthest behind."
    )
    return Drawing(
        "On the way to the stop",
        f"How far the model was, at every check, from the aim of {called}. {ends}",
        "better: as near to 0 as can be",
        svg.lines([curve], svg.nice_axis([x for x, _ in checks]), y, level=(0.0, "the aim"), chosen=chosen),
        alternative,
        ["Step", *(f"{x:g}" for x, _ in checks)], [["Distance", *(f"{gap:.3g}" for gap in gaps)]],
    )  # fmt: skip


def charts(section: Section, run: Run, dots: int) -> Iterable[Dots | Drawing]:
    """All of a section, in the order in which they stand; those that nothing was measured for are left out.

    Args:
        dots: of a model, in a chart in which records are dots.
    """
    audit = run.audit or {}
    samples = number(audit.get("settings", {}).get("samples"))
    found = (
        wordings(section),
        leakage(section, None if samples is None else int(samples)),
        distribution(
            section,
            "probability",
            "How likely the recorded answers are",
            "how likely the model finds its answer, per token. The line is the median.",
            dots,
        ),
        distribution(
            section,
            "truth_ratio",
            "Right answers beside wrong ones",
            "the truth ratio, by which a right answer compares with wrong ones of its kind.",
            dots,
        ),
        relearning(section),
        quantised(section),
        utility(section, audit.get("general", {})),
        fluency(section),
        trajectory(run) if section.keys is None else None,  # it is of the run: of several people it stands by itself
    )
    return (one for one in found if one is not None)
