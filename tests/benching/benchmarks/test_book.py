"""The copyright experiment: chunks that stay what they were cut as, figures of the paper, cells run once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rkld import UserError, cli
from rkld.benching import cell_runs
from rkld.benching.benchmarks import book as module
from rkld.benching.benchmarks.book import FIGURES, Book, BookEvaluator, BookSettings, markdown, read_book
from rkld.benching.comparing import Bench, bench
from rkld.benching.registry import open_benchmark
from rkld.benching.worlds.tiny import tiny_model

pytestmark = pytest.mark.slow

SENTENCES = (
    "The old lamp on the pier went out at nine, and nobody came to light it.",
    "Mira counted forty gulls on the roof of the customs house.",
    "Under the stairs lay a map of seven islands, drawn in green ink.",
    "Her brother sold clocks that ran backwards to sailors who were late.",
    "On Thursday the harbour froze, and the ferry stood in it like a tooth.",
)
TEXT = "\n".join(SENTENCES)
OTHER = " ".join(f"In the year {year} snow fell on the hills, and the goats went home." for year in range(1801, 1813))
SIZE = 32
"""Tokens of a chunk."""
METHODS = "rkld,gradient_ascent"


def book(**settings) -> Bench:
    return bench("book", **settings)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict:
    """A small experiment: a tiny model that learns three chunks by heart."""
    folder = tmp_path_factory.mktemp("given")
    for part in tiny_model(0):
        part.save_pretrained(folder / "model")
    (folder / "book.txt").write_text(TEXT, encoding="utf-8")
    (folder / "other.txt").write_text(OTHER, encoding="utf-8")
    return {
        "model": str(folder / "model"), "book": str(folder / "book.txt"), "elsewhere": str(folder / "other.txt"),
        "methods": METHODS, "chunks": 3, "chunk_tokens": SIZE, "learn_epochs": 40, "learn_lr": 3e-3, "batch_size": 3,
        "epochs": 6, "strengthen_epochs": 3, "lr": 2e-3,
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(given, tmp_path_factory) -> Path:
    """The folder of a finished experiment."""
    folder = tmp_path_factory.mktemp("done")
    book(**given, out=str(folder))
    return folder


def rows(folder: Path) -> dict[str, dict[str, float]]:
    with open(folder / "book.csv", newline="") as file:
        return {row.pop("method"): {k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)}


# Text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Licence.\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\n", "*** END OF THE PROJECT GUTENBERG EBOOK A ***"),
        ("***START OF THIS PROJECT GUTENBERG EBOOK A TALE***\nx", "End of the Project Gutenberg EBook of A Tale"),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n", "*End of The Project Gutenberg Etext"),
        ("*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n", "End of Project Gutenberg's A Tale"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_licence_around_a_book_is_no_part_of_it(tmp_path, before, after):
    """A model would be asked for legal text that stands before ten thousand books."""
    path = tmp_path / "book.txt"
    path.write_bytes(f"{before}\n\n{TEXT}\n{after}\nmore legal text".replace("\n", "\r\n").encode("utf-8-sig"))
    expected = TEXT if before else f"{TEXT}\n\nmore legal text"
    assert read_book(str(path), "book") == f"{'x' * before.endswith('x')}\n\n{expected}".strip()


def test_a_book_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match=r"book: there is no file"):
        read_book(str(tmp_path / "none.txt"), "book")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        read_book(str(tmp_path / "latin.txt"), "book")
    start, end = (f"*** {word} OF THE PROJECT GUTENBERG EBOOK A ***\n" for word in ("START", "END"))
    (tmp_path / "empty.txt").write_text(start + end)
    with pytest.raises(UserError, match="nothing between"):
        read_book(str(tmp_path / "empty.txt"), "book")


# The experiment


def test_what_is_learned_by_heart_is_recited_and_forgotten(done):
    """The figures must move the way that the experiment is about, or they measure something else."""
    found = rows(done)
    assert list(found) == ["original", *METHODS.split(",")]
    original = found["original"]
    assert original["bleu"] > 90
    assert original["rouge_l"] > 90
    assert original["recited"] > 12
    assert original["probability"] > 0.7
    assert original["perplexity"] < 1.5
    assert original["n"] == 3
    for name in METHODS.split(","):
        assert found[name]["rouge_l"] < 0.7 * original["rouge_l"], name
        assert found[name]["bleu"] < 0.7 * original["bleu"], name
        assert found[name]["recited"] < 0.7 * original["recited"], name
        assert found[name]["probability"] < 0.5 * original["probability"], name
        assert found[name]["perplexity"] > 2 * original["perplexity"], name


def test_nothing_that_a_model_said_is_kept(done):
    """Chunks are under copyright, and what is kept of an experiment is passed on."""
    files = {path.relative_to(done).as_posix() for path in done.rglob("*") if path.is_file()}
    left = {name for name in files if not name.startswith("models/book/original/")}
    cells = {f"cells/book/seed0/{name}/cell.json" for name in ("original", "rkld", "gradient_ascent")}
    assert left == {"book.csv", "book.md", "models/book/original.json", *cells}
    for name in left:
        assert "lamp" not in (done / name).read_text(encoding="utf-8")


def test_the_table_says_what_it_was_made_by_and_keeps_the_paper_apart(done):
    """Published figures in one table with ours would be read as a comparison of the same thing."""
    own, published = (done / "book.md").read_text(encoding="utf-8").split("## Published figures, of another model")
    assert "| gradient_ascent |" in own
    assert "alpha: 4.0" in own
    assert "11.83" not in own
    assert "| original | 7.33 | 16.33 | 11.83 |" in published
    assert "Harry Potter" in published


def test_finished_cells_are_not_run_again(done, given, monkeypatch):
    before = {name: (done / name).read_bytes() for name in ("book.csv", "book.md")}
    for where, name in (
        (cell_runs, "run_unlearning"),
        (module, "fine_tune"),
        (module, "measure"),
        (module, "load_model"),
    ):
        monkeypatch.setattr(where, name, None)
    book(**given, out=str(done))
    assert {name: (done / name).read_bytes() for name in before} == before


class Stop(Exception):
    """What a test looks at has been reached."""


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What the unlearning of each cell is called with, in place of which it ends the experiment."""
    calls = []

    def unlearn(data, values, **how):
        calls.append({**data, **values})
        raise Stop

    monkeypatch.setattr(cell_runs, "run_unlearning", unlearn)
    return calls


def test_another_method_joins_the_same_original(done, given, asked, monkeypatch):
    """Learning the book takes longest: a method that is added later must not do it again, nor its neighbours."""
    monkeypatch.setattr(module, "fine_tune", None)
    with pytest.raises(Stop):
        book(**{**given, "methods": f"{METHODS},npo@epochs=1"}, out=str(done))
    (npo,) = asked
    assert (npo["method"], npo["epochs"], npo["alpha"], npo["stop"]) == ("npo", 1, 4.0, "last")
    assert npo["model"] == str(done / "models/book/original")
    assert len(npo["forget"]) == 3


def test_replay_is_asked_for_where_it_is_named(given, asked, tmp_path):
    for name, replay in {"rkld": "none", "rkld+replay": "auto"}.items():
        with pytest.raises(Stop):
            book(**{**given, "methods": name, "learn_epochs": 0}, out=str(tmp_path))
        assert asked[-1]["replay"] == replay
        assert asked[-1]["retain"] is None
        assert asked[-1]["model"] == given["model"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 8.0}, "alpha: 4.0 then, 8.0 now"), ({"learn_epochs": 3}, "learn_epochs: 40 then, 3 now"),
        ({"chunks": 2}, "chunks: 3 then, 2 now"), ({"elsewhere": None}, "elsewhere: '[0-9a-f]+' then, None now"),
    ],
)  # fmt: skip
def test_other_settings_in_the_same_folder_are_refused(done, given, changed, message):
    """Rows of two settings in one table would be compared as if they were one."""
    with pytest.raises(UserError, match=message):
        book(**{**given, **changed}, out=str(done))


def test_a_text_is_known_by_what_it_says(done, given, tmp_path):
    (tmp_path / "moved.txt").write_text(TEXT, encoding="utf-8")
    book(**{**given, "book": str(tmp_path / "moved.txt")}, out=str(done))
    (tmp_path / "moved.txt").write_text(TEXT.replace("forty", "fifty"), encoding="utf-8")
    with pytest.raises(UserError, match=r"book: '[0-9a-f]+' then"):
        book(**{**given, "book": str(tmp_path / "moved.txt")}, out=str(done))


def test_an_original_that_was_begun_with_other_settings_is_refused(given, tmp_path, monkeypatch):
    """Its checkpoints would be gone on from, and the model be neither of the two."""
    with monkeypatch.context() as patch:

        def cut(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(module, "fine_tune", cut)
        with pytest.raises(KeyboardInterrupt):
            book(**given, out=str(tmp_path))
    with pytest.raises(UserError, match="learn_lr"):
        book(**{**given, "learn_lr": 1e-3}, out=str(tmp_path))


def test_what_is_retained_is_not_what_is_measured(given, asked, tmp_path, monkeypatch):
    """A method would be praised for keeping what it was trained on."""
    seen = []

    def made(self, book, elsewhere, encoder, call=BookEvaluator.__init__):
        seen.append([record.answer for record in elsewhere])
        call(self, book, elsewhere, encoder)

    monkeypatch.setattr(BookEvaluator, "__init__", made)
    with pytest.raises(Stop):
        book(**{**given, "methods": "graddiff", "learn_epochs": 0}, out=str(tmp_path))
    retained = [record["text"] for record in asked[0]["retain"]]
    assert OTHER.startswith(seen[0][0] + retained[0]), "one here, the next there"
    assert not set(retained) & set(seen[0])


def test_without_another_text_its_perplexity_is_not_measured(given, asked, tmp_path):
    """The rest of the same book is no other text."""
    with pytest.raises(Stop):
        book(**given | {"elsewhere": None, "learn_epochs": 0}, out=str(tmp_path))
    cell = json.loads((tmp_path / "cells/book/seed0/original/cell.json").read_text(encoding="utf-8"))
    assert cell["moments"]["model"]["elsewhere_perplexity"] is None
    assert cell["moments"]["model"]["elsewhere_n"] == 0
    row = {"method": "original", **cell["moments"]["model"]}
    assert "| 0 | not measured |" in markdown(BookSettings(**given), Book.table, [row], [])
    assert not (tmp_path / "models").exists(), "the model as it is needs no copy"


# What cannot be


def test_methods_that_a_text_is_nothing_for(given):
    """Hours in, they would fail on records without a question or without retain records."""

    def opened(**changed):
        return open_benchmark("book", {**given, **changed})

    with pytest.raises(UserError, match="dpo: it teaches refusals"):
        opened(methods="rkld,dpo").cells()
    every = opened(methods="all")
    assert {one.name for one in every.variants} >= {"rkld", "npo", "graddiff", "whp", "rkld+replay"}
    assert [why.split(":")[0] for why in every.left_out] == ["dpo", "idk", "idk_ap", "idk+rt"]
    with pytest.raises(UserError, match=r"graddiff.*--elsewhere"):
        opened(methods="rkld,graddiff", elsewhere=None).cells()
    assert "graddiff" in [why.split(":")[0] for why in opened(methods="all", elsewhere=None).left_out]
    with pytest.raises(UserError, match="--methods names none"):
        opened(methods=",").cells()


def test_a_chunk_longer_than_the_context_is_refused(given, tmp_path):
    with pytest.raises(UserError, match=r"--chunk-tokens is 257.*at most 256"):
        book(**{**given, "chunk_tokens": 257}, out=str(tmp_path))


def test_the_command_says_what_is_missing_and_where_the_tables_lie(done, given):
    result = CliRunner().invoke(cli.main, ["bench", "book", "--book", given["book"]])
    assert result.exit_code == 2
    assert "--model is missing" in result.output
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    result = CliRunner().invoke(cli.main, ["bench", "book", *flags, "--out", str(done)])
    assert result.exit_code == 0
    assert result.output.split()[:2] == [str(done / "book.csv"), str(done / "book.md")]


def test_cells_hold_what_the_table_shows(done):
    content = json.loads((done / "cells/book/seed0/rkld/cell.json").read_text(encoding="utf-8"))
    assert content["moments"]["last"]["n"] == 3
    assert content["settings"]["alpha"] == 4.0
    assert content["seconds"] > 0


def test_numbers_that_are_too_small_or_too_large_for_the_table_are_powers_of_ten(given):
    row = {"method": "x", **dict.fromkeys(FIGURES, 1.5), "probability": 1e-9, "elsewhere_perplexity": 3e12, "n": 3}
    table = markdown(BookSettings(**given), Book.table, [row], [])
    assert "| x | 3 | 1.500 | 1.500 | 1.500 | 1e-09 | 1.500 | 1.500 | 3e+12 |" in table
