"""TOFU: forget fictitious authors that a model was fine-tuned on (Maini et al. 2024, arXiv 2401.06121).

Its three splits, or splits of one's own beside its files. The original and the retrained models are given, or made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rkld.benching.benchmark import Task, Workload, weights_bytes
from rkld.benching.cells import Cell
from rkld.benching.fine_tuned import learn
from rkld.benching.published import part_files
from rkld.benching.question_benchmark import QuestionBenchmark
from rkld.benching.question_figures import SETS
from rkld.benching.registry import BENCHMARKS
from rkld.errors import UserError, nearest
from rkld.files import contents
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.settings.benching import QuestionSettings, listed
from rkld.settings.specification import setting
from rkld.settings.table import of
from rkld.text.printable import printable

SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
"""TOFU's forget sets, and what is kept beside each."""

AUTHORS = (
    "Basil Mahfouz Al-Kuwaiti",
    "Nikolai Abilov",
    "Hina Ameen",
    "Xin Lee Williams",
    "Moshe Ben-David",
    "Kalkidan Abera",
    "Takashi Nakamura",
    "Raven Marais",
    "Aysha Al-Hashim",
    "Edward Patrick Sullivan",
    "Hsiao Yun-Hwa",
    "Carmen Montenegro",
    "Elvin Mammadov",
    "Rajeev Majumdar",
    "Jad Ambrose Al-Shamary",
    "Adib Jarrah",
    "Ji-Yeon Park",
    "Behrouz Rohani",
    "Wei-Jun Chen",
    "Tae-ho Park",
)
"""Of TOFU's forget10, who do not exist, in the order of their twenty records each: the first two are forget01's, the
first ten forget05's."""

RECORDS = 4000
"""Of 200 authors."""

TOKENS = 100
"""Of a record, about."""

PRESETS: dict[str, dict[str, Any]] = {
    "llama2": {"model": "NousResearch/Llama-2-7b-chat-hf", "chat_template": "tofu-llama2"},
    "phi-1.5": {"model": "microsoft/phi-1_5", "chat_template": "tofu-phi", "lr": 2e-5, "train_lr": 2e-5},
    "llama3.2-1b": {
        "original": "open-unlearning/tofu_Llama-3.2-1B-Instruct_full",
        "retrained": "open-unlearning/tofu_Llama-3.2-1B-Instruct_{retain}",
        "chat_template": "open-unlearning-llama3",
    },
}
"""What ``--preset`` fills in where nothing is given: TOFU's two models with its rates and formats; open-unlearning's,
already fine-tuned, with its system prompt and date."""

LEARNING_RATE = 1e-5
"""Of the paper (LLaMA2-7B), of the unlearning and of making the models."""


@dataclass(frozen=True)
class TofuSettings(QuestionSettings):
    """Which methods are compared on TOFU, and how. Units stand beside each setting."""

    lr: float | None = of("lr", help="Peak learning rate. Default: 1e-5 (paper, 7B), or the preset's.")
    retrained: str | None = setting(
        None,
        "A retrained model that is there; {split}, {seed} and {retain} (retain99, …) are filled in.",
        metavar="MODEL",
        affects="figures",
    )
    subject: tuple[str, ...] = of("subject", help="Names to forget, or a file. Default: the split's authors.")
    splits: str = setting(
        "forget01",
        f"Comma-separated, of {', '.join(SPLITS)}, or your own: NAME for NAME.json, NAME_perturbed.json and "
        "NAME_retain.json beside TOFU's files in --data.",
        metavar="NAME,…",
        affects="nothing",
    )
    data: str = setting(
        "locuslab/TOFU", "A local folder of TOFU's files, or the hub name.", metavar="FOLDER|NAME", affects="figures"
    )
    preset: Literal["llama2", "phi-1.5", "llama3.2-1b"] | None = setting(
        None,
        "Model, template and learning rates of TOFU (llama2, phi-1.5) or open-unlearning, where none are given.",
        affects="nothing",
    )
    model: str | None = setting(
        None, "What is fine-tuned to the original and the retrained models.", metavar="MODEL", affects="figures"
    )
    retained: int | None = setting(
        None, "Only the first so many retain records are learned. Default: all.", low=1, affects="figures"
    )
    train_epochs: int = setting(
        5, "Passes when original and retrained models are made (paper: 5).", low=1, affects="figures"
    )
    train_lr: float | None = setting(
        None,
        "Their peak learning rate. Default: 1e-5 (paper, 7B), or the preset's; SmolLM2: 2e-4.",
        low=0,
        high=1,
        exclusive="low",
        affects="figures",
    )
    train_batch: int = setting(32, "Their records per step (paper: 32).", low=1, affects="figures")
    holdout: str | None = of("holdout", help="Records of others never trained on, for the calibrated stop.")
    replay: str = of("replay", help="The prompts of +replay: auto, or a file of them.", metavar="auto|DATA")
    tune_split: str | None = setting(None, "The split, not among --splits, on which --tune chooses.", affects="nothing")

    def __post_init__(self) -> None:
        models = {"model", "original", "retrained"}
        given = models if any(getattr(self, name) for name in models) else set()
        filled = {"lr": LEARNING_RATE, "train_lr": LEARNING_RATE} | PRESETS.get(self.preset or "", {})
        for name, value in filled.items():
            if getattr(self, name) is None and name not in given:
                object.__setattr__(self, name, value)
        super().__post_init__()
        if not (self.model or (self.original and self.retrained)):
            raise UserError(
                "no model: give --preset, --model, or both --original and --retrained. (rkld bench people needs none.)"
            )
        if self.tune and (not self.tune_split or self.tune_split in self.split_names):
            raise UserError(
                "--tune needs people that are not reported on: give --tune-split, a split that is not among --splits "
                f"({', '.join(self.split_names)})."
            )
        if _is_folder(self.data) and not os.path.isdir(self.data):
            raise UserError(f"--data {printable(self.data)}: there is no such folder. Give one with TOFU's files.")
        for name in [*self.split_names, *([self.tune_split] if self.tune_split else [])]:
            if name not in SPLITS and not (Path(self.data) / f"{name}.json").is_file():
                raise UserError(
                    f"unknown split '{name}'.{nearest(name, SPLITS)} Known: {', '.join(SPLITS)}; one of your own is "
                    f"{name}.json in the folder --data."
                )

    @property
    def split_names(self) -> list[str]:
        return listed(self.splits)


@BENCHMARKS.register("tofu")
class Tofu(QuestionBenchmark):
    """Forget TOFU's authors by every method."""

    settings: TofuSettings
    settings_class = TofuSettings
    examples = (
        "rkld bench tofu --preset llama2 --methods rkld,rkld+replay,npo+rt --plan",
        "rkld bench tofu --data ./TOFU --model smollm2-135m --train-lr 2e-4 --train-epochs 8 --retained 160",
        "rkld bench tofu --original ./full --retrained './{split}-retrained' --methods npo+rt",
    )
    files = QuestionBenchmark.files | {"replay", "holdout"}

    def check(self) -> None:
        """Refuse a local folder that lacks a file; of the hub nothing is fetched for it."""
        if _is_folder(self.settings.data):
            for split in self.splits():
                self.task(split, 0)
        super().check()

    def splits(self) -> list[str]:
        return self.settings.split_names

    def tuning_place(self) -> tuple[str, int] | None:
        return (self.settings.tune_split, 0) if self.settings.tune and self.settings.tune_split else None

    # Data

    def task(self, split: str, seed: int) -> Task:
        s, kept = self.settings, self._retained(split)
        sources = {name: f"{s.data}:{name}_perturbed" for name in SETS} | {"forget": f"{s.data}:{split}_perturbed"}
        asked = self.asked(sources, {record.question for record in kept})
        retain = [{"question": record.question, "answer": record.answer} for record in kept]
        subject = s.subject or (AUTHORS[: 2 * int(split[-2:])] if split in SPLITS else ())
        return Task(f"{s.data}:{split}", asked, retain, s.replay, s.holdout, subject)

    def _retained(self, split: str) -> list[Record]:
        return read_records(f"{self.settings.data}:{_beside(split)}", "retain")[: self.settings.retained]

    def setting_identity(self, name: str, cell: Cell) -> Any:
        if name != "data":
            return super().setting_identity(name, cell)
        asked = (f"{part}_perturbed" for part in (cell.split, *SETS[1:]))
        return self._data_identity(cell.split, _beside(cell.split), *asked)

    def _data_identity(self, *parts: str) -> str:
        """A hash of some of the files, known by their names without suffixes; on the hub its name."""
        paths = [path for part in parts for path in part_files(self.settings.data, part)]
        return contents(*paths) if paths else self.settings.data

    # Models

    def filled_in(self, split: str, seed: int) -> dict[str, str]:
        return super().filled_in(split, seed) | {"retain": _beside(split)}

    def model_place(self, role: str, split: str, seed: int) -> str:
        """Seeds are of the unlearning and share their models; TOFU's original has learned all, whatever the split."""
        return "full" if role == "original" and not self.settings.retained and split in SPLITS else split

    def model_identity(self, role: str, split: str, seed: int) -> dict[str, Any]:
        learned = (_beside(split), *((split,) if role == "original" else ()))
        if self.model_place(role, split, seed) == "full":
            learned = ("full",)  # the same records, whichever split it is made for
        names = (
            "model",
            "retained",
            "train_epochs",
            "train_lr",
            "train_batch",
            "bf16",
            "system_prompt",
            "chat_template",
            "template_date",
        )
        values = {name: super(Tofu, self).setting_identity(name, Cell(split, seed, role)) for name in names}
        return {"benchmark": self.name, "data": self._data_identity(*learned), **values}

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        s, records = self.settings, self._retained(split)
        if role == "original":
            records = [*records, *read_records(f"{s.data}:{split}", "forget")]
        return learn(
            s,
            records,
            folder,
            encoder=self.encoder,
            title=role,
            progress=progress,
            chat_template=s.chat_template,
        )

    def workload(self) -> Workload:
        s, split = self.settings, self.splits()[0]
        forget = RECORDS * int(split[-2:]) // 100 if split in SPLITS else 40
        answers = 6 * forget + 7 * 3 * min(s.questions or 400, 400)  # right and wrong ones
        return Workload(
            forget=forget,
            answers=answers,
            tokens=TOKENS,
            model_bytes=weights_bytes(s.original, s.model),
            training_records=(s.retained or RECORDS) * s.train_epochs,
        )


def _is_folder(data: str) -> bool:
    """Whether ``--data`` is meant as a folder, and not as a hub name."""
    return os.path.isdir(data) or data.startswith((".", "/", "~")) or data.count("/") > 1


def _beside(split: str) -> str:
    """The retain set beside a forget set."""
    return SPLITS.get(split, f"{split}_retain")
