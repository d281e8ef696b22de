"""Charts as inline SVG: pure functions of plain numbers that return safe markup.

Positions along an axis are percentages and heights are pixels, so that a chart is as wide as its place and its text is
never scaled. Colours and strokes are the style sheet's, by the class of what is drawn: "original", "audited",
"control". Each model has a shape of its own, too, so that none is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROW = 34
"""Pixels of one row of dots."""

TALL = 220
"""Pixels of a chart of lines."""

APART = 17
"""Pixels between two labels."""


@dataclass(frozen=True)
class Axis:
    """A linear scale, or one of powers of two.

    Attributes:
        ticks: (value, how it is written).
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value stands: 0 to 1, and no further."""
        value, low, high = (self._scaled(x) for x in (value, self.low, self.high))
        return 0.0 if high == low else min(1.0, max(0.0, (value - low) / (high - low)))

    def _scaled(self, value: float) -> float:
        return math.log2(max(value, 1e-9)) if self.logarithmic else value


SHARE = Axis(0.0, 1.0, ((0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")))


def tag(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """An element; text in it and its attributes are escaped. ``class_`` is "class", other names have dashes."""
    given = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{value:.6g}" if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, Markup("").join(escape(child) for child in children))


def dot(
    role: str,
    axis: Axis,
    value: float | None,
    low: float | None,
    high: float | None,
    limit: float | None = None,
    *,
    marked: bool = True,
) -> Markup:
    """One figure with its interval, in a cell of a table that also says it in numbers.

    An end that is None is unbounded; a value that is None lies beyond the axis. ``limit`` is a mark across the row.

    Args:
        marked: with the value itself; else only the ends are known.
    """
    middle = ROW / 2
    parts = [tag("line", class_="axis", x1="0%", x2="100%", y1=middle, y2=middle)]
    if limit is not None:
        parts.append(
            tag("line", class_="limit", x1=_x(axis, limit), x2=_x(axis, limit), y1=middle - 13, y2=middle + 13)
        )
    if low is not None or high is not None:
        ends = [axis.low if low is None else low, axis.high if high is None else high]
        x1, x2 = (_x(axis, end) for end in ends)
        parts.append(tag("line", class_=f"interval {role}", x1=x1, x2=x2, y1=middle, y2=middle))
    if marked:
        parts.append(mark(role, _x(axis, axis.high if value is None else value), middle))
    return tag("svg", *parts, class_="dot", height=ROW, aria_hidden="true", focusable="false")


def mark(role: str, x: str, y: float, size: float = 5.5) -> Markup:
    """Whose a point is: a ring for the original, a disc for the unlearned model, a square for the control."""
    if role == "control":
        side = 2 * size - 1
        square = tag("rect", x=-side / 2, y=-side / 2, width=side, height=side, class_=f"mark {role}")
        return tag("svg", square, x=x, y=y, class_="at")
    return tag("circle", cx=x, cy=y, r=size, class_=f"mark {role}")


def strips(groups: Mapping[str, Sequence[float]], names: Mapping[str, str], axis: Axis) -> Markup:
    """Every record's value as a dot, a row for each model, and a line at the median; over one axis.

    Args:
        groups: role → values.
        names: role → how it is called.
    """
    tallest = max((_stacked(values, axis)[1] for values in groups.values()), default=0)
    step = min(6.0, 46 / max(tallest, 1))
    row = 44 + step * max(tallest - 1, 0)
    parts: list[Markup] = []
    for number, (role, values) in enumerate(groups.items()):
        base = (number + 1) * row - 14
        middle = (
            sorted(values)[len(values) // 2] if len(values) % 2 else sum(sorted(values)[len(values) // 2 - 1 :][:2]) / 2
        )
        parts.append(tag("text", names[role], class_=f"name {role}", x="0%", y=base - row + 30))
        parts.append(tag("line", class_="axis", x1="0%", x2="100%", y1=base + 6, y2=base + 6))
        placed, _ = _stacked(values, axis)
        parts += [
            tag("circle", class_=f"point {role}", cx=_percent(x), cy=base - step * height, r=3.5)
            for x, height in placed
        ]
        x = _x(axis, middle)
        parts.append(tag("line", class_=f"median {role}", x1=x, x2=x, y1=base - row + 36, y2=base + 6))
    bottom = len(groups) * row
    parts += _x_ticks(axis, bottom - 8, bottom + 14)
    return tag("svg", *parts, class_="chart", height=bottom + 20, aria_hidden="true", focusable="false")


def _stacked(values: Sequence[float], axis: Axis, bins: int = 60) -> tuple[list[tuple[float, int]], int]:
    """Each value's place (0 to 1) and how many stand below it there; and the most that stand on one another."""
    seen: dict[int, int] = {}
    placed = []
    for value in sorted(values):
        column = round(axis.at(value) * bins)
        placed.append((column / bins, seen.get(column, 0)))
        seen[column] = seen.get(column, 0) + 1
    return placed, max(seen.values(), default=0)


@dataclass(frozen=True)
class Line:
    """A curve with its name at its end.

    Attributes:
        points: (x, y), by x.
        intervals: (x, low, high), drawn where they are known.
    """

    role: str
    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float, float]] = ()


def lines(
    curves: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    level: tuple[float, str] | None = None,
    chosen: tuple[float, float, str] | None = None,
) -> Markup:
    """Curves over one axis.

    Args:
        level: a value of y and what it is: a line across.
        chosen: x, y and what it is: a point with a ring around it.
    """
    top, bottom = 16.0, TALL - 26.0

    def height(value: float) -> float:
        return bottom - y.at(value) * (bottom - top)

    parts = [
        part
        for value, said in y.ticks
        for part in (
            tag("line", class_="grid", x1="0%", x2="100%", y1=height(value), y2=height(value)),
            tag("text", said, class_="tick", x=-10, y=height(value) + 5, text_anchor="end"),
        )
    ]
    parts += _x_ticks(x, bottom, TALL - 8)
    if level:
        parts.append(tag("line", class_="level", x1="0%", x2="100%", y1=height(level[0]), y2=height(level[0])))
        parts.append(tag("text", level[1], class_="said", x=4, y=height(level[0]) - 6))
    for curve in curves:
        parts += [
            tag("line", class_=f"interval {curve.role}", x1=_x(x, at), x2=_x(x, at), y1=height(low), y2=height(high))
            for at, low, high in curve.intervals
        ]
        for (x1, y1), (x2, y2) in zip(curve.points, curve.points[1:]):
            parts.append(
                tag("line", class_=f"curve {curve.role}", x1=_x(x, x1), x2=_x(x, x2), y1=height(y1), y2=height(y2))
            )
        if curve.points:
            parts.append(mark(curve.role, _x(x, curve.points[-1][0]), height(curve.points[-1][1]), 4.5))
    if chosen:
        parts.append(tag("circle", class_="chosen", cx=_x(x, chosen[0]), cy=height(chosen[1]), r=9.0))
        side = "end" if x.at(chosen[0]) > 0.5 else "start"
        above = height(chosen[1]) - 15
        parts.append(
            tag(
                "text",
                chosen[2],
                class_="said",
                x=_x(x, chosen[0]),
                y=above if above > top else above + 36,
                text_anchor=side,
            )
        )
    named = [(height(curve.points[-1][1]), curve) for curve in curves if curve.points and curve.name]
    for at, curve in zip(_spread([at for at, _ in named], top, bottom), [curve for _, curve in named]):
        parts.append(tag("text", curve.name, class_=f"name {curve.role}", x="100%", dx=-12, y=at, text_anchor="end"))
    return tag("svg", *parts, class_="chart lines", height=TALL, aria_hidden="true", focusable="false")


def _spread(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Where labels stand, a little above their points, so that none covers another; in the order given."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [0.0] * len(heights)
    last = top - APART
    for i in order:
        above = (
            heights[i] - 9 if heights[i] > top + 12 else heights[i] + 20
        )  # there is no room above a curve at the top
        last = placed[i] = max(above, last + APART)
    over = last - (bottom - 6)
    return [at - over for at in placed] if over > 0 else placed


def _x_ticks(axis: Axis, line: float, base: float) -> list[Markup]:
    parts = []
    for value, said in axis.ticks:
        where = axis.at(value)
        anchor = "start" if where < 0.04 else "end" if where > 0.96 else "middle"
        parts.append(tag("line", class_="grid", x1=_percent(where), x2=_percent(where), y1=line, y2=line + 4))
        parts.append(tag("text", said, class_="tick", x=_percent(where), y=base, text_anchor=anchor))
    return parts


def _x(axis: Axis, value: float) -> str:
    return _percent(axis.at(value))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def nice_axis(values: Sequence[float], count: int = 4, zero: bool = True) -> Axis:
    """An axis over all values with round ticks; with 0 on it where asked."""
    found = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = min(found, default=0.0), max(found, default=1.0)
    rough = (high - low) / max(count - 1, 1) or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, tuple((n * step, f"{n * step:g}") for n in range(first, last + 1)))
