"""The paper's figure and one that shows over-forgetting, by matplotlib (the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rkld.benching.cells import Found
from rkld.benching.tables import MOMENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"model": "*", "last": "s", "stop": "o", "oracle": "^", "single": "D"}

REFERENCES = ("original", "retrained")
"""Models that are drawn as black stars, with their names."""

LEAST = 1e-12
"""Forget qualities below are drawn here: a logarithmic axis has no zero."""


def draw(folder: Path, found: Found) -> list[Path]:
    """``quality_SPLIT.png`` and ``forgetting_SPLIT.png`` for every split; points are means over seeds.

    Raises:
        ImportError: matplotlib is not there.
    """
    import matplotlib

    with matplotlib.rc_context({"backend": "Agg", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3}):
        return [
            make(folder, split, _methods(found, split))
            for split in dict.fromkeys(cell.split for cell in found)
            for make in (_quality, _forgetting)
        ]


Methods = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Method → moment, or "trajectory" → points: means over seeds of everything measured there."""


def _methods(found: Found, split: str) -> Methods:
    each: dict[str, dict[str, list]] = {}
    for cell, content in found.items():
        if cell.split == split:
            points = each.setdefault(cell.name, {})
            for moment, values in content["moments"].items():
                if "ks_distance" not in values:  # the training diverged
                    continue
                points.setdefault(moment, []).append(values)
            points.setdefault("trajectory", []).extend(content["trajectory"])
    return {
        name: {
            kind: _means(values, (lambda point: point["step"]) if kind == "trajectory" else (lambda point: 0))
            for kind, values in points.items()
        }
        for name, points in each.items()
    }


def _means(points: Sequence[Mapping[str, Any]], key: Callable) -> list[dict[str, float]]:
    """Mean of every number over the points of equal key; of a figure that a point lacks, none."""
    found = []
    for _, group in groupby(sorted(points, key=key), key):
        some = list(group)
        numbers = [name for name in some[0] if all(isinstance(point.get(name), (int, float)) for point in some)]
        found.append({name: fmean(point[name] for point in some) for name in numbers})
    return found


def _quality(folder: Path, split: str, methods: Methods) -> Path:
    """Forget quality against model utility at the moments; beside it every epoch, by likelihoods alone."""
    panels = [
        ("model utility (nine values)", "model_utility", False),
        ("utility of every epoch, without ROUGE-L (six values)", "likelihood_utility", True),
    ]

    def panel(axes: Axes, utility: str, trajectories: bool) -> None:
        axes.set_yscale("function", functions=(_bend, _unbend))
        axes.set_yticks([1e-12, 1e-9, 1e-6, 1e-3, 0.05, 0.25, 0.5, 0.75, 1.0])
        axes.set_yticklabels(["≤1e-12", "1e-9", "1e-6", "1e-3", ".05", ".25", ".5", ".75", "1"])
        axes.set_ylim(LEAST / 2, 1.05)
        axes.axhline(0.05, color="grey", linewidth=0.8, linestyle="--")
        _plot(axes, methods, utility, "forget_quality", trajectories)
        axes.set_ylabel("forget quality")

    return _figure(
        folder / f"quality_{split}.png", f"{split}: forget quality (linear above .05, log below)", panels, panel
    )


def _forgetting(folder: Path, split: str, methods: Methods) -> Path:
    """Forget against retain probability; the retrained model's forget probability is a line, left of it is too much."""
    panels = [
        ("forget probability, at the moments", "retain_probability", False),
        ("forget probability, every epoch", "retain_probability", True),
    ]

    def panel(axes: Axes, retain: str, trajectories: bool) -> None:
        aim = methods["retrained"]["model"][0]["forget_probability"]
        axes.axvline(aim, color="grey", linewidth=0.8, linestyle="--")
        axes.axvspan(0, aim, color="grey", alpha=0.08)
        _plot(axes, methods, "forget_probability", retain, trajectories)
        axes.set_xlim(left=0)
        axes.set_ylabel("retain probability")

    title = f"{split}: forget probability (shaded: below the retrained model's, over-forgetting)"
    return _figure(folder / f"forgetting_{split}.png", title, panels, panel)


def _figure(path: Path, title: str, panels: Sequence[tuple], panel: Callable) -> Path:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (label, value, trajectories) in zip(figure.subplots(1, len(panels)), panels):
        panel(axes, value, trajectories)
        axes.set_xlabel(label)
    figure.suptitle(title)
    marks = [Line2D([], [], marker=m, linestyle="", color="grey", label=MOMENTS[kind]) for kind, m in MARKS.items()]
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles=[*marks, *handles],
        labels=[*(m.get_label() for m in marks), *labels],
        loc="outside right upper",
        frameon=False,
    )
    figure.savefig(path, dpi=150, metadata={"Software": None})  # no version in the bytes
    return path


def _plot(axes: Axes, methods: Methods, x: str, y: str, trajectories: bool) -> None:
    """Marks at the moments, joined by a thin line; or the whole way from the original, with a mark at its end."""
    from matplotlib import colormaps

    for name in REFERENCES:
        point = methods[name]["model"]
        axes.plot(*_xy(point, x, y), MARKS["model"], color="black")
        (at,), (height,) = _xy(point, x, y)
        axes.annotate(name, (at, height), textcoords="offset points", xytext=(-5, -10), ha="right")
    start = methods["original"]["model"]
    trained = [name for name in methods if name not in REFERENCES]
    for name, colour in zip(trained, cycle(colormaps["tab20"].resampled(20)(range(20)))):
        points = methods[name]
        way = [*start, *points["trajectory"]] if trajectories else [p for kind in MARKS for p in points.get(kind, ())]
        axes.plot(*_xy(way if len(way) > 1 and points["trajectory"] else (), x, y), linewidth=0.8, color=colour)
        for kind in ("single", "last") if trajectories else MARKS:
            axes.plot(*_xy(points.get(kind, ()), x, y), MARKS[kind], markersize=5, color=colour)
        axes.plot([], [], linewidth=2, color=colour, label=name)


def _xy(points: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [p[x] for p in points], [max(p[y], LEAST) for p in points]


def _bend(values: ArrayLike) -> np.ndarray:
    """Linear from .05 up, logarithmic below, as the paper's axis."""
    values = np.maximum(values, LEAST / 10)
    return np.where(values < 0.05, np.log10(values / 0.05) / 4, (values - 0.05) * 4)


def _unbend(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    return np.where(values < 0, 0.05 * 10 ** (4 * np.minimum(values, 0)), values / 4 + 0.05)
