"""Forgetting two of twenty fictitious people with a tiny model: as published, with replay, and by forward KL.

    python -m benchmarks.people_trajectories [--seeds 3] [--out runs/people] [--results benchmarks/results]

Each seed is another world, and another pair of people in it. The original learns all twenty, its retrained twin the
other eighteen, from the same start. Every four epochs: forget probability, KS distance between the truth ratios of the
unlearned and the retrained model on the forget set (n = 40), retain probability, ROUGE-L of both. Replayed are the
model's own answers to the questions about every other one of the eighteen; at the end the retain probability of the
nine whom nobody asked about is taken apart. One setting for all seeds, chosen on these seeds.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import Checks, EveryEpochs, table, write
from rkld import unlearn
from rkld.benching.worlds.people import World, people
from rkld.benching.worlds.training import train_tiny
from rkld.evaluation.summary import measure
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.progress import ProgressBars
from rkld.records.reading import read_records

RUNS = {
    "published": {},
    "replay": {},
    "forward KL": {"method": "forward_kl"},
}
"""Only "replay" replays."""
SETTINGS = {
    "alpha": 8.0,
    "lr": 5e-4,
    "epochs": 20,
    "batch_size": 8,
    "max_new_tokens": 32,
    "stop": "last",
    "score": "answer",
    "reword": 0,
}
EVERY = 4
"""Epochs between checks."""


def pair(seed: int) -> tuple[int, int]:
    """Positions of the two people that seed forgets."""
    return 2 * seed, 2 * seed + 1


def models(world: World, who: tuple[int, int], folder: Path) -> tuple[Path, Path]:
    """Original and retrained model of a world, made unless they are there."""
    for name, without in {"original": (), "retrained": who}.items():
        if not (folder / name).exists():
            save_model(train_tiny(world, folder / f"{name}-training", without), folder / name)
    return folder / "original", folder / "retrained"


def checks_of(world: World, who: tuple[int, int], retrained: LanguageModel) -> Checks:
    forget, retain = read_records(world.forget(who), "forget"), read_records(world.retain(who), "retain")
    return Checks(retrained, forget, retain)


def without_extra(records: list[dict]) -> list[dict]:
    """What an erasure request holds: questions and answers, and whom they are about."""
    return [{name: record[name] for name in ("question", "answer", "subject", "aliases")} for record in records]


def asked(world: World, who: tuple[int, int], other: bool = False) -> list[dict]:
    """Records of every other person who stays: those whose questions are replayed, or the ``other`` ones."""
    stay = [i for i in range(len(world.people)) if i not in who]
    return world.forget(stay[int(other) :: 2])


def trajectory(
    name: str, world: World, who: tuple[int, int], original: Path, checks: Checks, folder: Path
) -> list[dict]:
    """One of ``RUNS``, and the checks along it."""
    lm = load_model(original)
    every = EveryEpochs(checks, lm, EVERY)
    replay = [{"question": record["question"]} for record in asked(world, who)] if name == "replay" else "none"
    unlearn(
        lm.model, without_extra(world.forget(who)), replay=replay, processing_class=lm.tokenizer,
        out=str(folder / name), seed=world.seed, progress=ProgressBars(), callbacks=[every], **SETTINGS, **RUNS[name],
    )  # fmt: skip
    every.steps[-1]["never_asked_probability"] = never_asked(world, who, lm, checks)
    return every.steps


def never_asked(world: World, who: tuple[int, int], lm: LanguageModel, checks: Checks) -> float:
    """Mean probability of the records of those who stay and whose questions are not replayed."""
    records = read_records(asked(world, who, other=True), "retain")
    return measure(lm, checks.encoder, records, answers=False).probability


@click.command(help=__doc__.split("\n")[0])
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/people", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(seeds: int, out: Path, results: Path) -> None:
    found: dict = {}
    rows: list[tuple[str, dict]] = []
    notes = ["Retain probability of the nine never asked about, at the end, relative to the original's:", ""]
    for seed in range(seeds):
        world, who, folder = people(seed=seed), pair(seed), out / f"seed{seed}"
        original, retrained = models(world, who, folder)
        checks = checks_of(world, who, load_model(retrained))
        lm = load_model(original)
        here = {"original": checks(lm), "retrained": checks.retrained}
        here["original"]["never_asked_probability"] = never_asked(world, who, lm, checks)
        rows += [(f"seed {seed}: {name}", values) for name, values in here.items()]
        for name in RUNS:
            here[name] = trajectory(name, world, who, original, checks, folder)
            rows += [(f"seed {seed}: {name}, epoch {step['epoch']}", step) for step in here[name]]
            kept = here[name][-1]["never_asked_probability"] / here["original"]["never_asked_probability"]
            notes.append(f"- seed {seed}, {name}: {kept:.3f}")
        found[f"seed {seed}"] = here
        print(table(rows), flush=True)
    body = "n = 40 forget questions.\n\n" + table(rows) + "\n\n" + "\n".join(notes)
    write(results, "people_trajectories", "Two of twenty people, tiny model",
          "python -m benchmarks.people_trajectories",
          {"settings": SETTINGS, **found}, body)  # fmt: skip


if __name__ == "__main__":
    main()
