"""The page of ``rkld bench report``: a table and a chart for each benchmark and split, to be filtered and sorted.

Self-contained, in the report's style; everything in it is escaped, and it allows its own script alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rkld.benching.leaderboard import Entry, Group, Value, read_groups, without_places
from rkld.benching.tables import RELEARNED
from rkld.errors import UserError
from rkld.files import DATA, write_text
from rkld.reporting.page import STYLE, TEMPLATES, command_line, policy
from rkld.reporting.svg import mark, nice_axis, tag
from rkld.text.printable import harmless

FOLDER, PAGE, OWN_STYLE, SCRIPT = DATA / "leaderboard", "page.html", "page.css", "page.js"

ROLES = {"retrained": "control", "original": "original"}
"""Reference model → its colour and shape in charts, as in the report."""

CHOSEN = ("calibrated stop", "last epoch", "no student", "as it is")
"""Which moment of a method stands in the chart: the first of these that it has."""

TALL = 320
"""Pixels of a chart."""

PADDING = 16


@dataclass(frozen=True)
class Row:
    """An entry as it is shown."""

    number: int
    """In the chart; 0: not there."""
    entry: Entry
    role: str
    forgotten: str
    utility: str
    over: str
    seconds: str
    relearned: str
    after: float | None
    """How far the probability after relearning lies from the retrained model's; from 0 without one."""
    every: Sequence[tuple[str, str]]
    """All figures: title, and value with interval."""


def write_leaderboard(sources: Sequence[str], out: Path) -> Path:
    """Write the page over all given benchmarks.

    Raises:
        UserError: none is given, or one cannot be read.
    """
    if not sources:
        raise UserError("give folders of finished benchmarks, or their tables.")
    groups = [group for source in sources for group in read_groups(source)]
    words = without_places([*sources, "--out", str(out)])
    write_text(out, leaderboard(groups, command_line("rkld", "bench", "report", *words)))
    return out


def leaderboard(groups: Sequence[Group], command: str) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = harmless
    environment.filters["for_script"] = _for_script
    style = (TEMPLATES / STYLE).read_text(encoding="utf-8") + (FOLDER / OWN_STYLE).read_text(encoding="utf-8")
    script = (FOLDER / SCRIPT).read_text(encoding="utf-8")
    parts = [_part(group) for group in groups]
    return environment.get_template(PAGE).render(
        policy=policy(style, script),
        style=Markup(style),  # ours
        script=Markup(script),
        parts=parts,
        relearned=any(part["relearned"] for part in parts),
        benchmarks=list(dict.fromkeys(f"{group.benchmark}: {group.split}" for group in groups)),
        models=list(dict.fromkeys(group.model for group in groups)),
        moments=list(dict.fromkeys(entry.moment for group in groups for entry in group.entries)),
        command=command,
    )


def _part(group: Group) -> dict[str, Any]:
    rows = _rows(group)
    return {
        "group": group,
        "rows": rows,
        "chart": _chart(group, rows),
        "forgotten": _title(group, group.forgotten),
        "utility": _title(group, group.utility),
        "remaining": _title(group, group.remaining),
        "relearned": any(row.relearned for row in rows),
    }


def _rows(group: Group) -> list[Row]:
    shown = _in_chart(group)
    retrained = next((entry for entry in group.entries if entry.method == "retrained"), None)
    never = retrained.values[RELEARNED].mean if retrained and RELEARNED in retrained.values else 0.0
    return [
        Row(
            number=shown.get((entry.method, entry.settings, entry.moment), 0),
            entry=entry,
            role=ROLES.get(entry.method, "audited"),
            forgotten=_said(entry.values.get(group.forgotten)),
            utility=_said(entry.values.get(group.utility)),
            over="" if entry.over_forgetting is None else f"{entry.over_forgetting:.3g}",
            seconds="" if entry.seconds is None else _duration(entry.seconds),
            relearned=_relearned(entry),
            after=abs(entry.values[RELEARNED].mean - never) if RELEARNED in entry.values else None,
            every=[(_title(group, name), _said(value)) for name, value in entry.values.items()],
        )
        for entry in group.entries
    ]


def _in_chart(group: Group) -> dict[tuple[str, str, str], int]:
    """(method, settings, moment) → its number in the chart, which has one point for each method and settings."""
    both = [e for e in group.entries if group.forgotten in e.values and group.utility in e.values]
    found: dict[tuple[str, str, str], int] = {}
    for method, settings in dict.fromkeys((entry.method, entry.settings) for entry in both):
        moments = [e.moment for e in both if (e.method, e.settings) == (method, settings)]
        moment = next((name for name in CHOSEN if name in moments), moments[0])
        found[method, settings, moment] = len(found) + 1
    return found


def _chart(group: Group, rows: Sequence[Row]) -> Markup | None:
    """What is left against what stays, a numbered point for each method; None where there is nothing to draw."""
    points = [row for row in rows if row.number]
    if not points:
        return None
    x = nice_axis([row.entry.values[group.utility].mean for row in points], count=6, zero=False)
    y = nice_axis([row.entry.values[group.forgotten].mean for row in points], count=6)

    def height(value: float) -> float:
        return PADDING + (TALL - 2 * PADDING) * (1 - y.at(value))

    parts: list[Markup] = []
    for value, said in y.ticks:
        parts.append(tag("line", class_="grid", x1="0%", x2="100%", y1=height(value), y2=height(value)))
        parts.append(tag("text", said, class_="tick", x="-8", y=height(value) + 5, text_anchor="end"))
    for value, said in x.ticks:
        where = f"{100 * x.at(value):.2f}%"
        parts.append(tag("line", class_="grid", x1=where, x2=where, y1=PADDING, y2=TALL - PADDING))
        parts.append(tag("text", said, class_="tick", x=where, y=TALL + 8, text_anchor="middle"))
    points.sort(key=lambda row: row.role != "audited")  # reference models over the others
    places = [(x.at(r.entry.values[group.utility].mean), height(r.entry.values[group.forgotten].mean)) for r in points]
    for row, (across, down), (right, below, anchor) in zip(points, places, _label_places(places), strict=True):
        where = f"{100 * across:.2f}%"
        label = tag("text", str(row.number), class_=f"name {row.role}", x=right, y=below, text_anchor=anchor)
        point = mark(row.role, where, down), tag("svg", label, x=where, y=down, class_="at")
        parts.append(tag("g", *point, data_point=row.entry.method))
    return tag("svg", *parts, class_="chart lines", height=TALL + 16, aria_hidden="true", focusable="false")


WIDE = 1000
"""Pixels of a chart on a wide screen, by which labels are kept apart."""

SIDES = ((9, 5, "start"), (-9, 5, "end"), (0, -9, "middle"), (0, 20, "middle"))
"""Where a label may stand beside its point: pixels to the right and down, and which of its ends is there."""


def _label_places(places: Sequence[tuple[float, float]]) -> list[tuple[int, int, str]]:
    """A side for each label, where there is none of the labels before it and no point; the first if all are taken.

    Args:
        places: of the points: share of the width, pixels down.
    """
    taken = [(WIDE * across, down) for across, down in places]
    found = []
    for across, down in places:
        middles = [
            (WIDE * across + right + 9 * ((anchor == "start") - (anchor == "end")), down + below - 5)
            for right, below, anchor in SIDES
        ]
        free = [not any(abs(a - u) < 15 and abs(b - v) < 12 for u, v in taken) for a, b in middles]
        side = free.index(True) if any(free) else 0
        taken.append(middles[side])
        found.append(SIDES[side])
    return found


def _title(group: Group, name: str) -> str:
    return group.titles.get(name) or name.replace("_", " ")


def _said(value: Value | None) -> str:
    if value is None:
        return ""
    if value.low is None or value.high is None:
        return f"{value.mean:.3g}"
    return f"{value.mean:.3g} ({value.low:.3g} to {value.high:.3g})"


def _relearned(entry: Entry) -> str:
    """With the number of seeds where some of those that were measured have none: a fine-tuning can diverge."""
    value = entry.values.get(RELEARNED)
    of = f" ({value.n} of {entry.measured} seeds)" if value and value.n < entry.measured else ""
    return _said(value) + of


def _for_script(value: float | None) -> str:
    """As JavaScript reads a number; "" where there is none."""
    if value is None or math.isnan(value):
        return ""
    return str(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
