"""The settings that benchmarks share. Imports no torch; a benchmark's own settings stand in its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rkld.errors import UserError
from rkld.settings.specification import flag, setting


@dataclass(frozen=True)
class BenchSettings:
    """Settings of every benchmark: which methods are compared and how they train.

    A benchmark's own class derives from it, adds what it needs and gives other defaults by declaring a field anew.
    """

    methods: str = setting(
        "all",
        "Comma-separated: NAME[+rt|+kl][+replay][@SETTING=VALUE…], FILE.py:NAME for your own, or a group: all (every "
        "method that the benchmark can use), alphas (RKLD at seven alphas), divergences (reverse, between, forward).",
    )
    out: str = setting("runs/bench", "Folder of models, cells and tables.")
    epochs: int = setting(10, "Passes over the forget records (paper: up to 10).")
    strengthen_epochs: int = setting(5, "Passes while strengthening (paper: 5).")
    lr: float | None = setting(1e-5, "Peak learning rate (paper: 1e-5 for 7B).")
    batch_size: int = setting(32, "Forget records per step (paper: 32).")
    alpha: float = setting(8.0, "Of the teacher (paper: 8 on TOFU).")
    lora: bool = setting(False, "Train LoRA adapters in place of all weights.")
    bf16: bool | None = setting(None, "Compute in bfloat16 over float32 weights. Default: on a GPU that has it.")
    jobs: int = setting(1, "Cells at work at once, each in a process of its own with its share of the cores.")
    keep_models: bool = setting(False, "Keep each cell's run folder and the model states that were measured.")

    at_least: ClassVar[dict[str, float]] = {
        "epochs": 1,
        "strengthen_epochs": 1,
        "batch_size": 1,
        "alpha": 0,
        "jobs": 1,
    }
    """Setting → its lowest value, where it is given."""
    above_zero: ClassVar[tuple[str, ...]] = ("lr",)
    """Settings that must be above 0, where they are given."""

    def __post_init__(self) -> None:
        for name, low in self.at_least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise UserError(f"{flag(name)} is {value}; it must be at least {low}.")
        for name in self.above_zero:
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{flag(name)} is {value}; it must be above 0.")

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def peak_lr(self) -> float:
        """:attr:`lr`, which a class that leaves it open has filled in by now."""
        assert self.lr is not None
        return self.lr


@dataclass(frozen=True)
class QuestionSettings(BenchSettings):
    """Settings of a benchmark that asks questions with right and wrong answers, beside a retrained model."""

    seeds: int = setting(3, "Seeds 0, 1, ….")
    original: str | None = setting(None, "An original model that is there; {split} and {seed} are filled in.")
    retrained: str | None = setting(None, "A retrained model that is there; {split} and {seed} are filled in.")
    subject: tuple[str, ...] = setting((), "Names to forget, or a file. Default: those of the people to forget.")
    stop: str = setting("placebo", "The rule of the calibrated stop: placebo, chance_rank, or FILE.py:NAME.")
    tune: bool = setting(
        False, "Choose each method's learning rate on people not reported on; defaults stay as extra rows."
    )
    grid: str = setting("0.5,1,2", "Comma-separated factors of the learning rate that --tune tries, for all alike.")
    questions: int | None = setting(None, "At most so many evaluated per set beside forget. Default: all.")
    cases: int = setting(
        0,
        "Forget questions of the case study: each method's direct answer and top 5 of the blank, in cases.md; the "
        "texts are kept.",
    )
    max_new_tokens: int = setting(200, "Longest generated answer, in tokens.")
    system_prompt: str | None = setting(None, "System prompt. Default: whatever the template does by itself.")
    chat_template: str | None = setting(
        None, "File with a Jinja chat template, or tofu-llama2, tofu-phi, open-unlearning-llama3."
    )
    template_date: str = setting("2024-07-26", "The date, YYYY-MM-DD, for templates that insert today's.")

    at_least: ClassVar[dict[str, float]] = {
        **BenchSettings.at_least,
        "seeds": 1,
        "questions": 1,
        "cases": 0,
        "max_new_tokens": 1,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factors or min(self.factors) <= 0:
            raise UserError(f"--grid is '{self.grid}': give factors above 0, separated by commas.")

    @property
    def factors(self) -> list[float]:
        """What ``--tune`` multiplies the learning rate with. UserError where one is no number."""
        try:
            return [float(factor) for factor in listed(self.grid)]
        except ValueError:
            raise UserError(f"--grid is '{self.grid}': give factors above 0, separated by commas.") from None


def listed(text: str) -> list[str]:
    """Comma-separated values, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
