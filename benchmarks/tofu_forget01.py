"""Forgetting the authors of TOFU's forget01 from SmolLM2-135M, step by step, beside the retrained model.

    python -m benchmarks.tofu_forget01 --data FOLDER [--out runs/tofu] [--results benchmarks/results]

One run as published (no replay) and one with self-replay; alpha 8, lr 5e-5, batch 8, seed 0, float32. Every two epochs:
forget probability and ROUGE-L, retain probability and ROUGE-L, and the KS distance between the truth ratios of the
unlearned and the retrained model on the forget set. Makes the two models first (benchmarks.tofu_models).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from benchmarks.common import Checks, EveryEpochs, table, write
from benchmarks.tofu_models import TEMPLATE, forget_records, retain_records, train
from rkld import unlearn
from rkld.files import write_json
from rkld.models.loading import load_model
from rkld.progress import ProgressBars

RUNS = {
    "published": {"replay": "none", "epochs": 6},
    "replay": {"replay": "auto", "subject": ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"), "epochs": 8},
}
SETTINGS = {"alpha": 8.0, "lr": 5e-5, "batch_size": 8, "seed": 0, "max_new_tokens": 48, "stop": "last"} | {
    "score": "answer",
    "reword": 0,
}
EVERY = 2
"""Epochs between checks."""


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/tofu", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(data: Path, out: Path, results: Path) -> None:
    original, retrained = (train(name, data, out) for name in ("original", "retrained"))
    checks = Checks(load_model(retrained), forget_records(data), retain_records(data))
    rows = [("original", checks(load_model(original))), ("retrained", checks.retrained)]
    found: dict = dict(rows)
    for name, settings in RUNS.items():
        done = out / f"{name}-checks.json"  # a run that is finished is not run again
        if not done.exists():
            started, lm = time.time(), load_model(original)
            every = EveryEpochs(checks, lm, EVERY)
            unlearn(
                lm.model, data / "forget01.json", processing_class=lm.tokenizer, out=str(out / name),
                chat_template=str(TEMPLATE), progress=ProgressBars(), callbacks=[every], **SETTINGS, **settings,
            )  # fmt: skip
            seconds = round(time.time() - started)
            write_json(done, {"settings": {**SETTINGS, **settings}, "seconds": seconds, "steps": every.steps})
        found[name] = json.loads(done.read_text())
        rows += [(f"{name}, epoch {step['epoch']}", step) for step in found[name]["steps"]]
        print(table(rows), flush=True)
    body = f"n = {checks.retrained['n']} forget questions; retain probability over 160 records, ROUGE-L over 40.\n\n"
    command = "python -m benchmarks.tofu_forget01 --data FOLDER"
    write(results, "tofu_forget01", "TOFU forget01, SmolLM2-135M", command, found, body + table(rows))


if __name__ == "__main__":
    main()
