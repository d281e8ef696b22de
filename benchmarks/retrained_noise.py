"""How far two models that never saw the records lie apart: the noise of every figure of an audit.

    python -m benchmarks.retrained_noise A.json,B.json,C.json D.json,E.json …

Each argument is a list of ``audit.json`` of different models, none of which saw the records, all on the same records
and settings. Of an audit beside a control, which is such a model too, both models' figures count. For each figure the
difference of any two models of a list is taken; the table has their mean and the largest.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.common import write
from rkld.benching.tables import as_markdown


def models_of(path: Path) -> list[dict[str, float]]:
    """Figure → value, of the audited model and, if there is one, of the control."""
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    found = []
    for role in ("audited", "control"):
        of = {name: one["figures"].get(role, {}).get("value") for name, one in metrics.items()}
        found.append({name: value for name, value in of.items() if isinstance(value, int | float)})
    return [one for one in found if one]


def differences(models: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Figure → |difference| of every two models that have it."""
    found: dict[str, list[float]] = {}
    different = [one for n, one in enumerate(models) if one not in models[:n]]  # a control may stand in several audits
    for one, other in itertools.combinations(different, 2):
        for name in one.keys() & other.keys():
            found.setdefault(name, []).append(abs(one[name] - other[name]))
    return found


@click.command(help=__doc__.split("\n")[0])
@click.argument("audits", nargs=-1, required=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
@click.option("--note", default="", help="What the audits are of, for the table.")
def main(audits: Sequence[str], results: Path, note: str) -> None:
    pooled: dict[str, list[float]] = {}
    for group in audits:
        models = [model for path in group.split(",") for model in models_of(Path(path))]
        for name, values in differences(models).items():
            pooled.setdefault(name, []).extend(values)
    rows = {
        name: {"mean": statistics.fmean(values), "largest": max(values), "pairs": len(values)}
        for name, values in sorted(pooled.items())
    }
    lines = [[name, f"{one['mean']:.3f}", f"{one['largest']:.3f}", str(one["pairs"])] for name, one in rows.items()]
    table = f"{note}\n\n" * bool(note) + as_markdown(["figure", "mean difference", "largest", "pairs of models"], lines)
    title = "Two models that never saw the records, one beside the other"
    command = "python -m benchmarks.retrained_noise " + " ".join(["A.json,B.json,…"] * len(audits))
    write(results, "retrained_noise", title, command, rows, table)


if __name__ == "__main__":
    main()
