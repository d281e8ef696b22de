"""The settings that benchmarks share. Imports no torch; a benchmark's own settings stand in its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rkld.errors import UserError
from rkld.settings.specification import setting
from rkld.settings.table import check_bounds, of


@dataclass(frozen=True)
class BenchSettings:
    """Settings of every benchmark: which methods are compared and how they train.

    A benchmark's own class derives from it, adds what it needs and gives other defaults by declaring a field anew.
    """

    methods: str = setting(
        "all",
        "Comma-separated: NAME[+rt|+kl][+replay][@SETTING=VALUE…], SETTING being a run's or a hyper-parameter of the "
        "method (npo+rt@beta=0.05); FILE.py:NAME for your own; or a group: all (every method that the benchmark can "
        "use), alphas (RKLD at seven alphas), divergences (reverse, between, forward).",
        metavar="NAME,…",
        affects="nothing",
    )
    out: str = of("out", default="runs/bench", help="Folder of models, cells and tables.")
    epochs: int = of("epochs", help="Passes over the forget records (paper: up to 10).")
    strengthen_epochs: int = of("strengthen_epochs", help="Passes while strengthening (paper: 5).")
    lr: float | None = of("lr", default=1e-5, help="Peak learning rate (paper: 1e-5 for 7B).")
    batch_size: int = of("batch_size", default=32, help="Forget records per step (paper: 32).")
    alpha: float = of("alpha", default=8.0, help="Of the teacher (paper: 8 on TOFU).")
    lora: bool = of("lora")
    bf16: bool | None = of("bf16")
    method_file: tuple[str, ...] = of("method_file")
    relearning: bool = setting(
        False,
        "Also fine-tune every measured model on a fifth of the forget records, at --lr, and show how likely the others "
        "are then: what was only hidden comes back. Ten passes over the fifth at each moment. Cells that were finished "
        "without it are to be run anew.",
        affects="nothing",
    )
    jobs: int = setting(
        1,
        "Cells at work at once, each in a process of its own with its share of the cores.",
        low=1,
        affects="nothing",
    )
    keep_models: bool = setting(
        False,
        "Keep each cell's run folder and the model states that were measured.",
        affects="nothing",
    )

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def peak_lr(self) -> float:
        """:attr:`lr`, which a class that leaves it open has filled in by now."""
        assert self.lr is not None
        return self.lr


@dataclass(frozen=True)
class FineTunedSettings(BenchSettings):
    """Settings of a benchmark whose models are fine-tuned with and without what is to be forgotten."""

    seeds: int = setting(3, "Seeds 0, 1, ….", low=1, affects="nothing")
    original: str | None = of("original", help="An original model that is there; {split} and {seed} are filled in.")
    retrained: str | None = setting(
        None,
        "A retrained model that is there; {split} and {seed} are filled in.",
        metavar="MODEL",
        affects="figures",
    )
    stop: str = of("stop", help="The rule of the calibrated stop: placebo, chance_rank, or FILE.py:NAME.")
    tune: bool = setting(
        False,
        "Choose each method's learning rate on people not reported on; defaults stay as extra rows.",
        affects="nothing",
    )
    grid: str = setting(
        "0.5,1,2", "Comma-separated factors of the learning rate that --tune tries, for all alike.", affects="nothing"
    )
    system_prompt: str | None = of("system_prompt", affects="figures")
    chat_template: str | None = of("chat_template", affects="figures")
    template_date: str = of("template_date", affects="figures")

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


@dataclass(frozen=True)
class QuestionSettings(FineTunedSettings):
    """Settings of a benchmark that asks questions with right and wrong answers, beside a retrained model."""

    subject: tuple[str, ...] = of("subject", help="Names to forget, or a file. Default: those of the people to forget.")
    questions: int | None = of("questions", help="At most so many evaluated per set beside forget. Default: all.")
    cases: int = setting(
        0,
        "Forget questions of the case study: each method's direct answer and top 5 of the blank, in cases.md; the "
        "texts are kept.",
        low=0,
        affects="nothing",
    )
    max_new_tokens: int = of(
        "max_new_tokens", default=64, help="Longest generated answer, in tokens.", affects="figures"
    )


def listed(text: str) -> list[str]:
    """Comma-separated values, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
