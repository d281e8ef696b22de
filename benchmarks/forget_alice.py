"""Forgetting Alice's Adventures in Wonderland: the paper's copyright experiment, on SmolLM2-135M and a free book.

    python -m benchmarks.forget_alice [--chunks 8] [--methods …] [--out runs/book] [--results benchmarks/results]

The book, and the text that measures what is kept (proceedings of a workshop at the Library of Congress, 1992), are
among the test data of the package ``Brotli``: they come from the Canterbury corpus and are in the public domain. The
package is fetched once, pinned by a hash. SmolLM2 does not recite Alice, so it learns the chunks first. The experiment
itself is ``rkld bench book``.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path

import click

from benchmarks.common import write
from rkld.benching.benchmarks.book import METHODS
from rkld.benching.comparing import bench
from rkld.models.packages import fetch
from rkld.progress import ProgressBars

PACKAGE = "Brotli==1.2.1"
SDIST = "brotli-1.2.1.tar.gz"
SHA256 = "02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de"
TEXTS = {"alice.txt": "alice29.txt", "elsewhere.txt": "lcet10.txt"}
"""Our name → the file's in the package's test data."""


def texts(folder: Path) -> Path:
    """The folder, with the texts in it; fetched unless they are there."""
    if not all((folder / name).exists() for name in TEXTS):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            sdist = fetch(PACKAGE, SDIST, SHA256, Path(temporary), "The book")
            with tarfile.open(sdist) as archive:
                for name, inside in TEXTS.items():
                    member = archive.extractfile(f"{SDIST.removesuffix('.tar.gz')}/tests/testdata/{inside}")
                    (folder / name).write_bytes(member.read())
    return folder


@click.command(help=__doc__.split("\n")[0])
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--chunks", default=8, show_default=True, help="Of the book, from its beginning.")
@click.option("--chunk-tokens", default=512, show_default=True)
@click.option("--learn-epochs", default=8, show_default=True, help="Passes in which the model learns them.")
@click.option("--learn-lr", default=2e-4, show_default=True)
@click.option("--methods", default=METHODS, show_default=True)
@click.option("--epochs", default=6, show_default=True, help="Passes of the unlearning.")
@click.option("--strengthen-epochs", default=5, show_default=True)
@click.option("--lr", default=5e-5, show_default=True, help="Of the unlearning.")
@click.option("--batch-size", default=4, show_default=True, help="Chunks per step.")
@click.option("--bf16/--no-bf16", default=None, help="Compute in bfloat16. Default: on a GPU that has it.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/book", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(out: Path, results: Path, **settings) -> None:
    folder = texts(out / "texts")
    found = bench(
        "book",
        ProgressBars(),
        book=str(folder / "alice.txt"),
        elsewhere=str(folder / "elsewhere.txt"),
        out=str(out),
        **settings,
    )
    seconds = {
        path.parent.name: json.loads(path.read_text())["seconds"] for path in sorted(out.glob("cells/*/*/*/cell.json"))
    }
    body = (out / "book.md").read_text().partition("\n\n")[2].strip()  # under a title of its own
    result = {"settings": settings, "figures": list(found.rows), "seconds": seconds}
    write(results, "forget_alice", "Forgetting a book, SmolLM2-135M", "python -m benchmarks.forget_alice", result, body)
    print(*found.files, *found.notes, sep="\n")


if __name__ == "__main__":
    main()
