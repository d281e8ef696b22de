"""Variants on fictitious people: ``rkld bench people`` on three seeds with chosen variants.

    python -m benchmarks.people_variants methods      # every method, and what relearning brings back
    python -m benchmarks.people_variants ablations    # ours, one setting changed at a time
    python -m benchmarks.people_variants alphas       # the paper's sweep of alpha, one teacher for all
    python -m benchmarks.people_variants divergences  # reverse against forward KL

The comparisons share --out, so models are made once and no cell is run twice; ``--plan`` says what is left. The tables
and plots go to benchmarks/results.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from benchmarks.common import write
from rkld.benching.comparing import bench, plan
from rkld.benching.provenance import PROVENANCE
from rkld.progress import ProgressBars

ABLATIONS = (
    "", "@replay_weight=1", "@replay_weight=20", "@alpha=4", "@alpha=16", "@strengthen_lr=2e-4", "@strengthen_lr=2e-3",
    "@strengthen_epochs=3", "@score=added", "@score=added@keep_weight=0", "@score=added@strengthen_lr=2e-3",
    "@score=added@strengthen_lr=2e-3@replay_weight=20", "@strengthen_epochs=30", "@lora=true@lr=5e-3",
    "@lora=true@lr=5e-3@lora_rank=64", "@score=added@alpha=16", "@score=added@alpha=32",
    "@score=added@alpha=16@keep_weight=0.5", "@score=added@alpha=16@replay_weight=20",
)  # fmt: skip
"""Settings of ``rkld+replay``; the world's own are alpha 8, replay weight 5, lr 5e-4, 10 epochs of each phase."""

DEFAULTS = "rkld+replay@score=added@alpha=16@reword=3"
"""What ``rkld unlearn`` does unasked, at the world's learning rate and without its stop."""

TUNED = (
    "simnpo+rt@lr=0.001", "idk+rt@lr=0.001", "dpo@lr=0.001", "idk@lr=0.001", "idk_ap@lr=0.001", "me_gd@lr=0.001",
    "rmu@lr=0.001", "task_arithmetic@lr=0.001", "uld@lr=0.001", "graddiff@lr=0.00025",
    "gradient_ascent@lr=0.00025", "simnpo@lr=0.00025", "whp@lr=0.00025",
)  # fmt: skip
"""Where ``--tune`` chose another learning rate than the world's own, on a pair that no seed reports (2026-11-27)."""

COMPARISONS = {
    "methods": ",".join(["all", DEFAULTS, *TUNED]),
    "ablations": ",".join(
        [
            "rkld",
            *(f"rkld+replay{changed}" for changed in ABLATIONS),
            *(f"jensen_shannon+replay{changed}" for changed in ("", "@replay_weight=1", "@score=added")),
        ]
    ),
    "alphas": "alphas",
    "divergences": "divergences",
}


@click.command(help=__doc__.split("\n")[0])
@click.argument("comparison", type=click.Choice(list(COMPARISONS)))
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/people_bench", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Cells at work at once.")
@click.option("--plan", "planning", is_flag=True, help="Say what would run; run nothing.")
def main(comparison: str, seeds: int, out: Path, results: Path, jobs: int, planning: bool) -> None:
    settings = {"methods": COMPARISONS[comparison], "seeds": seeds, "out": str(out), "jobs": jobs,
                "relearning": True}  # fmt: skip
    if planning:
        print(*plan("people", **settings), sep="\n")
        return
    found = bench("people", ProgressBars(), **settings)
    name = f"bench_{comparison}"
    body = (out / "results.md").read_text(encoding="utf-8").split("\n", 2)[2]
    title, command = (
        f"Two of twenty people, tiny model: {comparison}",
        f"python -m benchmarks.people_variants {comparison}",
    )
    write(
        results,
        name,
        title,
        command,
        {"methods": COMPARISONS[comparison], "seeds": seeds, "rows": list(found.rows)},
        body,
    )
    noted = results / f"{name}.json"  # with the names of figures, for the leaderboard
    how = (noted, out / PROVENANCE)
    made = {name: value for path in how for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    noted.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for path in found.files:
        if path.suffix in (".png", ".csv"):
            shutil.copyfile(path, results / f"{name}_{path.name}")


if __name__ == "__main__":
    main()
