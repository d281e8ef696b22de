"""Forgetting the author of TOFU's forget01 from SmolLM2-135M, step by step, beside the retrained model.

    python -m benchmarks.tofu_forget01 --data FOLDER [--out runs/tofu] [--results benchmarks/results]

One run as published (no replay) and one with self-replay; alpha 8, lr 5e-5, batch 8, seed 0. Every two epochs: forget
probability and ROUGE-L, retain probability and ROUGE-L, and the KS distance between the truth ratios of the
unlearned and the retrained model on the forget set. Makes the two models first (benchmarks.tofu_models).
"""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
from transformers import TrainerCallback

from benchmarks.tofu_models import TEMPLATE, forget_records, retain_records, train
from rkld import unlearn
from rkld.encoding import Encoder
from rkld.evaluation.questions import truth_ratios
from rkld.evaluation.summary import measure
from rkld.evaluation.tofu import forget_quality
from rkld.models import load_model
from rkld.progress import Bars

RUNS = {
    "published": {"replay": "none", "epochs": 6},
    "replay": {"replay": "auto", "replay_weight": 5.0, "epochs": 10},
}
EVERY = 2
"""Epochs between checks."""
GENERATED = 40
"""Retained records whose answers are generated; their probability is taken over all."""
COLUMNS = ("forget_probability", "forget_rouge_l", "ks", "retain_probability", "retain_rouge_l")


class Checks:
    """Measures any state of a model on the same questions."""

    def __init__(self, data: Path, retrained: Path):
        self.forget, self.retain = forget_records(data), retain_records(data)
        lm = load_model(retrained)
        self.encoder = Encoder(lm.tokenizer)
        self.retrained_ratios = truth_ratios(lm, self.encoder, self.forget)
        self.retrained = self(lm)

    def __call__(self, lm) -> dict[str, float]:
        forget = measure(lm, self.encoder, self.forget)
        spoken = measure(lm, self.encoder, self.retain[:GENERATED])
        silent = measure(lm, self.encoder, self.retain[GENERATED:], answers=False)
        distance = forget_quality(truth_ratios(lm, self.encoder, self.forget), self.retrained_ratios)
        return {
            "forget_probability": forget.probability,
            "forget_rouge_l": forget.rouge_l,
            "ks": distance.statistic,
            "ks_p": distance.pvalue,
            "n": distance.n,
            "retain_probability": float(np.mean(spoken.probabilities + silent.probabilities)),
            "retain_rouge_l": spoken.rouge_l,
        }


class EveryEpochs(TrainerCallback):
    """Checks the student as it stands after every few epochs."""

    def __init__(self, checks: Checks, lm, found: list, every: int = EVERY):
        self.checks, self.lm, self.found, self.every = checks, lm, found, every

    def on_epoch_end(self, args, state, control, **kwargs):
        epoch = round(state.epoch)
        if epoch % self.every == 0:
            self.found.append({"epoch": epoch, "step": state.global_step, **self.checks(self.lm)})


def table(rows: list[tuple[str, dict]]) -> str:
    lines = ["| model | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, values in rows:
        lines.append(f"| {name} | " + " | ".join(f"{values[c]:.3f}" for c in COLUMNS) + " |")
    return "\n".join(lines)


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/tofu", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
@click.option("--only", type=click.Choice(list(RUNS)), help="One of the runs.")
def main(data: Path, out: Path, results: Path, only: str | None) -> None:
    original, retrained = (train(name, data, out) for name in ("original", "retrained"))
    checks = Checks(data, retrained)
    rows = [("original", checks(load_model(original))), ("retrained", checks.retrained)]
    print(table(rows))
    found = {name: values for name, values in rows}
    for name, settings in RUNS.items():
        if only and name != only:
            continue
        started, steps = time.time(), []
        lm = load_model(original)
        unlearn(
            lm.model, data / "forget01.json", processing_class=lm.tokenizer, out=str(out / name), progress=Bars(),
            chat_template=str(TEMPLATE), alpha=8.0, lr=5e-5, batch_size=8, seed=0, bf16=True, max_new_tokens=48,
            callbacks=[EveryEpochs(checks, lm, steps)], **settings,
        )  # fmt: skip
        found[name] = {"settings": settings, "steps": steps, "seconds": round(time.time() - started)}
        rows += [(f"{name}, epoch {step['epoch']}", step) for step in steps]
        print(table(rows))
    results.mkdir(parents=True, exist_ok=True)
    stamp = {
        "command": "python -m benchmarks.tofu_forget01 --data FOLDER",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, 2 cores, no GPU",
        "versions": {name: version(name) for name in ("rkld", "torch", "transformers")},
    }
    (results / "tofu_forget01.json").write_text(json.dumps({**stamp, "results": found}, indent=1) + "\n")
    head = "\n".join(f"- {key}: {value}" for key, value in stamp.items())
    n = checks.retrained["n"]
    (results / "tofu_forget01.md").write_text(f"# TOFU forget01, SmolLM2-135M\n\n{head}\n- n = {n}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
