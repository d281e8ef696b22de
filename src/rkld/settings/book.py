"""Every setting of the copyright experiment: the flags of ``rkld bench book``, the arguments of
:func:`rkld.benching.book_experiment.book`. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rkld.errors import UserError
from rkld.settings.benching import PAPER
from rkld.settings.specification import flag, setting
from rkld.settings.table import check_bounds, of

METHODS = "rkld,rkld+replay,forward_kl,npo,gradient_ascent,task_arithmetic"
"""The paper's methods on a book, and ours."""


@dataclass(frozen=True)
class BookSettings:
    """Which methods forget which text. Units stand beside each setting; one seed, 0."""

    model: str = of("model", help="Folder, hub name, or the alias smollm2-135m. Needed.")
    book: str = setting("", "The text to forget: a plain text file in UTF-8. Needed.", metavar="FILE")
    elsewhere: str | None = setting(
        None,
        "Another text: half of its chunks measure what is kept, half are the retain records of methods with any.",
        metavar="FILE",
    )
    methods: str = setting(
        METHODS,
        "Comma-separated: NAME[+rt|+kl][+replay][@SETTING=VALUE…], FILE.py:NAME, or a group as of rkld bench tofu.",
        metavar="NAME,…",
    )
    chunks: int = setting(400, "The first so many chunks are forgotten (paper: 400), or as many as there are.", low=1)
    chunk_tokens: int = setting(512, "Tokens of a chunk (paper: 512).", low=2)
    learn_epochs: int = setting(
        0, "Passes in which the model learns the chunks first. 0: it knows the book already.", low=0
    )
    learn_lr: float = setting(
        PAPER["lr"], "Peak learning rate of that (7B: 1e-5; SmolLM2: 2e-4).", low=0, high=1, exclusive="low"
    )
    out: str = of("out", default="runs/book", help="Folder of the original, cells and tables.")

    epochs: int = of("epochs", default=PAPER["epochs"], help="Passes over the chunks (paper: up to 10).")
    strengthen_epochs: int = of("strengthen_epochs", default=PAPER["strengthen_epochs"])
    lr: float = of("lr", default=PAPER["lr"], help="Peak learning rate (paper: 1e-5 for 7B).")
    batch_size: int = of("batch_size", default=PAPER["batch_size"], help="Chunks per step (paper: 32).")
    alpha: float = of("alpha", default=4.0, help="Of the teacher (paper: 4 on the book).")
    lora: bool = of("lora")
    bf16: bool | None = of("bf16")
    method_file: tuple[str, ...] = of("method_file")

    def __post_init__(self) -> None:
        for name, what in {"model": "the model", "book": "the text to forget"}.items():
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: give {what}.")
        check_bounds(self)

    @property
    def folder(self) -> Path:
        return Path(self.out)
