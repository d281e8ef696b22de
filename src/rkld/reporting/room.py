"""What there is room for on a page that must stay small: of many people, or of many records, not all of everything.

Verdicts, their numbers and their tests stay, whatever there is no room for; what is left out is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

LARGEST = 2 * 1024 * 1024
"""Bytes of a page."""

MUCH = 5
"""So many times as large as it may be, a page is tried without charts at once: each try takes seconds."""

STRIPS = 6
"""Rows of dots in a section: two charts of up to three models."""

FEWEST_DOTS = 10
"""Fewer make no distribution."""


@dataclass(frozen=True)
class Room:
    """How much of what grows with people and records the page takes.

    Attributes:
        texts: characters of questions and answers; rows: of the tables of records; dots: of the charts in which a
            record is one. All are of the whole page.
        charts: whether there are any, the run's own apart.
        figures: whether every figure is listed.
        sections: of so many people.
    """

    texts: int
    rows: int
    dots: int
    charts: bool = True
    figures: bool = True
    sections: int = 10**6

    def left_out(self, people: int) -> list[str]:
        """What of a page of so many people is left out altogether."""
        found = {
            "the tables of records": not self.rows,
            "the charts of single records": not self.dots and self.charts,
            "all charts": not self.charts,
            "the list of every figure": not self.figures,
            f"{people - self.sections} of {people} sections": people > self.sections,
        }
        return [what for what, is_so in found.items() if is_so]


ROOMS = (
    Room(600_000, 3000, 12_000),
    Room(600_000, 1500, 6000),
    Room(300_000, 1000, 3000),
    Room(100_000, 300, 1500),
    Room(50_000, 200, 0),
    Room(0, 0, 0),
    Room(0, 0, 0, figures=False),
    Room(0, 0, 0, figures=False, charts=False),
)
"""From all to the least, with every section."""


def rooms(people: int) -> Iterator[Room]:
    """What is tried, one after the other, until the page is small enough.

    Args:
        people: sections that there are.
    """
    yield from ROOMS
    while people > 1:
        people //= 2
        yield replace(ROOMS[-1], sections=people)


def fair(total: int, wanted: Sequence[int]) -> list[int]:
    """A total given out: nobody gets more than is wanted, and nobody less than another who wants as much."""
    given, left = [0] * len(wanted), total
    for place, i in enumerate(sorted(range(len(wanted)), key=lambda i: wanted[i])):
        given[i] = min(wanted[i], left // (len(wanted) - place))
        left -= given[i]
    return given
