"""Cells: which runs a benchmark consists of, where each lies, and what they will take."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from ..errors import UserError
from ..methods import Assisted, Method, get_method, method_names, source_hash
from ..settings import Settings, make
from . import finished
from .book_settings import BookSettings
from .settings import SETS, SPLITS, BenchSettings, listed

VARIANTS = ("rkld+replay", "gradient_ascent+kl", "idk+rt", "npo+rt", "npo+kl", "simnpo+rt")
"""What ``all`` has beside every method by itself: ours, and others with the retain terms of their papers."""

GROUPS = {
    "all": (*method_names(), *VARIANTS),
    "alphas": tuple(f"rkld@alpha={alpha}" for alpha in (1, 2, 4, 6, 8, 10, 12)),
    "divergences": ("rkld", "jensen_shannon", "forward_kl"),
}
"""What ``--methods`` takes for several at once; the last two are the paper's sweep of α and its ablation."""

REFERENCES = ("original", "retrained")
"""Models that stand in the table as they are."""

EXTRAS = ("rt", "kl", "replay")

TINY_BYTES = 10_000_000
"""Weights of the tiny model."""

TINY_SECONDS = 166.0
"""Of one core, to train it: measured once (83 s on two)."""

FLOPS = 1.5e10
"""Per second and CPU core in training, measured once with the tiny model; for the rough figure before any cell is
finished. A GPU is faster by orders of magnitude."""


@dataclass(frozen=True)
class Variant:
    """A method with what the benchmark lets one add: NAME[+rt|+kl][+replay][@SETTING=VALUE…]."""

    name: str
    """As it was written."""
    method: str
    extras: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    """Settings of :class:`rkld.settings.Settings` that are not the benchmark's."""

    def make(self) -> Method:
        arguments = [value for name, value in self.values if name == "method_arg"]
        return get_method(self.method, arguments)

    def settings(self) -> dict[str, Any]:
        """Of :class:`rkld.settings.Settings`, and no others' business: retain and replay are whether, not what."""
        method = self.make()
        values: dict[str, Any] = {"method": self.method}
        for name, value in self.values:
            values[name] = (*values.get(name, ()), value) if name == "method_arg" else yaml.safe_load(value)
        loss = next((extra for extra in self.extras if extra in ("rt", "kl")), None)
        values["retain_loss"] = loss or "auto"
        values["replay"] = "replay" in self.extras
        # Records that a method cannot do without it gets unasked; replay will do where it says so.
        unasked = "retain" in method.needs and not (values["replay"] and "replay" in method.needs)
        values["retain"] = bool(loss) or unasked
        return values


def variant(name: str) -> Variant:
    """Read a variant's name.

    Raises:
        UserError: an unknown method, extra or setting, with the nearest known one.
    """
    head, *given = name.split("@")
    method, *extras = head.split("+")
    for extra in extras:
        if extra not in EXTRAS:
            raise UserError(f"'{name}': a method can be given +{', +'.join(EXTRAS)}, not '+{extra}'.")
    if {"rt", "kl"} <= set(extras):
        raise UserError(f"'{name}': one loss on retain records, +rt or +kl, not both.")
    values = []
    for one in given:
        key, equals, value = one.partition("=")
        key = key.replace("-", "_")
        if not equals:
            raise UserError(f"'{name}': write a setting as @name=value, not '@{one}'.")
        if key in ("method", "retain", "replay", "retain_loss", "out", "seed", "stop", "model", "forget"):
            raise UserError(f"'{name}': '{key}' is the benchmark's to set.")
        values.append((key, value))
    found = Variant(name, method, tuple(extras), tuple(values))
    found.make().require(("retain", "replay"), found.settings()["retain_loss"])
    checked = {key: value for key, value in found.settings().items() if key not in ("retain", "replay")}
    make(checked, f"'{name}'", Settings)
    return found


def variants(settings: BenchSettings | BookSettings) -> list[Variant]:
    """All that are compared, in the order given, groups written out."""
    names: list[str] = []
    for name in listed(settings.methods):
        names += GROUPS.get(name, (name,))
    if not names:
        raise UserError("--methods names none.")
    return [variant(name) for name in dict.fromkeys(names)]


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
        made = ("data", "model", "original", "retrained", "retained", "train_epochs", "train_lr", "train_batch", "replay")
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
        return json.loads(json.dumps(values))

    def unlearning(self, settings: BenchSettings) -> dict[str, Any]:
        """The settings of :func:`rkld.unlearn`: the benchmark's, and the variant's own on top."""
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


# What it will take


@dataclass(frozen=True)
class Prediction:
    """Of one cell: seconds, and how they are known; None where nothing is known."""

    cell: Cell
    done: bool
    seconds: float | None
    source: str


def predict(settings: BenchSettings, todo: Sequence[Cell]) -> list[Prediction]:
    """Time of each cell: as a finished one of its kind took, else of any on its split, else a rough figure."""
    took: dict[tuple[str, str], list[float]] = {}
    finished = {cell: cell.found(settings) for cell in todo}
    for cell, found in finished.items():
        if found:
            took.setdefault((cell.split, cell.name), []).append(found["seconds"])
    rough, predicted = _rough_seconds(settings), []
    for cell in todo:
        same = took.get((cell.split, cell.name), [])
        others = [
            s for (split, name), some in took.items() if split == cell.split for s in some if name not in REFERENCES
        ]
        if finished[cell]:
            predicted.append(Prediction(cell, True, 0.0, "finished"))
        elif same:
            predicted.append(Prediction(cell, False, fmean(same), "as the same on another seed"))
        elif cell.variant is None:
            predicted.append(Prediction(cell, False, None if rough is None else rough / 8, "rough"))
        elif others:
            predicted.append(Prediction(cell, False, fmean(others), "as other methods here"))
        else:
            predicted.append(Prediction(cell, False, rough, "rough" if rough else "unknown"))
    return predicted


def _rough_seconds(settings: BenchSettings) -> float | None:
    """6 operations per weight and token in training, 2 in reading; 100 tokens a record (people: 32)."""
    size = _model_bytes(settings)
    if size is None:
        return None
    people = settings.world == "people"
    split = settings.split_names[0]
    forget = 4000 * int(split[-2:]) // 100 if split in SPLITS else 40
    asked = 6 * forget + 7 * 3 * min(settings.value("questions") or 400, 400)  # right and wrong answers
    passes = 6 * forget * (settings.value("epochs") + settings.value("strengthen_epochs"))
    reading = 2 * asked * (settings.value("epochs") + 3)
    tokens = 32 if people else 100
    return (passes + reading) * tokens * size / 4 / _flops()


def rough_model_seconds(settings: BenchSettings) -> float | None:
    """To make an original or a retrained model, by the same reckoning; None where it cannot be told."""
    if settings.world == "people":
        return TINY_SECONDS / (os.cpu_count() or 1)
    size = _model_bytes(settings)
    return size and 6 * (settings.retained or 4000) * settings.train_epochs * 100 * size / 4 / _flops()


def _flops() -> float:
    return FLOPS * (os.cpu_count() or 1)


def _model_bytes(settings: BenchSettings) -> int | None:
    """Size of the weights in float32, where it can be told without loading them."""
    if settings.world == "people":
        return TINY_BYTES
    folders = (Path(source) for source in (settings.original, settings.model) if source)
    sizes = (sum(p.stat().st_size for p in folder.glob("*.safetensors")) for folder in folders if folder.is_dir())
    return next((size for size in sizes if size), None)


def disk(settings: BenchSettings, todo: Sequence[Prediction], models: int) -> Iterator[str]:
    """What lies on the disk at most and in the end, in lines.

    Args:
        models: original and retrained models still to be made.
    """
    size = _model_bytes(settings)
    if size is None:
        yield "disk: unknown until the model is here"
        return
    runs = sum(not one.done and one.cell.variant is not None for one in todo)
    at_once = min(settings.jobs, runs)
    # The original set aside, optimizer and student of a checkpoint, student, model, two kept states.
    working = 9 * size * at_once
    kept = runs * 3 * size if settings.keep_models else 0
    yield f"disk: {_gigabytes(models * size + kept)} in the end, {_gigabytes(working)} more while cells run"


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB"


def assisted(cell: Cell) -> bool:
    """Whether the cell's method trains no student: one point, no trajectory."""
    return cell.variant is not None and isinstance(cell.variant.make(), Assisted)
