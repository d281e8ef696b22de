"""Every setting of a benchmark: the flags of ``rkld bench tofu`` and the arguments of :func:`rkld.benching.bench`.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rkld.errors import UserError, nearest
from rkld.files import contents
from rkld.settings.specification import flag, setting

SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
"""TOFU's forget sets, and what is kept beside each."""


SETS = ("forget", "retain", "real_authors", "world_facts")
"""What is asked, in TOFU's words; the last three make model utility."""


TINY = {"epochs": 10, "batch_size": 8, "strengthen_epochs": 10, "lr": 5e-4, "max_new_tokens": 32, "questions": 40}
"""What ``--world people`` takes where nothing is given: as benchmarks/stopping.py has it for the tiny model."""


PAPER = {
    "epochs": 10, "strengthen_epochs": 5, "lr": 1e-5, "train_lr": 1e-5, "batch_size": 32, "max_new_tokens": 200
}  # fmt: skip
"""The same for TOFU, from the paper (LLaMA2-7B)."""


PRESETS = {
    "llama2": {"model": "NousResearch/Llama-2-7b-chat-hf", "chat_template": "tofu-llama2"},
    "phi-1.5": {"model": "microsoft/phi-1_5", "chat_template": "tofu-phi", "lr": 2e-5, "train_lr": 2e-5},
    "llama3.2-1b": {
        "original": "open-unlearning/tofu_Llama-3.2-1B-Instruct_full",
        "retrained": "open-unlearning/tofu_Llama-3.2-1B-Instruct_{retain}",
        "chat_template": "open-unlearning-llama3",
    },
}
"""What ``--preset`` fills in where nothing is given: TOFU's two models with its rates and formats, and open-unlearning's,
already fine-tuned, with its system prompt and date."""


@dataclass(frozen=True)
class BenchSettings:
    """Which methods are compared, on what, and how. Units stand beside each setting."""

    methods: str = setting(
        "all",
        "Comma-separated: NAME[+rt|+kl][+replay][@SETTING=VALUE…], FILE.py:NAME for your own, or a group: all, alphas "
        "(RKLD at seven alphas), divergences (reverse, between, forward).",
    )
    world: Literal["tofu", "people"] = setting("tofu", "TOFU, or the embedded world with the tiny model.")
    splits: str = setting(
        "forget01",
        f"Comma-separated, of {', '.join(SPLITS)}, or your own: NAME for NAME.json, NAME_perturbed.json and "
        "NAME_retain.json beside TOFU's files in --data (world people: two of twenty people).",
    )
    seeds: int = setting(3, "Seeds 0, 1, …; in the world people each is another world and pair.")
    data: str = setting("locuslab/TOFU", "TOFU: a local folder of its files, or the hub name.")
    preset: Literal["llama2", "phi-1.5", "llama3.2-1b"] | None = setting(
        None, "Model, template and learning rates of TOFU (llama2, phi-1.5) or open-unlearning, where none are given."
    )
    model: str | None = setting(None, "TOFU: what is fine-tuned to the original and the retrained models.")
    original: str | None = setting(None, "An original model that is there; {split} and {seed} are filled in.")
    retrained: str | None = setting(
        None, "A retrained model that is there; {split}, {seed} and {retain} (retain99, …) are filled in."
    )
    retained: int | None = setting(None, "TOFU: only the first so many retain records are learned. Default: all.")
    train_epochs: int = setting(5, "TOFU: passes when original and retrained models are made (paper: 5).")
    train_lr: float | None = setting(
        None, "TOFU: their peak learning rate. Default: 1e-5 (TOFU, for 7B); SmolLM2: 2e-4."
    )
    train_batch: int = setting(32, "TOFU: their records per step (paper: 32).")
    subject: tuple[str, ...] = setting((), "Names to forget, or a file. Default: the split's authors.")
    holdout: str | None = setting(None, "TOFU: records of others never trained on, for the calibrated stop.")
    replay: str = setting("auto", "TOFU: the prompts of +replay: auto, or a file of them.")
    out: str = setting("runs/bench", "Folder of models, cells and tables.")

    stop: str = setting("placebo", "The rule of the calibrated stop: placebo, chance_rank, or FILE.py:NAME.")
    epochs: int | None = setting(None, "Passes over the forget records. Default: 10 (paper: up to 10).")
    strengthen_epochs: int | None = setting(None, "Passes while strengthening. Default: 5 (paper); people: 10.")
    lr: float | None = setting(None, "Peak learning rate. Default: 1e-5 (paper, 7B); people: 5e-4.")
    batch_size: int | None = setting(None, "Forget records per step. Default: 32 (paper); people: 8.")
    alpha: float = setting(8.0, "Of the teacher (paper: 8 on TOFU).")
    lora: bool = setting(False, "Train LoRA adapters in place of all weights.")
    bf16: bool | None = setting(None, "Compute in bfloat16 over float32 weights. Default: on a GPU that has it.")
    tune: bool = setting(
        False, "Choose each method's learning rate on people not reported on; defaults stay as extra rows."
    )
    tune_split: str | None = setting(None, "TOFU: the split, not among --splits, on which --tune chooses.")
    grid: str = setting("0.5,1,2", "Comma-separated factors of the learning rate that --tune tries, for all alike.")

    questions: int | None = setting(None, "At most so many evaluated per set beside forget. Default: all; people: 40.")
    cases: int = setting(
        0,
        "Forget questions of the case study: each method's direct answer and top 5 of the blank, in cases.md; the "
        "texts are kept.",
    )
    max_new_tokens: int | None = setting(None, "Longest generated answer, in tokens. Default: 200; people: 32.")
    system_prompt: str | None = setting(None, "System prompt. Default: whatever the template does by itself.")
    chat_template: str | None = setting(
        None, "File with a Jinja chat template, or tofu-llama2, tofu-phi, open-unlearning-llama3."
    )
    template_date: str = setting("2024-07-26", "The date, YYYY-MM-DD, for templates that insert today's.")
    jobs: int = setting(1, "Cells at work at once, each in a process of its own with its share of the cores.")
    keep_models: bool = setting(False, "Keep each cell's run folder and the states of its three moments.")

    def __post_init__(self) -> None:
        models = {"model", "original", "retrained"}
        given = models if any(getattr(self, name) for name in models) else set()
        for name, value in PRESETS.get(self.preset, {}).items():
            if getattr(self, name) is None and name not in given:
                object.__setattr__(self, name, value)
        for name, low in {"seeds": 1, "train_epochs": 1, "train_batch": 1, "alpha": 0, "cases": 0, "jobs": 1}.items():
            if getattr(self, name) < low:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least {low}.")
        for name in ("questions", "retained", "epochs", "strengthen_epochs", "batch_size", "max_new_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1.")
        if self.world == "tofu" and not (self.model or (self.original and self.retrained)):
            raise UserError("no model: give --preset, --model, or both --original and --retrained; or --world people.")
        if self.world == "tofu" and self.tune and (not self.tune_split or self.tune_split in self.split_names):
            raise UserError(
                "--tune needs people that are not reported on: give --tune-split, a split that is not among --splits "
                f"({', '.join(self.split_names)})."
            )
        for name in [*self.split_names, *([self.tune_split] if self.tune_split else [])]:
            if self.world == "tofu" and name not in SPLITS and not (Path(self.data) / f"{name}.json").is_file():
                raise UserError(
                    f"unknown split '{name}'.{nearest(name, SPLITS)} Known: {', '.join(SPLITS)}; one of your own is "
                    f"{name}.json in the folder --data."
                )
        if not self.factors or min(self.factors) <= 0:
            raise UserError(f"--grid is '{self.grid}': give factors above 0, separated by commas.")

    @property
    def split_names(self) -> list[str]:
        return listed(self.splits) if self.world == "tofu" else ["people"]

    @property
    def factors(self) -> list[float]:
        """What ``--tune`` multiplies the learning rate with. UserError where one is no number."""
        try:
            return [float(factor) for factor in listed(self.grid)]
        except ValueError:
            raise UserError(f"--grid is '{self.grid}': give factors above 0, separated by commas.") from None

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def value(self, name: str):
        """A setting whose default depends on the world: as given, else the world's."""
        given = getattr(self, name)
        return given if given is not None else (TINY if self.world == "people" else PAPER).get(name)

    def identified(self, name: str, parts: Sequence[str] = ()) -> Any:
        """:meth:`value`, of files a hash: those that moved are the same, those that changed are not.

        Args:
            parts: which files of the folder ``data`` count, without their suffixes.
        """
        value = self.value(name)
        if name == "data":
            paths = [path for part in parts for path in sorted(Path(value).glob(f"{part}.*"))]
        else:
            paths = [Path(value)] if name in ("chat_template", "replay", "holdout") and value else []
        return contents(*paths) if paths and all(path.is_file() for path in paths) else value


def listed(text: str) -> list[str]:
    """Comma-separated values, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
