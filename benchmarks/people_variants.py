"""Variants on fictitious people: ``rkld bench people`` on three seeds with chosen variants.

    python -m benchmarks.people_variants methods      # every method, as it comes and with a tuned learning rate
    python -m benchmarks.people_variants ablations    # ours, one setting changed at a time
    python -m benchmarks.people_variants alphas       # the paper's sweep of alpha, one teacher for all
    python -m benchmarks.people_variants divergences  # reverse against forward KL

The comparisons share --out, so models are made once and no cell is run twice; ``--plan`` says what is left. The tables
and plots go to benchmarks/results.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from benchmarks.common import write
from rkld.benching.comparing import bench, plan
from rkld.progress import ProgressBars

ABLATIONS = (
    "", "@replay_weight=1", "@replay_weight=20", "@alpha=4", "@alpha=16", "@strengthen_lr=2e-4", "@strengthen_lr=2e-3",
    "@strengthen_epochs=3", "@score=added", "@score=added@keep_weight=0", "@score=added@strengthen_lr=2e-3",
    "@score=added@strengthen_lr=2e-3@replay_weight=20", "@strengthen_epochs=30", "@lora=true@lr=5e-3",
    "@lora=true@lr=5e-3@lora_rank=64", "@score=added@alpha=16", "@score=added@alpha=32",
    "@score=added@alpha=16@keep_weight=0.5", "@score=added@alpha=16@replay_weight=20",
)  # fmt: skip
"""Settings of ``rkld+replay``; the world's own are alpha 8, replay weight 5, lr 5e-4, 10 epochs of each phase."""

COMPARISONS = {
    "methods": "all",
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
                "tune": comparison == "methods"}  # fmt: skip
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
    for path in found.files:
        if path.suffix in (".png", ".csv"):
            shutil.copyfile(path, results / f"{name}_{path.name}")


if __name__ == "__main__":
    main()
