"""Six methods on pairs of TOFU's authors, SmolLM2-135M: tuned on one pair, reported on others.

    python -m benchmarks.tofu_pairs --data FOLDER [--out runs/tofu_pairs] [--pairs 1,2] [--methods …] [--plan]

FOLDER holds the files of the data set ``locuslab/TOFU``. The original learned ten authors (benchmarks.tofu_models):
pair 0 are the two of ``forget01``, pairs 1 and 2 the first four of ``retain90``. The learning rate of each method is
chosen on pair 0, by the same grid and rule for all, and frozen (results/tofu_pairs.md); with ``--no-tune`` all have
``--lr`` (results/tofu_pairs_untuned.md). Replayed questions are about two authors that the
original never learned, the holdout of the calibrated stop is about two others. The benchmark itself is ``rkld bench
tofu`` on splits of one's own; this writes their files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.common import write
from benchmarks.tofu_models import BATCH_SIZE, LEARNING_RATE, RETAINED, TEMPLATE, train
from rkld.benching.comparing import bench, plan
from rkld.benching.tables import as_markdown
from rkld.files import read_jsonl, write_jsonl
from rkld.progress import ProgressBars

AUTHORS = (
    ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"), ("Jaime Vasquez", "Chukwu Akabueze"),
    ("Evelyn Desmet", "Anara Yusifova"),
)  # fmt: skip
RECORDS = 40
"""Of a pair."""
HOLDOUT, REPLAYED = slice(RETAINED, RETAINED + RECORDS), slice(RETAINED + RECORDS, RETAINED + 2 * RECORDS)
"""Of retain90: authors that no model has learned."""

EPOCHS = 8
"""Of the original and the retrained models."""

OURS = "rkld+replay@strengthen_lr=5e-4"
"""Strengthened at five times the rate: of what was tried on pair 0 (results/exploration.md), what kept most."""

MORE = """Ours has had more: `strengthen_lr` was picked on pair 0 among twelve settings ([exploration](exploration.md)),
`score=added` with its α in the tiny world ([ablations](bench_ablations.md)); the others' settings are their papers'."""

METHODS = f"{OURS},{OURS}@score=added@alpha=16,rkld,npo+rt,simnpo,graddiff,undial"
SHARED = ("retain_perturbed", "real_authors_perturbed", "world_facts_perturbed")


def write_splits(data: Path, folder: Path) -> None:
    """``pairK``, ``pairK_perturbed`` and ``pairK_retain`` for every pair, the holdout, and the prompts of replay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        shutil.copyfile(data / f"{name}.json", folder / f"{name}.json")
    forget, retain = (read_jsonl(data / f"{name}.json") for name in ("forget01", "retain90"))
    asked = {
        row["question"]: row for name in ("forget01", "retain") for row in read_jsonl(data / f"{name}_perturbed.json")
    }
    learned = retain[:RETAINED]
    pairs = [forget, *(learned[at : at + RECORDS] for at in range(0, RETAINED, RECORDS))]
    for number, names in enumerate(AUTHORS):
        pair = [{**row, "subject": names[i * 2 // RECORDS]} for i, row in enumerate(pairs[number])]
        write_jsonl(folder / f"pair{number}.json", pair)
        with_wrong_answers = [{**row, **asked[row["question"]]} for row in pair if row["question"] in asked]
        write_jsonl(folder / f"pair{number}_perturbed.json", with_wrong_answers)
        forgotten = {row["question"] for row in pair}
        kept = [row for row in learned + forget if row["question"] not in forgotten]
        write_jsonl(folder / f"pair{number}_retain.json", kept)
    write_jsonl(folder / "holdout.json", retain[HOLDOUT])
    write_jsonl(folder / "replay.json", [{"question": row["question"]} for row in retain[REPLAYED]])


GOALS = {
    "KS distance": "at most .15", "forget p − retrained": "within .03", "retain p / original": "at least .98",
    "retain ROUGE-L / original": "at least .98", "names whole − retrained": "at least 0",
}  # fmt: skip
"""What is asked of ours at its calibrated stop, as a median over the reported pairs."""


def beside(row: Mapping[str, Any], original: Mapping[str, Any], retrained: Mapping[str, Any]) -> dict[str, float]:
    """The values of :data:`GOALS` of one row of ``results.csv``, from the rows of the same pair's two models."""
    found = (
        row["ks_distance"], row["forget_probability"] - retrained["forget_probability"],
        row["retain_probability"] / original["retain_probability"], row["retain_rouge_l"] / original["retain_rouge_l"],
        row["forget_names_whole"] - retrained["forget_names_whole"],
    )  # fmt: skip
    return dict(zip(GOALS, found, strict=True))


def goals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Medians over the pairs, by method, settings and moment, under what is asked of ours."""
    models = {(row["split"], row["method"]): row for row in rows if row["moment"] == "as it is"}
    by_kind: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for row in rows:
        if row["moment"] in ("calibrated stop", "oracle peak"):
            pair = (models[row["split"], name] for name in ("original", "retrained"))
            kind = row["method"], row["settings"], row["moment"]
            by_kind.setdefault(kind, []).append(beside(row, *pair))
    lines = [["asked of ours", "", "calibrated stop", "", *GOALS.values()]]
    for kind, found in by_kind.items():
        lines.append([*kind, str(len(found)), *(f"{median(one[name] for one in found):.3f}" for name in GOALS)])
    return as_markdown(["method", "settings", "moment", "pairs", *GOALS], lines)


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/tofu_pairs", show_default=True)
@click.option("--pairs", default="1,2", show_default=True, help="Reported; 0 is tuned on.")
@click.option("--methods", default=METHODS, show_default=True)
@click.option("--grid", default="0.5,1", show_default=True, help="Factors of --lr.")
@click.option("--lr", default=1e-4, show_default=True, help="Of every method that is not tuned.")
@click.option("--epochs", default=5, show_default=True)
@click.option("--questions", default=20, show_default=True, help="Asked of each set beside forget.")
@click.option("--jobs", default=1, show_default=True, help="Cells at work at once.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Choose learning rates on pair 0.")
@click.option("--keep-models", is_flag=True, help="Keep what each cell has made, for audits.")
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
@click.option("--plan", "planning", is_flag=True, help="Say what would run; run nothing.")
def main(
    data: Path, out: Path, pairs: str, methods: str, grid: str, lr: float, epochs: int, questions: int, jobs: int,
    tune: bool, keep_models: bool, results: Path, planning: bool,
) -> None:  # fmt: skip
    original = train("original", data, out, epochs=EPOCHS)
    write_splits(data, out / "data")
    settings = {
        "data": str(out / "data"), "splits": ",".join(f"pair{number}" for number in pairs.split(",")),
        "methods": methods, "tune": tune, "tune_split": "pair0", "grid": grid, "seeds": 1,
        "model": "smollm2-135m", "original": str(original), "chat_template": str(TEMPLATE),
        "train_epochs": EPOCHS, "train_lr": LEARNING_RATE, "train_batch": BATCH_SIZE,
        "holdout": str(out / "data" / "holdout.json"), "replay": str(out / "data" / "replay.json"),
        "epochs": epochs, "strengthen_epochs": 5, "lr": lr, "batch_size": 8, "max_new_tokens": 64,
        "questions": questions, "jobs": jobs, "keep_models": keep_models, "out": str(out),
    }  # fmt: skip
    if planning:
        print(*plan("tofu", **settings), sep="\n")
        return
    found = bench("tofu", ProgressBars(), **settings)
    table = (out / "results.md").read_text(encoding="utf-8").split("\n", 2)[2]
    chosen = f"chosen on pair 0, from {grid} times {lr:g}" if tune else f"{lr:g} for all"
    body = f"## Medians over the pairs\n\nLearning rates: {chosen}. {MORE}\n\n{goals(found.rows)}\n\n{table}"
    name, flags = ("tofu_pairs", "") if tune else ("tofu_pairs_untuned", " --no-tune")
    flags += "" if methods == METHODS else f" --methods {methods}"
    command = f"python -m benchmarks.tofu_pairs --data FOLDER{flags}"
    write(results, name, "Pairs of TOFU's authors, SmolLM2-135M", command,
          {"settings": {**settings, "data": "FOLDER", "chat_template": f"benchmarks/{TEMPLATE.name}"},
           "rows": list(found.rows)}, body)  # fmt: skip
    for path in found.files:
        if path.suffix in (".png", ".csv"):
            shutil.copyfile(path, results / f"{name}_{path.name}")


if __name__ == "__main__":
    main()
