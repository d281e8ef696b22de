"""Full audits of what knew, what never knew and what forgot: the tiny world's pairs, or SmolLM2 on TOFU's authors.

    python -m benchmarks.audits --world people [--seed 0] [--out runs/people]
    python -m benchmarks.audits --world tofu --data FOLDER [--out runs/tofu]
    python -m benchmarks.audits --world pairs --data FOLDER [--seed 1] [--out runs/tofu_pairs]

One ``rkld audit`` of each model, by the same attacks and gates, which were fixed before any of these audits was run
(single metrics of the tiny world's models were known): the original must fail on every one of them and the retrained
model pass. The unlearned model is audited beside both. Models are those of ``benchmarks.people_trajectories`` and
``benchmarks.tofu_forget01``, made unless they are there; for pairs (``--seed`` is the pair's number) those that
``benchmarks.tofu_pairs --keep-models`` left: ours as it was at its calibrated stop.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

import rkld
from benchmarks.common import write
from benchmarks.people_trajectories import asked, models, pair
from benchmarks.tofu_models import RETAINED, TEMPLATE, train
from benchmarks.tofu_pairs import AUTHORS, OURS
from rkld.benching.worlds.people import people
from rkld.files import read_jsonl
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import restore_state
from rkld.progress import ProgressBars

GATES = {
    "extraction_strength": 0.5,
    "exact_memorisation": 0.9,
    "facts_said": 0.25,
    "rouge_l": 0.75,
    "leak@8": 0.6,
    "loss_auc_distance": 0.3,
}
"""At most so much. Between what a model shows that knows the records (about 1 each) and what style alone explains."""

SETTINGS = {
    "attacks": ("standard", "context", "relearning", "4bit", "8bit"),
    "k": 8,
    "samples": 12,
    "max_new_tokens": 64,
    "max": tuple(f"{n}={v}" for n, v in GATES.items()),
}
PAIRS = SETTINGS | {
    "attacks": ("paraphrases", "prefixes", "sampling", "relearning", "4bit"), "k": 32, "samples": 32,
    "max": tuple(f"{n}={v}" for n, v in GATES.items() if n != "leak@8"),
}  # fmt: skip
"""As for the others, but leak@32, paraphrases, prefixes, four-bit weights and relearning."""

HELD_OUT = 40
"""Records of people that no model has seen."""


def people_task(seed: int, out: Path) -> tuple[dict, dict[str, Path]]:
    """The data of an audit, and the three models."""
    world, who, folder = people(seed=seed), pair(seed), out / f"seed{seed}"
    original, retrained = models(world, who, folder)
    strangers = people(seed=1000 + seed)
    data = {
        "forget": world.forget(who),
        "holdout": strangers.forget([0, 1])[:HELD_OUT],
        "retain": asked(world, who)[:HELD_OUT],
        "real_authors": list(world.real_authors), "world_facts": list(world.world_facts),
        "relearn_lr": 5e-4,  # at a real model's rate the tiny one hardly learns
    }  # fmt: skip
    return data, {"original": original, "retrained": retrained, "unlearned": folder / "replay" / "model"}


def tofu_task(data: Path, out: Path, model: str) -> tuple[dict, dict[str, Path]]:
    original, retrained = (train(name, data, out, model) for name in ("original", "retrained"))
    retain, perturbed = read_jsonl(data / "retain90.json"), read_jsonl(data / "retain_perturbed.json")
    learned = {record["question"] for record in retain[:RETAINED]}
    found = {
        "forget": read_jsonl(data / "forget01_perturbed.json"),
        "subject": ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"),
        "holdout": retain[RETAINED : RETAINED + HELD_OUT],
        "retain": [record for record in perturbed if record["question"] in learned][:HELD_OUT] or retain[:HELD_OUT],
        "real_authors": read_jsonl(data / "real_authors_perturbed.json"),
        "world_facts": read_jsonl(data / "world_facts_perturbed.json"),
        "chat_template": str(TEMPLATE),
    }
    return found, {"original": original, "retrained": retrained, "unlearned": out / "replay" / "model"}


def pair_task(number: int, data: Path, out: Path) -> tuple[dict, dict[str, Path]]:
    splits, cell = out / "data", out / "cells" / f"pair{number}" / "seed0" / OURS
    learned = {record["question"] for record in read_jsonl(splits / f"pair{number}_retain.json")}
    found = {
        "forget": read_jsonl(splits / f"pair{number}_perturbed.json"),
        "subject": AUTHORS[number],
        "holdout": read_jsonl(splits / "holdout.json"),
        "retain": [r for r in read_jsonl(splits / "retain_perturbed.json") if r["question"] in learned][:HELD_OUT],
        "real_authors": read_jsonl(data / "real_authors_perturbed.json"),
        "world_facts": read_jsonl(data / "world_facts_perturbed.json"),
        "chat_template": str(TEMPLATE),
    }
    retrained = out / "models" / f"pair{number}" / "retrained"
    return found, {
        "original": out / "original",
        "retrained": retrained,
        "unlearned": stopped(cell, out / f"stopped{number}"),
    }


def stopped(cell: Path, folder: Path) -> Path:
    """The model of a cell as it was at its calibrated stop, made unless it is there."""
    if not folder.exists():
        (best,) = (cell / "stop").glob("best-*.safetensors")
        lm = load_model(cell / "run" / "model")
        restore_state(lm, best)
        save_model(lm, folder)
    return folder


def table(documents: dict) -> list[str]:
    """Every metric: each model's value and interval, and whether those of original and retrained are apart."""
    lines = ["| metric | n | original | retrained | unlearned | gate | separates |", "|---" * 7 + "|"]
    for name, entry in documents["unlearned"]["metrics"].items():
        figures = {
            role: documents[role]["metrics"].get(name, {}).get("figures", {}).get("audited")
            or entry["figures"].get({"original": "original", "retrained": "control"}.get(role, "audited"))
            for role in documents
        }
        cells = [_cell(figures[role]) for role in ("original", "retrained", "unlearned")]
        n = next(f["n"] for f in figures.values() if f)
        gate = f"≤ {GATES[name]:g}" if name in GATES else ""
        lines.append(f"| {name} | {n} | {' | '.join(cells)} | {gate} | {separates(figures)} |")
    return lines


def separates(figures: dict) -> str:
    """Whether the intervals of original and retrained lie apart; "" where one of them is none."""
    one, other = figures["original"], figures["retrained"]
    if not one or not other or None in (one["low"], one["high"], other["low"], other["high"]):
        return ""
    return "yes" if one["low"] > other["high"] or other["low"] > one["high"] else "no"


def _cell(figure: dict | None) -> str:
    if not figure:
        return "–"
    value, low, high = ("∞" if figure[end] is None else f"{figure[end]:.3f}" for end in ("value", "low", "high"))
    return value if figure["low"] is None and figure["high"] is None else f"{value} [{low}, {high}]"


@click.command(help=__doc__.split("\n")[0])
@click.option("--world", type=click.Choice(["people", "tofu", "pairs"]), default="people", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the people; the number of the pair.")
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Folder of locuslab/TOFU, for tofu and pairs."
)
@click.option("--model", default="smollm2-135m", show_default=True, help="What the TOFU models are made of.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: runs/people, runs/tofu or runs/tofu_pairs.")
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(world: str, seed: int, data: Path | None, model: str, out: Path | None, results: Path) -> None:
    out = out or Path("runs") / ("tofu_pairs" if world == "pairs" else world)
    if world == "people":
        task, found = people_task(seed, out)
    else:
        task, found = tofu_task(data, out, model) if world == "tofu" else pair_task(seed, data, out)
    folder = out / f"audit-{world}-{seed}"
    documents = {}
    for name, path in found.items():  # the unlearned model last: it finds the readings of the other two
        beside = {"original": found["original"]} | ({"control": found["retrained"]} if name == "unlearned" else {})
        done = rkld.audit(str(path), **task, **{k: str(v) for k, v in beside.items()}, out=str(folder / "now"),
                          progress=ProgressBars(), **(PAIRS if world == "pairs" else SETTINGS))  # fmt: skip
        documents[name] = done.document
        shutil.copy(done.path, folder / f"{name}.json")
        print(name, done.verdict, *done.document["reasons"], sep="\n  ", flush=True)
    lines = [f"{name}: **{d['verdict']}**. {'; '.join(d['reasons'])}\n" for name, d in documents.items()]
    wall = [f"{name}: {d['models']['audited']['seconds']:.0f} s" for name, d in documents.items()]
    lines += [*table(documents), "", "Wall time of reading each model: " + ", ".join(wall) + "."]
    redacted = {
        name: {k: v for k, v in d.items() if k in ("verdict", "gates", "metrics")} for name, d in documents.items()
    }
    for d in redacted.values():
        d["metrics"] = {name: entry["figures"] for name, entry in d["metrics"].items()}
    name, of_whom, command = {
        "people": ("audit_people", "two of twenty people, tiny model", ""),
        "tofu": ("audit_tofu", "TOFU forget01, SmolLM2-135M", ""),
        "pairs": (f"audit_pair{seed}", f"pair {seed} of TOFU's authors, SmolLM2-135M", f" --seed {seed}"),
    }[world]
    command = f"python -m benchmarks.audits --world {world}{command}"
    write(results, name, f"Audits, {of_whom}", command, redacted, "\n".join(lines))


if __name__ == "__main__":
    main()
