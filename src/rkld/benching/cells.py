"""Cells: which runs a benchmark consists of, where each lies, and what they will take."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rkld.benching import result_store as finished
from rkld.benching.variants import Variant, variant, variants
from rkld.methods.method import Assisted
from rkld.registry import source_hash
from rkld.settings.benching import SETS, SPLITS, BenchSettings
from rkld.settings.book import BookSettings

REFERENCES = ("original", "retrained")
"""Models that stand in the table as they are."""


@dataclass(frozen=True)
class Cell:
    """One run: a variant, or a reference model, on one split with one seed."""

    split: str
    seed: int
    name: str
    variant: Variant | None = None
    """None for the reference models."""
    tuning: bool = False
    """On people that are not reported on."""

    def folder(self, settings: BenchSettings | BookSettings) -> Path:
        part = re.sub(r"[^\w+.@=-]", "_", self.name)
        return settings.folder / "cells" / self.split / f"seed{self.seed}" / part

    def found(self, settings: BenchSettings) -> dict[str, Any] | None:
        """What a finished cell has written; None where it is not finished.

        Raises:
            UserError: it was run with other settings.
        """
        return finished.read(self.folder(settings) / "cell.json", self.identity(settings))

    def cases(self, settings: BenchSettings) -> int:
        """Cases of the case study; the tuning, which goes by likelihoods, has none."""
        return 0 if self.tuning else settings.cases

    def identity(self, settings: BenchSettings) -> dict[str, Any]:
        """All settings that decide a cell's figures, as JSON has them."""
        shared = ("world", "questions", "max_new_tokens", "system_prompt", "chat_template", "template_date")
        made = (
            "data",
            "model",
            "original",
            "retrained",
            "retained",
            "train_epochs",
            "train_lr",
            "train_batch",
            "replay",
        )
        student = self.variant is not None
        names = (*shared, *(made if settings.world == "tofu" else made[2:4]), *(("stop", "holdout") if student else ()))
        values = self.unlearning(settings) if student else {}
        asked = (f"{part}_perturbed" for part in (self.split, *SETS[1:]))
        parts = (self.split, SPLITS.get(self.split, f"{self.split}_retain"), *asked)
        values |= {name: settings.identified(name, parts) for name in names}
        if cases := self.cases(settings):  # without any, a cell that has some will do
            values["cases"] = cases
        if student:
            values |= {"subject": list(settings.subject), "method's file": source_hash(self.variant.method)}
            if own_rule := source_hash(settings.stop):
                values["stopping rule's file"] = own_rule
        return json.loads(json.dumps(values))

    def unlearning(self, settings: BenchSettings) -> dict[str, Any]:
        """The settings of :func:`rkld.pipeline.phases`: the benchmark's, and the variant's own on top."""
        names = ("epochs", "strengthen_epochs", "lr", "batch_size", "max_new_tokens", "lora", "bf16", "alpha")
        encoding = ("system_prompt", "chat_template", "template_date")
        values = {name: settings.value(name) for name in (*names, *encoding)}
        return values | self.variant.settings()


def cells(settings: BenchSettings) -> list[Cell]:
    """Every cell that is reported, in the order in which they run: what others are compared with first."""
    found = []
    for split in settings.split_names:
        for seed in range(settings.seeds):
            found += [Cell(split, seed, name) for name in REFERENCES[::-1]]
            found += [Cell(split, seed, one.name, one) for one in variants(settings)]
    return found


def tuning_cells(settings: BenchSettings) -> list[Cell]:
    """The same grid for every variant, on people who are not reported: of the first seed left, or another split."""
    if not settings.tune:
        return []
    people = settings.world == "people"
    split, seed = ("people", settings.seeds) if people else (settings.tune_split, 0)
    found = [Cell(split, seed, name, tuning=True) for name in REFERENCES[::-1]]
    for one in variants(settings):
        found += [Cell(split, seed, at.name, at, tuning=True) for at in grid(one, settings)]
    return found


def grid(one: Variant, settings: BenchSettings) -> list[Variant]:
    """A variant at every learning rate it is tried with; one that sets its own stays alone."""
    if any(name == "lr" for name, _ in one.values):
        return [one]
    rates = {factor: f"@lr={factor * settings.value('lr'):g}" if factor != 1 else "" for factor in settings.factors}
    return [variant(one.name + rate) for rate in rates.values()]


def assisted(cell: Cell) -> bool:
    """Whether the cell's method trains no student: one point, no trajectory."""
    return cell.variant is not None and isinstance(cell.variant.make(), Assisted)
