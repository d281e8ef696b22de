"""What the forgetting benchmarks share: the same measures at every check, and how results are written."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

import rkld
from rkld.evaluation.questions import mean_losses, question_scores, truth_ratios
from rkld.evaluation.summary import measure
from rkld.evaluation.tofu import forget_quality, truth_ratio
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.records.record import Record

COLUMNS = ("forget_probability", "forget_rouge_l", "ks_distance", "retain_probability", "retain_rouge_l")

GENERATED = 40
"""Retained records whose answers are generated; their probability is taken over all."""
LONGEST = 100
"""Tokens of a generated answer; TOFU's are shorter."""


class Checks:
    """Measures any state of a model on the same questions, against the retrained model."""

    def __init__(self, retrained: LanguageModel, forget: Sequence[Record], retain: Sequence[Record]):
        """
        Args:
            forget: with paraphrased and perturbed answers.
        """
        self.encoder = Encoder(retrained.tokenizer)
        self.forget, self.retain = forget, retain
        self.retrained_ratios = truth_ratios(retrained, self.encoder, forget)
        self.retrained = self(retrained)

    def __call__(self, lm: LanguageModel) -> dict[str, float]:
        questions = question_scores(lm, self.encoder, self.forget)
        gold = [answers[0] for answers in questions]
        losses = mean_losses(questions)
        forget = measure(lm, self.encoder, self.forget, max_new_tokens=LONGEST, scores=gold)
        answered = measure(lm, self.encoder, self.retain[:GENERATED], max_new_tokens=LONGEST)
        others = measure(lm, self.encoder, self.retain[GENERATED:], answers=False)
        ratios = truth_ratio(losses["paraphrase_loss"], losses["perturbed_loss"])
        distance = forget_quality(ratios, self.retrained_ratios)
        return {
            "forget_probability": forget.probability,
            "forget_rouge_l": forget.rouge_l,
            "ks_distance": distance.statistic,
            "ks_p": distance.pvalue,
            "n": distance.n,
            "retain_probability": float(np.mean(answered.probabilities + others.probabilities)),
            "retain_rouge_l": answered.rouge_l,
        }


class EveryEpochs(TrainerCallback):
    """Checks the student as it stands after every few epochs."""

    def __init__(self, checks: Checks, lm: LanguageModel, every: int):
        self.checks, self.lm, self.every = checks, lm, every
        self.steps: list[dict] = []

    def on_epoch_end(self, args, state, control, **kwargs):
        if round(state.epoch) % self.every == 0:
            self.steps.append({"epoch": round(state.epoch), "step": state.global_step, **self.checks(self.lm)})


def table(rows: Sequence[tuple[str, dict]], columns: Sequence[str] = COLUMNS) -> str:
    """A Markdown table: a name and its figures in each row."""
    lines = ["| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in rows:
        lines.append(f"| {name} | " + " | ".join(f"{values[c]:.3f}" for c in columns) + " |")
    return "\n".join(lines)


def machine() -> str:
    """What this process runs on."""
    cores = len(os.sched_getaffinity(0))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} threads, {device}"


def said_by_check(**arguments: Any) -> tuple[float, int]:
    """Seconds and bytes that a run with these arguments of ``rkld.unlearn`` takes, by ``rkld check``."""
    found = rkld.check(**arguments).estimate
    return found.total_seconds, found.peak_bytes


def write(folder: Path, name: str, title: str, command: str, results: dict, body: str) -> None:
    """``name.json`` and ``name.md`` with the command, the machine, the versions and the date.

    ``ratios`` among the results stand beside these at the top of the JSON.
    """
    stamp = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {package: version(package) for package in ("rkld", "torch", "transformers")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    ratios = {"ratios": results["ratios"]} if "ratios" in results else {}
    rest = {key: value for key, value in results.items() if key not in ratios}
    (folder / f"{name}.json").write_text(json.dumps({**stamp, **ratios, "results": rest}, indent=1) + "\n")
    head = "\n".join(f"- {key}: {value}" for key, value in stamp.items())
    (folder / f"{name}.md").write_text(f"# {title}\n\n{head}\n\n{body}\n")
