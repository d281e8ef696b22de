"""Rows of finished cells, as CSV and Markdown. The same cells give the same bytes; times lie in a file of their own."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from rkld.benching.cells import Cell
from rkld.files import write_text
from rkld.settings.benching import BenchSettings

MOMENTS = {
    "model": "as it is",
    "last": "last epoch",
    "stop": "calibrated stop",
    "oracle": "oracle peak",
    "single": "no student",
}
"""Moment → its label: of the reference models; of a method that trains; of one that does not."""


FIGURES = (
    "forget_quality", "ks", "forget_probability", "forget_rouge", "forget_truth_ratio", "forget_named",
    "retain_probability", "retain_rouge", "retain_truth_ratio",
    "real_authors_probability", "real_authors_rouge", "real_authors_truth_ratio",
    "world_facts_probability", "world_facts_rouge", "world_facts_truth_ratio", "likelihood_utility", "model_utility",
)  # fmt: skip


COLUMNS = ("split", "method", "settings", "moment", "seed", "step", "epoch", "n", *FIGURES, "note")


SHOWN = {
    "epoch": "epoch", "forget_quality": "forget quality", "ks": "KS", "forget_probability": "forget p",
    "forget_rouge": "forget ROUGE-L", "forget_named": "names whole", "retain_probability": "retain p",
    "retain_rouge": "retain ROUGE-L", "model_utility": "model utility",
}  # fmt: skip
"""Figures of ``results.md`` and their titles."""


Found = Mapping[Cell, Mapping[str, Any]]
"""Cell → what stands in its ``cell.json``."""


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


def write_tables(settings: BenchSettings, found: Found, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """``results.csv``, ``results.md``, ``trajectories.csv`` and ``timings.csv``."""
    epochs = (
        {"split": cell.split, "method": cell.name, "seed": cell.seed, **row}
        for cell, content in found.items()
        for row in content["trajectory"]
    )
    by_epoch = ("split", "method", "seed", "step", "epoch", "n", *(f for f in FIGURES if not _spoken(f)))
    times = (
        {"split": c.split, "method": c.name, "seed": c.seed, "seconds": f["seconds"], "device": f["device"]}
        for c, f in found.items()
    )
    texts = {
        "results.csv": as_csv(COLUMNS, rows),
        "results.md": markdown(settings, rows),
        "trajectories.csv": as_csv(by_epoch, epochs),
        "timings.csv": as_csv(("split", "method", "seed", "seconds", "device"), times),
    }
    for name, text in texts.items():
        write_text(settings.folder / name, text)
    return [settings.folder / name for name in texts]


def _spoken(figure: str) -> bool:
    """Whether a figure needs answers, so that there is none for every epoch."""
    return figure.endswith(("_rouge", "_named")) or figure == "model_utility"


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


def markdown(settings: BenchSettings, rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, one table per split, and what must be known to read it."""
    parts = [f"# rkld bench: {settings.world}"]
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        seeds = len({row["seed"] for row in here})
        n = ", ".join(str(n) for n in sorted({row["n"] for row in here if "n" in row}))
        parts.append(f"## {split}\n\n{seeds} seeds, n = {n} forget questions. Mean ± standard deviation over seeds.")
        lines = []
        for key in dict.fromkeys((row["method"], row["settings"], row["moment"]) for row in here):
            some = [row for row in here if (row["method"], row["settings"], row["moment"]) == key]
            notes = Counter(row["note"].partition(":")[0] for row in some if "note" in row)
            moment = key[2] + "".join(f" ({note}: {count} of {len(some)})" for note, count in notes.items())
            lines.append([*key[:2], moment, *(_spread([r[f] for r in some if f in r]) for f in SHOWN)])
        parts.append(as_markdown(["method", "settings", "moment", *SHOWN.values()], lines))
    return "\n\n".join([*parts, _NOTES.format(stop=settings.stop)]) + "\n"


_NOTES = """\
- last epoch: the run's end. calibrated stop: where `rkld unlearn --stop {stop}` would have ended the same run; it sees
  no retrained model. oracle peak: the epoch with the smallest KS distance to the retrained model, which a real erasure
  does not have. no student: the method trains none, so there is one point.
- not reached: the rule never ended the run, so the check nearest to its aim was taken. no rule applies: there was nothing
  to aim at, so the last step was. diverged: the loss was no number any more, so there is nothing to measure.
- default: settings as they come, one learning rate for all. tuned: the learning rate chosen on people not reported on,
  by the same grid and rule for every method.
- KS: distance between the truth ratios of the unlearned and of the retrained model; forget quality: its p-value, coarse
  and blind to harm done to right and wrong answers alike. Forget p far below the retrained model's is over-forgetting.
- names whole: share of forget answers that write the person's name as the question does, of those whose right answer
  does.
- model utility: harmonic mean of nine values; those of every epoch (trajectories.csv) leave out ROUGE-L: six values."""


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return _number(fmean(values)) + (f" ± {_number(stdev(values))}" if len(values) > 1 else "")


def _number(value: float) -> str:
    return f"{value:.3f}" if value == 0 or value >= 5e-4 else f"{value:.0e}"
