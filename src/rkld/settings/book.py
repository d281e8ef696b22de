"""Every setting of the copyright experiment: the flags of ``rkld bench book``, the arguments of
:func:`rkld.benching.book_experiment.book`. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rkld.errors import UserError
from rkld.settings.benching import PAPER
from rkld.settings.specification import flag, setting

METHODS = "rkld,rkld+replay,forward_kl,npo,gradient_ascent,task_arithmetic"
"""The paper's methods on a book, and ours."""


@dataclass(frozen=True)
class BookSettings:
    """Which methods forget which text. Units stand beside each setting; one seed, 0."""

    model: str = setting("", "Folder, hub name, or the alias smollm2-135m. Needed.")
    book: str = setting("", "The text to forget: a plain text file in UTF-8. Needed.")
    elsewhere: str | None = setting(
        None, "Another text: half of its chunks measure what is kept, half are the retain records of methods with any."
    )
    methods: str = setting(
        METHODS,
        "Comma-separated: NAME[+rt|+kl][+replay][@SETTING=VALUE…], FILE.py:NAME, or a group as of rkld bench tofu.",
    )
    chunks: int = setting(400, "The first so many chunks are forgotten (paper: 400), or as many as there are.")
    chunk_tokens: int = setting(512, "Tokens of a chunk (paper: 512).")
    learn_epochs: int = setting(0, "Passes in which the model learns the chunks first. 0: it knows the book already.")
    learn_lr: float = setting(PAPER["lr"], "Peak learning rate of that (7B: 1e-5; SmolLM2: 2e-4).")
    out: str = setting("runs/book", "Folder of the original, cells and tables.")

    epochs: int = setting(PAPER["epochs"], "Passes over the chunks (paper: up to 10).")
    strengthen_epochs: int = setting(PAPER["strengthen_epochs"], "Passes while strengthening (paper: 5).")
    lr: float = setting(PAPER["lr"], "Peak learning rate (paper: 1e-5 for 7B).")
    batch_size: int = setting(PAPER["batch_size"], "Chunks per step (paper: 32).")
    alpha: float = setting(4.0, "Of the teacher (paper: 4 on the book).")
    lora: bool = setting(False, "Train LoRA adapters in place of all weights.")
    bf16: bool | None = setting(None, "Compute in bfloat16 over float32 weights. Default: on a GPU that has it.")

    def __post_init__(self) -> None:
        for name, what in {"model": "the model", "book": "the text to forget"}.items():
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: give {what}.")
        least = {
            "chunks": 1, "chunk_tokens": 2, "learn_epochs": 0, "epochs": 1, "strengthen_epochs": 1, "batch_size": 1,
            "alpha": 0,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least {low}.")
        for name in ("learn_lr", "lr"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be above 0.")

    @property
    def folder(self) -> Path:
        return Path(self.out)
