"""``rkld discover``: what a model associates with a person, as a table, a page to mark, and records to forget."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rkld.calling import command, has_screen
from rkld.discovering.findings import ASSOCIATED, COMMON, Discovery, Finding, limit_of
from rkld.discovering.running import discover, people, topics_for
from rkld.errors import UserError
from rkld.files import check_new_file, write_jsonl
from rkld.progress import NoProgress
from rkld.settings.discovering import DiscoverSettings
from rkld.text.printable import printable

UNDECIDED = 10
"""Values of the third label that are shown: the rest are in the review."""


def write_discovery(settings: DiscoverSettings, progress: NoProgress) -> Discovery:
    """Discover, print, write the records, and have them reviewed where that is asked for.

    Raises:
        UserError: ``out`` exists already or cannot be written; as of :func:`rkld.discover`.
    """
    out = Path(settings.out)
    check_new_file(out)
    if not settings.model:
        raise UserError("MODEL is missing: rkld discover MODEL --subject 'Jane Doe'.")
    topics_for(settings, people(settings))  # refused before a model is loaded
    names = ("model", "subject", "out", "review")
    others: dict[str, Any] = {name: value for name, value in vars(settings).items() if name not in names}
    found = discover(settings.model, settings.subject, progress=progress, **others)
    print_discovery(found)
    if settings.subject.islower():
        click.echo(
            "The name was asked for in small letters. Most models know people by their capitals: try it with them."
        )
    records = found.records()
    if records:
        write_jsonl(out, records)
    if settings.review:
        records = _reviewed(found, out)
    _print_next(settings, out, records, found)
    return found


def _reviewed(found: Discovery, out: Path) -> list[dict[str, Any]]:
    from rkld.discovering.review_server import review

    def show(address: str) -> None:
        click.echo(f"\nReview, for this machine alone, until it is saved (Ctrl-C leaves it):\n{address}")
        sys.stdout.flush()
        if has_screen():
            webbrowser.open(address)
        else:
            click.echo("There is no screen here: open it in a browser of this machine.", err=True)

    try:
        return review(found, out, show)
    except KeyboardInterrupt:
        click.echo("\nLeft without a review.", err=True)
        return found.records()


def _print_next(settings: DiscoverSettings, out: Path, records: Sequence[Any], found: Discovery) -> None:
    if not records:
        click.echo("\nNo records were written.")
        return
    click.echo(f"\n{len(records)} records in {out}. It holds personal data.")
    # Whom everybody knows the model has read of, in many words: what must go are the facts, in its own words, too.
    read_of = ["--score", "spans", "--own-words"] if settings.kind == "public" else []
    faster = ["--bf16"] if found.faster_in_bf16 else []
    parts = ["unlearn", settings.model, "--forget", str(out), "--subject", settings.subject]
    parts += read_of + faster
    click.echo(f"Forget them:  {command(*parts, '--out', f'runs/{out.stem}')}")


def print_discovery(found: Discovery) -> None:
    """The findings by label, each with its intervals; then what was not found, and how to read it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    decided = [one for one in found.findings if one.label in (ASSOCIATED, COMMON)]
    others = [one for one in found.findings if one.label not in (ASSOCIATED, COMMON)]
    others.sort(key=lambda one: -one.said.count)  # what is said often must be read first
    for title, some in (("", decided), ("not told from what is made up for anybody", others[:UNDECIDED])):
        if not some:
            continue
        table = Table(title=title)
        for head in ("topic", "value", "label", "as strong: similar names", "as likely", "said in answers"):
            table.add_column(head, overflow="fold")  # whole, that it can be judged
        for one in some:
            table.add_row(*_cells(one))
        console.print(table, markup=False)
    if not found.labelled(ASSOCIATED):
        click.echo(found.limit())
    if found.undecided:
        topics = ", ".join(map(printable, found.undecided))
        click.echo(f"answered, and nothing told from what is made up for anybody; ask yourself: {topics}")
    if found.not_found:
        parts = ", ".join(f"{printable(topic)} (limit {limit_of(n)} at {n})" for topic, n in found.not_found.items())
        click.echo(f"not found (limit 3/N at N questions): {parts}")
    for line in found.described():
        click.echo(line)
    click.echo("No label says whether a value is true; --review is for marking that.")


def _cells(one: Finding) -> tuple[Any, ...]:
    from rich.text import Text

    likely = str(one.likely) if one.likely.of else "–"
    cells = (one.topic, one.value, one.label, one.beside_names, likely, str(one.said))
    return tuple(Text(printable(cell)) for cell in cells)
