"""Where the time of a whole run goes, phase by phase, beside what ``rkld check`` says that it takes.

    python -m benchmarks.phases [--only tiny,people,smollm2] [--tiny-model FOLDER] [--out runs/phases]

``rkld unlearn`` with its defaults and ``--stop last``, each run and each prediction in a process of its own:

- tiny: a tiny model that learned sixty made-up people (:mod:`rkld.benching.worlds`), 40 and 400 records of them, full
  and LoRA.
- people: the same, ten records of each of 5 and of 50 people in one request: time a record, and memory.
- smollm2: SmolLM2-135M, 8 and 40 records of people whom it does not know, full and LoRA.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

import rkld
from benchmarks.common import said_by_check, write
from benchmarks.resource_usage import measure
from rkld.benching.worlds.people import World, people
from rkld.benching.worlds.training import train_tiny
from rkld.files import append_jsonl, read_jsonl, write_jsonl
from rkld.models.saving import save_model
from rkld.runfolder.manifest import read_manifest

PARTS = ("tiny", "people", "smollm2")

PEOPLE = 60


@dataclass(frozen=True)
class Case:
    """One request."""

    part: str
    model: str
    people: int
    each: int
    """Records of each of them."""
    lora: bool

    def arguments(self, folder: Path) -> dict[str, Any]:
        """Of ``rkld unlearn`` and ``rkld check``."""
        world = people(PEOPLE, seed=0)
        rows = [row for who in world.people[: self.people] for row in _records(world, who.name)[: self.each]]
        write_jsonl(folder / "forget.jsonl", rows)
        return {
            "model": self.model, "forget": str(folder / "forget.jsonl"), "lora": self.lora, "stop": "last",
            "out": str(folder / "run"), "keep_replay": False,
        }  # fmt: skip


def _records(world: World, name: str) -> list[dict[str, Any]]:
    return [
        {key: row[key] for key in ("question", "answer", "subject", "spans")}
        for row in world.records
        if row["subject"] == name
    ]


def unlearned(case: Case, folder: Path) -> Callable[[], dict[str, float]]:
    """The run; its value is the seconds of each phase, as its manifest has them."""
    arguments = case.arguments(folder)

    def work() -> dict[str, float]:
        rkld.unlearn(**arguments)
        phases: Mapping[str, Mapping[str, Any]] = (read_manifest(folder / "run") or {})["phases"]
        return {name: found["seconds"] for name, found in phases.items()}

    return work


def predicted(case: Case, folder: Path) -> Callable[[], tuple[float, int]]:
    """The prediction: seconds and bytes."""
    arguments = case.arguments(folder)
    return lambda: said_by_check(**arguments)


def cases(parts: list[str], tiny: str) -> Iterator[Case]:
    if "tiny" in parts:
        for n, lora in itertools.product((4, 40), (False, True)):
            yield Case("tiny", tiny, n, 10, lora)
    if "people" in parts:
        yield from (Case("people", tiny, n, 10, False) for n in (5, 50))
    if "smollm2" in parts:
        for n, lora in itertools.product((8, 40), (False, True)):
            yield Case("smollm2", "smollm2-135m", max(1, n // 10), min(n, 10), lora)


def measured(case: Case, rows: Path) -> dict[str, Any]:
    """The prediction and the run, unless they were made already."""
    key = asdict(case) | {"model": Path(case.model).name}
    for row in read_jsonl(rows):
        if row["case"] == key:
            return row
    with tempfile.TemporaryDirectory() as folder:
        guess = measure(predicted, case, Path(folder))
        real = measure(unlearned, case, Path(folder))
    row = {"case": key, "seconds": real.seconds, "peak_bytes": real.peak_bytes, "phases": real.value,
           "predicted": guess.value, "predicting": guess.seconds}  # fmt: skip
    append_jsonl(rows, row)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """A line a run, a column a phase that took any time."""
    phases = [name for name in rows[0]["phases"] if any(row["phases"][name] >= 0.5 for row in rows)]
    header = ["part", "records", "tuning", *phases, "whole run, s", "a record, s", "said, s", "peak, MB", "said, MB",
              "check took, s"]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        case, (seconds, peak) = row["case"], row["predicted"]
        n = case["people"] * case["each"]
        cells = [case["part"], n, "LoRA" if case["lora"] else "full",
                 *(f"{row['phases'][name]:.1f}" for name in phases), f"{row['seconds']:.1f}",
                 f"{row['seconds'] / n:.2f}", f"{seconds:.1f} ({seconds / row['seconds'] - 1:+.0%})",
                 f"{row['peak_bytes'] / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{row['predicting']:.1f}"]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


@click.command(help=__doc__.split("\n")[0])
@click.option("--only", default="tiny,people", show_default=True, help=f"Of {', '.join(PARTS)}.")
@click.option("--tiny-model", type=click.Path(path_type=Path), help="Trained already; else it is trained first.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/phases", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(only: str, tiny_model: Path | None, out: Path, results: Path) -> None:
    parts = [part.strip() for part in only.split(",")]
    out.mkdir(parents=True, exist_ok=True)
    tiny = tiny_model or out / "tiny"
    if {"tiny", "people"} & set(parts) and not tiny.exists():
        save_model(train_tiny(people(PEOPLE, seed=0), out / "training"), tiny)
    rows = []
    for case in cases(parts, str(tiny)):
        rows.append(measured(case, out / "rows.jsonl"))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    write(results, "phases", "Where the time of a run goes", f"python -m benchmarks.phases --only {only}",
          {"rows": rows}, f"Seconds of each phase, of `rkld unlearn --stop last`.\n\n{table(rows)}")  # fmt: skip


if __name__ == "__main__":
    main()
