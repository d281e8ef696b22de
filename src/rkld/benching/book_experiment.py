"""The paper's copyright experiment: methods forget a book; what of it is still recited, and what else is lost.

Wang et al. 2024 (arXiv 2406.01983) take 400 chunks of 512 tokens, give the first 200 tokens of each, and compare the
greedy continuation with the true one; what is kept is the perplexity of another text.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rkld.benching import result_store as finished
from rkld.benching.book_text import chunks, read_book
from rkld.benching.cell_runs import teacher_folder
from rkld.benching.cells import Cell
from rkld.benching.tables import as_csv, as_markdown
from rkld.benching.variants import Variant, variants
from rkld.errors import UserError
from rkld.evaluation.continuation import bleu, recited
from rkld.evaluation.fluency import perplexity
from rkld.evaluation.likelihood import answer_losses, answer_scores
from rkld.evaluation.readings import gold_answer
from rkld.evaluation.summary import measure
from rkld.files import write_text
from rkld.methods.two_models import open_model
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.pipeline.arguments import training_arguments
from rkld.pipeline.phases import unlearn
from rkld.progress import Silent
from rkld.records.encoding import TEXT_PROMPT_TOKENS, Encoder
from rkld.records.reading import read_records
from rkld.registry import source_hash
from rkld.settings.benching import listed
from rkld.settings.book import BookSettings
from rkld.settings.specification import make
from rkld.settings.unlearning import Settings
from rkld.training.callbacks import TrainingBar
from rkld.training.strengthening import fine_tuning_steps
from rkld.training.trainer import fine_tune

FIGURES = {
    "n": "chunks", "bleu": "BLEU", "rouge_l": "ROUGE-L", "recited": "recited", "probability": "probability",
    "perplexity": "perplexity", "elsewhere_n": "chunks elsewhere", "elsewhere_perplexity": "perplexity elsewhere",
}  # fmt: skip
"""Figure → its title in ``book.md``, which also says what each is."""


PUBLISHED = {
    "original": (7.33, 16.33, 11.83), "gradient ascent": (0, 0, 1014), "NPO": (0.37, 4.65, 21.51),
    "task arithmetic": (1.22, 8.54, 12.14), "forward KL": (0.73, 7.87, 12.76), "RKLU": (0.35, 3.94, 12.64),
}  # fmt: skip
"""BLEU and ROUGE-L in percent, and perplexity on WikiText, of LLaMA2-7B and Harry Potter (arXiv 2406.01983). RKLU is
RKLD's later name."""


@dataclass(frozen=True)
class Book:
    """What the experiment has written.

    Attributes:
        rows: of ``book.csv``: the original's and each method's.
        files: the tables.
        notes: which methods were left out, and what their runs warned of.
    """

    rows: Sequence[Mapping[str, Any]]
    files: Sequence[Path]
    notes: Sequence[str]


def book(progress: Silent | None = None, **settings: Any) -> Book:
    """Have every method forget the book that has not yet, and write the tables of all.

    Args:
        progress: shows what is going on.
        settings: by the names of :class:`rkld.settings.book.BookSettings`.

    Raises:
        UserError: bad settings or texts; a cell that was run with other settings.
    """
    chosen = make(settings, "arguments", BookSettings)
    run, left_out = applicable(chosen)
    work = _Work(chosen, progress or Silent())
    cells = [Cell("book", 0, one.name if one else "original", one) for one in (None, *run)]
    done = {cell: work.found(cell) for cell in cells}  # first: other settings are refused before anything runs
    found = {}
    for number, cell in enumerate(cells, 1):
        if not done[cell]:
            work.progress.say(f"[{number}/{len(cells)}] {cell.name}")
        found[cell.name] = done[cell] or work.run(cell)
        work.clean(cell)
    shutil.rmtree(chosen.folder / "teachers", ignore_errors=True)
    rows = [{"method": name, **content["figures"]} for name, content in found.items()]
    notes = left_out + [f"{name}: {warning}" for name, content in found.items() for warning in content["warnings"]]
    texts = {"book.csv": as_csv(("method", *FIGURES), rows), "book.md": markdown(chosen, rows, notes)}
    for name, text in texts.items():
        write_text(chosen.folder / name, text)
    return Book(rows, [chosen.folder / name for name in texts], notes)


def applicable(settings: BookSettings) -> tuple[list[Variant], list[str]]:
    """The methods that can forget this text; of those that a group named and that cannot, why.

    Raises:
        UserError: one that was named by itself cannot; retain records are needed and there are none; none is left.
    """
    found, left_out = [], []
    for one in variants(settings):
        if one.make().refusals:
            why = f"{one.name}: it teaches refusals, and a text has no question to refuse."
            if one.name in listed(settings.methods):
                raise UserError(f"{why} Take it out of --methods.")
            left_out.append(why)
        elif one.settings()["retain"] and not settings.elsewhere:
            raise UserError(f"{one.name}: it trains on retain records too. Give another text with --elsewhere.")
        else:
            found.append(one)
    if not found:
        raise UserError("--methods leaves no method that can forget a text.")
    return found, left_out


@dataclass(frozen=True)
class _Texts:
    """Chunks: what is forgotten; of the other text, every other one is measured, and those between may be retained."""

    book: Sequence[str]
    measured: Sequence[str]
    retained: Sequence[str]


class _Work:
    """One experiment: the cells share the texts and the original."""

    def __init__(self, settings: BookSettings, progress: Silent):
        self.settings, self.progress = settings, progress
        given = {name: getattr(settings, name) for name in ("book", "elsewhere")}
        self.whole = {name: read_book(path, name) for name, path in given.items() if path}
        self.cut: _Texts | None = None

    # Cells

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that decides a cell's figures, as JSON has it; texts are known by what they say, wherever they lie."""
        learning = ("learn_lr", "batch_size", "bf16") if self.settings.learn_epochs else ()
        names = ("model", "chunks", "chunk_tokens", "learn_epochs", *learning)
        values = {name: getattr(self.settings, name) for name in names}
        for name in ("book", "elsewhere"):
            text = self.whole.get(name)
            values[name] = text and hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        if cell.variant is not None:
            own = {name: list(v) if isinstance(v, tuple) else v for name, v in self.unlearning(cell.variant).items()}
            values |= own | {"method's file": source_hash(cell.variant.method)}
        return values

    def unlearning(self, variant: Variant) -> dict[str, Any]:
        """The settings of :func:`rkld.pipeline.phases`: the experiment's, and the variant's own on top."""
        names = ("epochs", "strengthen_epochs", "lr", "batch_size", "alpha", "lora", "bf16")
        return {name: getattr(self.settings, name) for name in names} | variant.settings()

    def found(self, cell: Cell) -> dict[str, Any] | None:
        """What a finished cell has written. UserError where it was run with other settings."""
        return finished.read(cell.folder(self.settings) / "cell.json", self.identity(cell))

    def run(self, cell: Cell) -> dict[str, Any]:
        """Unlearn, unless it is the original, and measure; an interrupted cell goes on from its last phase."""
        started, texts, source, warnings = time.time(), self.texts(), self.original(), ()
        if cell.variant is not None:
            values = self.unlearning(cell.variant)
            teacher = teacher_folder(self.settings, cell, values)
            retain, replay = values.pop("retain"), values.pop("replay")
            result = unlearn(
                str(source), _rows(texts.book), retain=_rows(texts.retained) if retain else None,
                replay="auto" if replay else "none", stop="last", progress=self.progress,
                out=str(cell.folder(self.settings) / "run"), teacher=str(teacher), **values,
            )  # fmt: skip
            source, warnings = result.model_path, result.warnings
        figures = measured(open_model(source), texts.book, texts.measured, self.progress)
        path = cell.folder(self.settings) / "cell.json"
        return finished.write(path, self.identity(cell), started, figures=figures, warnings=list(warnings))

    def clean(self, cell: Cell) -> None:
        """Remove model and answers; also after a cell that was killed before it came to this."""
        shutil.rmtree(cell.folder(self.settings) / "run", ignore_errors=True)

    # What they share

    def texts(self) -> _Texts:
        """The chunks, cut on the first call. UserError where a text is too short, or a chunk too long for the model."""
        if self.cut is None:
            s, size, lm = self.settings, self.settings.chunk_tokens, load_model(self.settings.model)
            most = lm.context_length and lm.context_length - lm.tokenizer.num_special_tokens_to_add()
            if most and size > most:
                raise UserError(f"--chunk-tokens is {size}, but {s.model} reads at most {most} of a text at once.")
            forget = chunks(self.whole["book"], lm.tokenizer, size, s.chunks, f"--book {s.book}")
            other: list[str] = []
            if "elsewhere" in self.whole:
                other = chunks(self.whole["elsewhere"], lm.tokenizer, size, 2 * s.chunks, f"--elsewhere {s.elsewhere}")
            self.cut = _Texts(forget, other[::2], other[1::2])
        return self.cut

    def original(self) -> Path | str:
        """The model that knows the book: as it is, or ``FOLDER/original/model``, made unless it is there."""
        s = self.settings
        if not s.learn_epochs:
            return s.model
        folder, asked = s.folder / "original", self.identity(Cell("book", 0, "original"))
        # Noted before the training: what an interrupted one has left must be of the same settings, too.
        if not finished.read(folder / "settings.json", asked):
            finished.write(folder / "settings.json", asked, time.time())
        if not (folder / "model").exists():
            torch.manual_seed(0)
            lm = load_model(s.model)
            encoded = [_encoder(lm).encode(record) for record in read_records(_rows(self.texts().book), "book")]
            training = Settings(batch_size=s.batch_size, bf16=s.bf16)
            args = training_arguments(training, folder / "training", s.learn_epochs, s.learn_lr)
            with self.progress.bar("learning", fine_tuning_steps(encoded, args)) as advance:
                fine_tune(lm, encoded, args, [TrainingBar(advance)])
            save_model(lm, folder / "model")
            shutil.rmtree(folder / "training", ignore_errors=True)
        return folder / "model"


def _rows(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def _encoder(lm: LanguageModel) -> Encoder:
    return Encoder(lm.tokenizer, context_length=lm.context_length)


# Figures


def measured(
    lm: LanguageModel, book: Sequence[str], elsewhere: Sequence[str], progress: Silent
) -> dict[str, float | int | None]:
    """The :data:`FIGURES` of a model; None for those of a text that is not there.

    Args:
        book, elsewhere: chunks of the forgotten and of the other text.
    """
    encoder = _encoder(lm)
    records = read_records(_rows(book), "book")
    encoded = [encoder.encode(record) for record in records]
    scores = answer_scores(lm, encoded)
    longest = max(len(one.ids) - one.prompt_length for one in encoded)
    with progress.bar("continuations", len(records)) as advance:
        said = measure(lm, encoder, records, max_new_tokens=longest, scores=scores, progress=advance)
    gold = [gold_answer(record, encoder) for record in records]
    other = [encoder.encode(record) for record in read_records(_rows(elsewhere), "elsewhere")] if elsewhere else []
    return {
        "n": said.n,
        "bleu": 100 * bleu(said.answers, gold),
        "rouge_l": 100 * said.rouge_l,
        "recited": float(recited(encoded, scores).mean()),
        "probability": said.probability,
        "perplexity": _perplexity([found.losses for found in scores]),
        "elsewhere_n": len(other),
        "elsewhere_perplexity": _perplexity(answer_losses(lm, other)) if other else None,
    }


def _perplexity(losses: Sequence[np.ndarray]) -> float:
    """Over all tokens of all chunks."""
    return float(perplexity([np.concatenate(losses)])[0])


# Tables


def markdown(settings: BookSettings, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """What was found, what must be known to read it, and the paper's figures apart from it."""
    lines = [[row["method"], *(_number(row[name]) for name in FIGURES)] for row in rows]
    files = {name: Path(path).name for name in ("book", "elsewhere") if (path := getattr(settings, name))}
    used = {name: value for name, value in (asdict(settings) | files).items() if name not in ("out", "methods")}
    published = [[name, *(f"{value:g}" for value in values)] for name, values in PUBLISHED.items()]
    parts = [
        "# rkld bench book",
        "\n".join(f"- {name}: {value}" for name, value in used.items()),
        as_markdown(["method", *FIGURES.values()], lines),
        _NOTES.format(prompt=TEXT_PROMPT_TOKENS),
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
