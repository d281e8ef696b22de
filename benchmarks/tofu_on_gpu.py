"""TOFU's forget01, 05 and 10 with Llama-3.2-1B and LLaMA2-7B on a GPU: the cells that are worth most first, resumable.

    python -m benchmarks.tofu_on_gpu --data ./TOFU --plan
    python -m benchmarks.tofu_on_gpu --data ./TOFU --out runs/tofu_gpu

One method after another joins each table, which is written anew after each, and so is ``leaderboard.html`` over all.
The same command goes on where it was interrupted; what is there is not run again. Not yet run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from rkld.benching.comparing import bench, plan
from rkld.benching.leaderboard_page import write_leaderboard
from rkld.progress import ProgressBars

METHODS = ("rkld", "rkld+replay", "npo+rt", "simnpo+rt", "graddiff", "undial", "rkld@reword=4", "npo+rt@reword=4")
"""In the order in which they join a table."""


class Part(NamedTuple):
    """One table: a model on one split."""

    preset: str
    split: str

    @property
    def name(self) -> str:
        return f"{self.preset}_{self.split}"


PARTS = tuple(
    Part(preset, split) for preset in ("llama3.2-1b", "llama2") for split in ("forget10", "forget05", "forget01")
)
"""In order of worth: the small model, whose original and retrained models are on the hub, before the one that is made
here; the larger forget sets, on which methods differ most, first."""


def steps(methods: tuple[str, ...]) -> Iterator[tuple[Part, str]]:
    """Part and the methods of its table, one more each time; of every part the first methods before more of any."""
    for ours in (2, len(methods)):  # ours and its replay everywhere, then the rest
        for part in PARTS:
            first = 1 if ours == 2 else 3
            for n in range(first, ours + 1):
                yield part, ",".join(methods[:n])


def settings(part: Part, methods: str, data: Path, out: Path, jobs: int = 1, seeds: int = 1) -> dict[str, Any]:
    """Of ``rkld bench tofu``."""
    return {
        "preset": part.preset,
        "splits": part.split,
        "methods": methods,
        "data": str(data),
        "out": str(out / part.name),
        "jobs": jobs,
        "seeds": seeds,
    }


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/tofu_gpu", show_default=True)
@click.option("--only", default="", help="Comma-separated: of the parts, such as llama3.2-1b_forget10. Default: all.")
@click.option("--jobs", default=1, show_default=True, help="Cells at work at once.")
@click.option("--seeds", default=1, show_default=True, help="More of them only add cells.")
@click.option("--plan", "planning", is_flag=True, help="Say what would run; run nothing.")
def main(data: Path, out: Path, only: str, jobs: int, seeds: int, planning: bool) -> None:
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := set(wanted) - {part.name for part in PARTS}:
        raise click.UsageError(f"--only: unknown {', '.join(unknown)}; known: {', '.join(part.name for part in PARTS)}")
    todo = [(part, methods) for part, methods in steps(METHODS) if not wanted or part.name in wanted]
    if planning:
        for part in dict.fromkeys(part for part, _ in todo):
            print(
                f"\n{part.name}", *plan("tofu", **settings(part, ",".join(METHODS), data, out, jobs, seeds)), sep="\n"
            )
        return
    for part, methods in todo:
        bench("tofu", ProgressBars(), **settings(part, methods, data, out, jobs, seeds))
        made = [str(out / one.name) for one in PARTS if (out / one.name / "results.csv").is_file()]
        print(write_leaderboard(made, out / "leaderboard.html"))


if __name__ == "__main__":
    main()
