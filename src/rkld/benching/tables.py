"""Rows of finished cells, as CSV and Markdown. The same cells give the same bytes; times lie in a file of their own."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from rkld.benching.cells import Found
from rkld.files import write_text

MOMENTS = {
    "model": "as it is",
    "last": "last epoch",
    "stop": "calibrated stop",
    "oracle": "oracle peak",
    "single": "no student",
}
"""Moment → its label: of the reference models; of a method that trains; of one that does not."""


RELEARNED, RELEARNING_GAIN = "relearned_probability", "relearning_gain"
"""Figures of :mod:`rkld.benching.relearning`, by the names that an audit has for them."""


@dataclass(frozen=True)
class Table:
    """Which figures a benchmark has."""

    figures: tuple[str, ...]
    """Columns of ``results.csv``."""
    every_epoch: tuple[str, ...]
    """Those of ``trajectories.csv``: what is read at every epoch."""
    titles: Mapping[str, str]
    """Figure → its title, of those that ``results.md`` shows."""
    notes: str
    """Below the tables: what each figure is."""
    n: str = "questions"
    """What the figure "n" counts."""
    forgotten: tuple[str, ...] = ()
    """For ``rkld bench report``: figures of what is left of what was to go, lower is better; the first there is."""
    utility: tuple[str, ...] = ()
    """Likewise of what was to stay; higher is better."""
    remaining: str = ""
    """A figure that is below the retrained model's where a method has forgotten more than not having learned."""

    def with_relearning(self) -> Table:
        """The same with what relearning brings back."""
        return replace(
            self,
            figures=(*self.figures, RELEARNED, RELEARNING_GAIN),
            titles={**self.titles, RELEARNED: "p after relearning", RELEARNING_GAIN: "gain by relearning"},
            notes=f"{self.notes}\n{_RELEARNING}",
        )

    @property
    def columns(self) -> tuple[str, ...]:
        return ("split", "method", "settings", "moment", "seed", "step", "epoch", "n", *self.figures, "note")


_RELEARNING = """\
- p after relearning: mean probability of the forget records but for a fifth of them, after a fine-tuning on this fifth;
  the gain is how far it rose by it. What was only hidden comes back; the retrained model shows how far what was never
  known rises. Empty where it was not measured: of methods of two models, and where the fine-tuning diverged."""


def rows_of(found: Found, tuned: Mapping[str, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """One row for each cell and moment.

    Args:
        tuned: variant → what the tuning chose of its grid, which may be the variant as it comes.
    """
    rows = []
    for cell, content in found.items():
        default = "default = tuned" if tuned.get(cell.name) == cell.name else "default"
        how = "" if cell.variant is None else "tuned" if cell.name not in tuned and tuned else default
        for moment, label in MOMENTS.items():
            if moment in content["moments"]:
                at = {"split": cell.split, "method": cell.name, "settings": how, "moment": label, "seed": cell.seed}
                rows.append({**at, **content["moments"][moment]})
    return rows


def write_tables(folder: Path, title: str, table: Table, found: Found, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """``results.csv``, ``results.md``, ``trajectories.csv`` and ``timings.csv``."""
    epochs = (
        {"split": cell.split, "method": cell.name, "seed": cell.seed, **row}
        for cell, content in found.items()
        for row in content["trajectory"]
    )
    times = (
        {"split": c.split, "method": c.name, "seed": c.seed, "seconds": f["seconds"], "device": f["device"]}
        for c, f in found.items()
    )
    texts = {
        "results.csv": as_csv(table.columns, rows),
        "results.md": markdown(title, table, rows),
        "trajectories.csv": as_csv(("split", "method", "seed", "step", "epoch", "n", *table.every_epoch), epochs),
        "timings.csv": as_csv(("split", "method", "seed", "seconds", "device"), times),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows under a head, numbers with six digits; what a row has beside the columns is left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def as_markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; its cells must hold nothing that acts in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def markdown(title: str, table: Table, rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, one table per split, and what must be known to read it."""
    parts = [f"# {title}"]
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        seeds = len({row["seed"] for row in here})
        n = ", ".join(str(n) for n in sorted({row["n"] for row in here if "n" in row}))
        over = f"{seeds} seeds, n = {n} {table.n}. Mean ± standard deviation over seeds."
        parts.append(f"## {split}\n\n{over if seeds != 1 else f'1 seed, n = {n} {table.n}.'}")
        lines = []
        for key in dict.fromkeys((row["method"], row["settings"], row["moment"]) for row in here):
            some = [row for row in here if (row["method"], row["settings"], row["moment"]) == key]
            notes = Counter(row["note"].partition(":")[0] for row in some if "note" in row)
            moment = key[2] + "".join(f" ({note}: {count} of {len(some)})" for note, count in notes.items())
            spreads = [_spread([r[f] for r in some if r.get(f) is not None]) for f in table.titles]
            lines.append([*key[:2], moment, *spreads])
        parts.append(as_markdown(["method", "settings", "moment", *table.titles.values()], lines))
    return "\n\n".join([*parts, table.notes]) + "\n"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return _number(fmean(values)) + (f" ± {_number(stdev(values))}" if len(values) > 1 else "")


LARGE = 1e6
"""From here on a number is a power of ten: a perplexity can have three hundred digits."""


def _number(value: float) -> str:
    size = abs(value)  # PrivLeak is below 0 where a model still remembers
    if size >= LARGE:
        return f"{value:.2e}"
    return f"{value:.3f}" if value == 0 or size >= 5e-4 else f"{value:.0e}"
