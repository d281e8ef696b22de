"""A book: forget a copyrighted text, chunk by chunk; what of it is still recited, and what else is lost.

Wang et al. 2024 (arXiv 2406.01983) take 400 chunks of 512 tokens, give the first 200 tokens of each, and compare the
greedy continuation with the true one; what is kept is the perplexity of another text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rkld.benching.benchmark import Benchmark, Evaluator, Measured, Task, Workload, weights_bytes
from rkld.benching.cells import Cell, Found
from rkld.benching.registry import BENCHMARKS
from rkld.benching.tables import Table, as_csv, as_markdown
from rkld.benching.variants import Variant
from rkld.errors import UserError
from rkld.evaluation.continuation import bleu, recited
from rkld.evaluation.fluency import perplexity
from rkld.evaluation.likelihood import answer_losses, answer_scores
from rkld.evaluation.readings import gold_answer
from rkld.evaluation.summary import measure
from rkld.files import write_text
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.pipeline.arguments import training_arguments
from rkld.progress import NoProgress
from rkld.records.chunking import chunks
from rkld.records.encoding import TEXT_PROMPT_TOKENS, Encoder
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.records.sources import read_text
from rkld.settings.benching import BenchSettings
from rkld.settings.specification import flag, setting
from rkld.settings.table import of
from rkld.settings.unlearning import Settings
from rkld.training.callbacks import TrainingBar
from rkld.training.strengthening import fine_tuning_steps
from rkld.training.trainer import fine_tune

METHODS = "rkld,rkld+replay,forward_kl,npo,gradient_ascent,task_arithmetic"
"""The paper's methods on a book, and ours."""

FIGURES = {
    "n": "chunks",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "recited": "recited",
    "probability": "probability",
    "perplexity": "perplexity",
    "elsewhere_n": "chunks elsewhere",
    "elsewhere_perplexity": "perplexity elsewhere",
}
"""Figure → its title in ``book.md``, which also says what each is."""

PUBLISHED = {
    "original": (7.33, 16.33, 11.83),
    "gradient ascent": (0, 0, 1014),
    "NPO": (0.37, 4.65, 21.51),
    "task arithmetic": (1.22, 8.54, 12.14),
    "forward KL": (0.73, 7.87, 12.76),
    "RKLU": (0.35, 3.94, 12.64),
}
"""BLEU and ROUGE-L in percent, and perplexity on WikiText, of LLaMA2-7B and Harry Potter (arXiv 2406.01983). RKLU is
RKLD's later name."""


@dataclass(frozen=True)
class BookSettings(BenchSettings):
    """Which methods forget which text. Units stand beside each setting; one seed, 0."""

    model: str = of("model", help="Folder, hub name, or the alias smollm2-135m. Needed.", affects="figures")
    book: str = setting(
        "", "The text to forget: a plain text file in UTF-8. Needed.", metavar="FILE", affects="figures"
    )
    elsewhere: str | None = setting(
        None,
        "Another text: half of its chunks measure what is kept, half are the retain records of methods with any.",
        metavar="FILE",
        affects="figures",
    )
    methods: str = setting(
        METHODS,
        "Comma-separated: NAME[+rt|+kl][+replay][@SETTING=VALUE…], FILE.py:NAME for your own, or a group: all (every "
        "method that can forget a text), alphas, divergences.",
        metavar="NAME,…",
        affects="nothing",
    )
    chunks: int = setting(
        400, "The first so many chunks are forgotten (paper: 400), or as many as there are.", low=1, affects="figures"
    )
    chunk_tokens: int = setting(512, "Tokens of a chunk (paper: 512).", low=2, affects="figures")
    learn_epochs: int = setting(
        0,
        "Passes in which the model learns the chunks first. 0: it knows the book already.",
        low=0,
        affects="figures",
    )
    learn_lr: float = setting(
        1e-5,
        "Peak learning rate of that (7B: 1e-5; SmolLM2: 2e-4).",
        low=0,
        high=1,
        exclusive="low",
        affects="figures",
    )
    out: str = of("out", default="runs/book", help="Folder of the original, cells and tables.")
    alpha: float = of("alpha", default=4.0, help="Of the teacher (paper: 4 on the book).")
    batch_size: int = of("batch_size", default=32, help="Chunks per step (paper: 32).")

    def __post_init__(self) -> None:
        for name, what in {"model": "the model", "book": "the text to forget"}.items():
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: give {what}.")
        super().__post_init__()


@BENCHMARKS.register("book")
class Book(Benchmark):
    """Forget a copyrighted text, chunk by chunk, by every method.

    The paper's experiment: how much of each chunk is still continued as it goes on, and the perplexity of another text.
    Nothing that a model said is kept.
    """

    settings: BookSettings
    settings_class = BookSettings
    examples = (
        "rkld bench book --model ./llama2-7b --book potter.txt --elsewhere wikitext.txt",
        "rkld bench book --model smollm2-135m --book alice.txt --chunks 8 --learn-epochs 8 --learn-lr 2e-4",
    )
    table = Table(tuple(FIGURES), (), FIGURES, "", n="chunks")

    def splits(self) -> list[str]:
        return ["book"]

    def refusal(self, variant: Variant) -> str | None:
        if variant.make().asks:
            return "it teaches other answers, and a text has no question to answer."
        if variant.settings()["retain"] and not self.settings.elsewhere:
            return "it trains on retain records too. Give another text with --elsewhere."
        return None

    # Data

    @cached_property
    def whole(self) -> dict[str, str]:
        """The texts that are given, whole."""
        given = {name: getattr(self.settings, name) for name in ("book", "elsewhere")}
        return {name: read_book(path, name) for name, path in given.items() if path}

    @cached_property
    def cut(self) -> tuple[list[str], list[str], list[str]]:
        """Chunks: what is forgotten; of the other text, every other one is measured, those between may be retained.

        UserError where a text is too short, or a chunk too long for the model.
        """
        s, lm = self.settings, load_model(self.settings.model)
        most = lm.context_length and lm.context_length - lm.tokenizer.num_special_tokens_to_add()
        if most and s.chunk_tokens > most:
            raise UserError(
                f"--chunk-tokens is {s.chunk_tokens}, but {s.model} reads at most {most} of a text at once."
            )

        def cut(name: str, most: int) -> list[str]:
            if name not in self.whole:
                return []
            what = f"{flag(name)} {getattr(s, name)}"
            return chunks(self.whole[name], lm.tokenizer, s.chunk_tokens, most, what)

        book, other = cut("book", s.chunks), cut("elsewhere", 2 * s.chunks)
        return book, other[::2], other[1::2]

    def task(self, split: str, seed: int) -> Task:
        book, measured, retained = self.cut
        asked = {"book": read_records(_rows(book), "book")}
        if measured:
            asked["elsewhere"] = read_records(_rows(measured), "elsewhere")
        return Task(_rows(book), asked, retain=_rows(retained))

    def setting_identity(self, name: str, cell: Cell) -> Any:
        """Texts are known by what they say, wherever they lie."""
        if name in ("book", "elsewhere"):
            text = self.whole.get(name)
            return text and hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return super().setting_identity(name, cell)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """How the original learned counts only where it did."""
        found = super().identity(cell)
        if not self.settings.learn_epochs:
            found.pop("learn_lr")
        elif cell.variant is None:
            found |= {name: getattr(self.settings, name) for name in ("batch_size", "bf16")}
        return found

    # Models

    def given_model(self, role: str, split: str, seed: int) -> str | None:
        return None if self.settings.learn_epochs else self.settings.model

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        """The model, having learned the book."""
        s = self.settings
        book, _, _ = self.cut
        torch.manual_seed(0)
        lm, encoder = self.load(s.model)
        encoded = [encoder.encode(record) for record in read_records(_rows(book), "book")]
        args = training_arguments(
            Settings(batch_size=s.batch_size, bf16=s.bf16, epochs=s.learn_epochs, lr=s.learn_lr), folder
        )
        with progress.bar("learning", fine_tuning_steps(encoded, args)) as advance:
            fine_tune(lm, encoded, args, [TrainingBar(advance)])
        return lm

    # Measuring

    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> BookEvaluator:
        return BookEvaluator(task.asked["book"], task.asked.get("elsewhere", []), encoder)

    def workload(self) -> Workload:
        s = self.settings
        return Workload(
            forget=s.chunks,
            answers=2 * s.chunks,
            tokens=s.chunk_tokens,
            model_bytes=weights_bytes(s.model),
            training_records=s.chunks * s.learn_epochs,
        )

    # Tables

    def write(self, found: Found, tuned: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Path], list[str]]:
        """``book.csv`` and ``book.md``: a row for the original and each method."""
        rows, notes = [], []
        for cell, content in found.items():
            (moment,) = content["moments"].values()
            rows.append({"method": cell.name, **{name: moment.get(name) for name in self.shown.figures}})
            warnings = [*content["warnings"], *([moment["note"]] if "note" in moment else [])]
            notes += [f"{cell.name}: {warning}" for warning in warnings]
        left_out = self.left_out
        texts = {
            "book.csv": as_csv(("method", *self.shown.figures), rows),
            "book.md": markdown(self.settings, self.shown, rows, left_out + notes),
        }
        for name, text in texts.items():
            write_text(self.settings.folder / name, text)
        return rows, [self.settings.folder / name for name in texts], notes


def _rows(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


# Figures


class BookEvaluator(Evaluator):
    """The :data:`FIGURES` of a model; None for those of a text that is not there."""

    def __init__(self, book: Sequence[Record], elsewhere: Sequence[Record], encoder: Encoder):
        self.book, self.encoder = book, encoder
        self.encoded = [encoder.encode(record) for record in book]
        self.elsewhere = [encoder.encode(record) for record in elsewhere]

    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        scores = answer_scores(lm, self.encoded)
        longest = max(len(one.ids) - one.prompt_length for one in self.encoded)
        with progress.bar("continuations", len(self.book)) as advance:
            found = measure(lm, self.encoder, self.book, max_new_tokens=longest, scores=scores, progress=advance)
        assert found.answers is not None  # they were asked for
        assert found.rouge_l is not None
        gold = [gold_answer(record, self.encoder) for record in self.book]
        return Measured(
            {
                "n": found.n,
                "bleu": 100 * bleu(found.answers, gold),
                "rouge_l": 100 * found.rouge_l,
                "recited": float(recited(self.encoded, scores).mean()),
                "probability": found.probability,
                "perplexity": _perplexity([each.losses for each in scores]),
                "elsewhere_n": len(self.elsewhere),
                "elsewhere_perplexity": _perplexity(answer_losses(lm, self.elsewhere)) if self.elsewhere else None,
            }
        )


def _perplexity(losses: Sequence[np.ndarray]) -> float:
    """Over all tokens of all chunks."""
    return float(perplexity([np.concatenate(losses)])[0])


# Tables


def markdown(settings: BookSettings, table: Table, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """What was found, what must be known to read it, and the paper's figures apart from it."""
    lines = [[row["method"], *(_number(row[name]) for name in table.titles)] for row in rows]
    files = {name: Path(path).name for name in ("book", "elsewhere") if (path := getattr(settings, name))}
    of_run = ("out", "methods", "method_file", "jobs", "keep_models")
    used = {name: value for name, value in (asdict(settings) | files).items() if name not in of_run}
    published = [[name, *(f"{value:g}" for value in values)] for name, values in PUBLISHED.items()]
    parts = [
        "# rkld bench book",
        "\n".join(f"- {name}: {value}" for name, value in used.items()),
        as_markdown(["method", *table.titles.values()], lines),
        _NOTES.format(prompt=TEXT_PROMPT_TOKENS) + table.notes,
        *(["\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Published figures, of another model and another book",
        _PUBLISHED,
        as_markdown(["method", "BLEU", "ROUGE-L", "perplexity, WikiText"], published),
    ]
    return "\n\n".join(parts) + "\n"


_NOTES = """\
- The model is given the first {prompt} tokens of a chunk, or half of a shorter one, and continues greedily to the
  chunk's length.
- BLEU: of all continuations together, n-grams of 1 to 4, with case, in percent. ROUGE-L: recall with stemming, mean
  over chunks, in percent. recited: tokens of the continuation that are the true ones up to the first that is not, mean.
- probability: geometric mean per token of a whole chunk, mean over chunks. perplexity: exp of the mean loss per token,
  over all chunks.
- perplexity elsewhere: the same on every other chunk of another text; the chunks between are the retain records of
  methods that have any. Without another text it is not measured: the rest of the same book would not be elsewhere."""

_PUBLISHED = """\
LLaMA2-7B, 400 chunks of Harry Potter of 512 tokens, alpha 4, no retain set (Wang et al., arXiv 2406.01983). They stand
here for reference: neither the model nor the texts are those above, and BLEU and ROUGE-L may be defined otherwise."""


def _number(value: float | int | None) -> str:
    """Two or three digits behind the point; very small and very large ones as powers of ten."""
    if value is None:
        return "not measured"
    if isinstance(value, int) or value == 0:
        return f"{value:d}" if isinstance(value, int) else "0"
    if not 5e-4 <= abs(value) < 1e6:
        return f"{value:.0e}"
    return f"{value:.0f}" if value >= 1000 else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


# The text


_START = re.compile(
    r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG[^*]*\*\*\*[^\n]*\n|^\*END[* ]THE SMALL PRINT[^\n]*\n",
    re.IGNORECASE | re.MULTILINE,
)

_END = re.compile(r"^(?:\*\*\* ?|\* ?)?END OF (?:TH(?:E|IS) )?PROJECT GUTENBERG", re.IGNORECASE | re.MULTILINE)
"""Lines of Project Gutenberg around its books: the licence stands before the last of one, after the first of the
other; of both there is an older and a newer form."""


def read_book(path: str, what: str) -> str:
    """The text of a file, with plain line ends and without Project Gutenberg's header and footer, if it has them.

    Args:
        what: "book", "elsewhere": for messages.

    Raises:
        UserError: no such file, one that is not UTF-8, or nothing in it.
    """
    text = read_text(path, what).replace("\r\n", "\n")
    start = max((found.end() for found in _START.finditer(text)), default=0)
    end = _END.search(text, start)
    text = text[start : end.start() if end else None].strip()
    if not text:
        raise UserError(f"{what}: {path} holds nothing between Project Gutenberg's header and footer: give a book.")
    return text
