"""What the default gates say of honest models, of ruined ones and of cheats: honest ones pass, the others never do.

    python -m benchmarks.verdicts [--seeds 3] [--data FOLDER] [--out runs/verdicts]

The tiny world's original knows two people whom its retrained twin has never met
(``benchmarks.people_trajectories``; each seed is another world); with ``--data``, a folder of locuslab/TOFU, so do
SmolLM2-135M's (``benchmarks.tofu_models``, with 40 records to keep). Each model is audited as if it had been unlearned:
with the original, holdout records and records to keep, without a control, by the default gates.

Of the first world, in the place of the unlearned model or of the control:

- random: the weights before any training;
- lr 1: ``rkld unlearn --lr 1``, whose steps leave nothing of the model;
- original: never unlearned; also as its own control, as it is, in bfloat16 and with noise on its weights;
- earlier turns: the original, asked by records that have the facts in an earlier turn;
- never knew: the records of people whom the original has never met.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

import rkld
from benchmarks.common import write
from benchmarks.people_trajectories import asked, models
from benchmarks.tofu_models import TEMPLATE, train
from rkld.benching.worlds.people import World, people
from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.files import read_jsonl
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.progress import ProgressBars

WHO = (18, 19)
"""Positions of the two of twenty people."""

SET = 40
"""Records to keep."""

HELD_OUT = 120
"""Records held out: with as few as are forgotten, the interval of a membership AUC is nearly as wide as its limit."""

NOISE = 1e-3
"""Standard deviation of what is added to the weights: as much as rounding to 8 bits does."""

SHORT = {"max_new_tokens": 48}
"""The tiny world's answers have up to 30 tokens."""

Row = dict[str, Any]


def world_task(world: World) -> dict[str, Any]:
    return {
        "forget": world.forget(WHO),
        "holdout": world.holdout[:HELD_OUT],
        "retain": asked(world, WHO)[:SET],
        "real_authors": list(world.real_authors),
        "world_facts": list(world.world_facts),
        **SHORT,
    }


def tofu_task(data: Path) -> dict[str, Any]:
    retain = read_jsonl(data / "retain90.json")
    return {
        "forget": read_jsonl(data / "forget01_perturbed.json"),
        "subject": ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"),
        "retain": retain[:SET],
        "holdout": retain[4 * SET : 4 * SET + HELD_OUT],
        "chat_template": str(TEMPLATE),
    }


def verdict(name: str, model: Path, task: Mapping[str, Any], out: Path, expected: str, **beside: Any) -> Row:
    """One audit by the default gates."""
    folder, started = out / "audits" / name.replace(" ", "_").replace(",", ""), time.time()
    row: Row = {"model": name, "expected": expected}
    try:
        given = {key: str(value) for key, value in beside.items()}
        found = rkld.audit(str(model), **task, **given, out=str(folder), progress=ProgressBars())
    except UserError as error:
        return {**row, "verdict": "refused", "reasons": [_without_paths(str(error), out)]}
    gates = {gate["name"]: gate for gate in found.document["gates"] if gate["state"] != "not measured"}
    seconds = round(time.time() - started)
    print(json.dumps({"model": name, "verdict": found.verdict, "reasons": found.document["reasons"]}), flush=True)
    return {**row, "verdict": found.verdict, "reasons": found.document["reasons"], "gates": gates, "seconds": seconds}


def _without_paths(text: str, out: Path) -> str:
    return text.replace(str(out), "…")


def cheats(world: World, original: Path, task: dict[str, Any], out: Path) -> list[Row]:
    """The ruined and the untouched, in the place of the unlearned model or of the control."""
    made = out / "cheats"
    lm = load_model(original)
    noisy(original, made / "noisy")
    if not (made / "bfloat16").exists():
        lm.model.to(torch.bfloat16).save_pretrained(made / "bfloat16")
        lm.tokenizer.save_pretrained(made / "bfloat16")
    if not (made / "random").exists():
        model, tokenizer = tiny_model(world.seed)
        save_model(load_model(model, tokenizer=tokenizer), made / "random")
    if not (made / "lr1" / "model").exists():
        shutil.rmtree(made / "lr1", ignore_errors=True)
        rkld.unlearn(str(original), task["forget"], replay="none", lr=1.0, epochs=2, stop="last", out=str(made / "lr1"),
                     max_new_tokens=32, progress=ProgressBars())  # fmt: skip
    strangers = {**task, "forget": world.holdout[HELD_OUT : HELD_OUT + SET]}
    twice = [("original, its own control", original)]
    twice += [(f"original, its own control, {name}", made / name) for name in ("bfloat16", "noisy")]
    rows = [
        verdict("random", made / "random", task, out, "no pass", original=original),
        verdict("lr 1", made / "lr1" / "model", task, out, "no pass", original=original),
        verdict("original", original, task, out, "no pass", original=original),
        verdict("original, earlier turns", original, {**task, "forget": earlier(task["forget"])}, out, "no pass",
                original=original),
        verdict("never knew", original, strangers, out, "no pass", original=original),
    ]  # fmt: skip
    return rows + [
        verdict(name, original, task, out, "no pass", original=original, control=control) for name, control in twice
    ]


def noisy(original: Path, folder: Path) -> None:
    """The original with noise on its weights, made unless it is there."""
    if folder.exists():
        return
    lm, generator = load_model(original), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator))
    save_model(lm, folder)


def earlier(records: list[dict]) -> list[dict]:
    """The same facts in the first answer of a conversation whose last one says nothing."""
    found = []
    for record in records:
        turns = [("user", record["question"]), ("assistant", record["answer"]), ("user", "Thank you."),
                 ("assistant", "You are welcome.")]  # fmt: skip
        messages = [{"role": role, "content": content} for role, content in turns]
        found.append({"messages": messages, **{name: record[name] for name in ("subject", "aliases", "spans")}})
    return found


def table(rows: list[Row]) -> str:
    lines = ["| model | expected | verdict | s | reasons |", "|---" * 5 + "|"]
    for row in rows:
        reasons = "; ".join(row["reasons"]).replace("|", "\\|")
        lines.append(
            f"| {row['model']} | {row['expected']} | **{row['verdict']}** | {row.get('seconds', '')} | {reasons} |"
        )
    return "\n".join(lines)


@click.command(help=__doc__.split("\n")[0])
@click.option("--seeds", default=3, show_default=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Folder of locuslab/TOFU, for SmolLM2.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/verdicts", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(seeds: int, data: Path | None, out: Path, results: Path) -> None:
    rows: list[Row] = []
    for seed in range(seeds):
        world = people(seed=seed)
        original, retrained = models(world, WHO, out / f"seed{seed}")
        task = world_task(world)
        rows.append(verdict(f"retrained, seed {seed}", retrained, task, out, "pass", original=original))
        if seed == 0:
            bad = cheats(world, original, task, out)
    if data:
        original, retrained = (train(name, data, out / "smollm2", retained=SET) for name in ("original", "retrained"))
        rows.append(verdict("retrained, SmolLM2", retrained, tofu_task(data), out, "pass", original=original))
    passed = sum(row["verdict"] == "pass" for row in rows)
    body = f"Honest models that pass: {passed} of {len(rows)}. Others that pass: " + (
        f"{sum(row['verdict'] == 'pass' for row in bad)} of {len(bad)}.\n\n{table(rows + bad)}"
    )
    command = "python -m benchmarks.verdicts" + (" --data FOLDER" if data else "")
    write(results, "verdicts", "Verdicts by the default gates", command, {"rows": rows + bad}, body)


if __name__ == "__main__":
    main()
