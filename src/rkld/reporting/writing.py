"""``rkld report``: the page, its PDF and what machines read, written into the folder of a run or an audit.

A page stays only as long as it is made of the audit and the manifest that lie beside it (:func:`misfits`). A page
ends in its own fingerprint and in that of what it was made of; a PDF in these of the page that it was printed from, and
in its own: what does not is not rkld's, or not any more, and is never deleted. Before it is signed a page is made again
and compared byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rkld.errors import UserError
from rkld.files import make_own_folder, new_file, read_bounded, write_json, write_text
from rkld.reporting.bom import BOM, bill_of_materials
from rkld.reporting.page import command_line, page
from rkld.reporting.run import Run, as_rkld_writes, read_run
from rkld.reporting.sections import chosen
from rkld.reporting.statement import statement
from rkld.runfolder.folder import SHOWN
from rkld.runfolder.lock import MODEL, hold
from rkld.runfolder.manifest import AUDIT, MANIFEST, REPORT, STATEMENT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
"""Programs that can print a page, whichever is installed."""

PRINT_SECONDS = 120

OTHERWISE = "is not the page that rkld makes here of this audit and manifest"

CHANGED = "was not written by rkld report, or was changed since"

PDF = "report.pdf"

OWN_PAGE = re.compile(rf"{SHOWN}/(report|person-([0-9]{{1,6}}))(-redacted)?\.(?:html|pdf)", re.ASCII)
"""Names of pages that show records, or are one person's."""

LARGEST_PDF = 512 * 1024**2
"""Bytes of a PDF that is looked into."""

_PAGE_MARK = re.compile(rb"<!-- rkld page ([0-9a-f]{64}) of ([0-9a-f]{64}) -->\n\Z")
"""The last line of a page: the fingerprints of all before it, and of what it was made of (:func:`_made_of`)."""

_MARK = re.compile(
    rb"%rkld page ([0-9a-f]{64}) of ([0-9a-f]{64}) pdf ([0-9a-f]{64})\n(?:startxref\s+[0-9]+\s+)?%%EOF\s*\Z"
)
"""A comment of PDF before the last lines that it must have: the fingerprint of the page, of what that was made
of, and of all before it."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        page: the page; pdf: the same on paper, where it was asked for.
        others: what machines read.
        shows: whether texts of records are in it, so that it is personal data.
        deleted: pages of before, which were not made of what lies in the folder now.
        left: what lies where pages do and is not deleted, as rkld did not make it as it is, and why that is known.
    """

    page: Path
    pdf: Path | None = None
    others: tuple[Path, ...] = field(default=())
    shows: bool = False
    deleted: tuple[Path, ...] = ()
    left: tuple[tuple[Path, str], ...] = ()


def write_report(
    folder: str | Path, *, show_records: bool = False, subject: str | None = None, pdf: bool = False
) -> Written:
    """Write the report of a run or an audit into its folder.

    ``report.html``, ``report.json`` (:func:`rkld.reporting.statement.statement`) and a bill of materials of the model.
    With the records' texts, or of one person, the page goes into a folder of its own that a purge removes. Pages of
    before that are not made of the audit and the manifest as they are now make way: ``report.html`` is written anew,
    others are deleted. What others put there, or changed, stays, but for the page that is asked for.

    Args:
        show_records: with what was asked and said.
        subject: of one person of several, with nothing about the others.
        pdf: also as a PDF, printed by an installed Chromium.

    Raises:
        UserError: neither a run's folder nor an audit's; damaged; no such person, or a blank name; no text of a record
            to show; no browser for the PDF.
    """
    folder = Path(folder)
    if subject is not None and not subject.strip():  # such as a variable of the shell that is not set
        raise UserError("--subject is blank: give a person's name as in the records, or leave it out for all.")
    browser = find_browser() if pdf else None  # before anything is written
    read_run(folder)  # what is none of ours is not touched
    with hold(folder, marks=(MANIFEST, AUDIT), shared=True):
        run = read_run(folder)
        with as_rkld_writes(folder):
            person = chosen(run, subject).name if subject else ""
        if show_records and (reason := _without_texts(run)):
            raise UserError(f"{folder}: --show-records has nothing to show: {reason}. Leave it out.")
        wanted = _Page(show_records, person, pdf)
        made_of = _made_of(run)
        html, apart = _made(run, wanted, made_of), show_records or bool(person)
        at, others = folder / REPORT, tuple[Path, ...]()
        if apart:
            at = folder / SHOWN / f"{person.replace(' ', '-') or 'report'}{'' if show_records else '-redacted'}.html"
        now = [at, *([at.with_suffix(".pdf")] if pdf else [])]
        found = misfits(folder, [name for name in _pages(folder) if folder / name not in now], again=False)
        stale = [name for name in found if _is_ours(folder, name)]
        for name in (deleted := [name for name in stale if name != REPORT]):
            (folder / name).unlink()
        if apart:
            make_own_folder(folder / SHOWN)
            others = _anew(run, made_of) if REPORT in stale else ()
        write_text(at, html)
        printed = _print(browser, at) if browser else None
        others = others if apart else _for_machines(run)
    left = tuple((folder / name, why) for name, why in found.items() if name not in stale)
    return Written(at, printed, others, bool(show_records), tuple(folder / name for name in deleted), left)


def _anew(run: Run, made_of: Callable[[_Page], str]) -> tuple[Path, ...]:
    """``report.html`` and what machines read, where a page that was not asked for takes the place of a stale one."""
    write_text(run.folder / REPORT, _made(run, _Page(), made_of))
    return (run.folder / REPORT, *_for_machines(run))


def _without_texts(run: Run) -> str:
    """Why no record can be shown; "" where some can."""
    texts = (run.audit or {}).get("texts")
    if isinstance(texts, dict) and (texts.get("records") or texts.get("said")):
        return ""
    if "purged" in run.manifest:
        return "it was purged, so no text of a record is left"
    return "its audit holds no texts: it was redacted or purged" if run.audit else "it was not audited"


def _for_machines(run: Run) -> tuple[Path, ...]:
    """After the page, whose fingerprint is in the statement."""
    written = []
    if (run.folder / MODEL).is_dir():
        write_json(run.folder / BOM, bill_of_materials(run.folder))
        written.append(run.folder / BOM)
    write_json(run.folder / STATEMENT, statement(run.folder))
    return (*written, run.folder / STATEMENT)


# Made of what lies there


class _Page(NamedTuple):
    """What a page was asked to be."""

    show: bool = False
    person: str = ""
    pdf: bool = False


def _made(run: Run, wanted: _Page, made_of: Callable[[_Page], str]) -> str:
    """The page, byte for byte as it is written."""
    given = [*(["--show-records"] if wanted.show else []), *(["--pdf"] if wanted.pdf else [])]
    named = [*(["--subject", wanted.person] if wanted.person else [])]  # by no name: the page may be handed on
    command = command_line("rkld", "report", "RUN", *given, *named)
    html = page(run, show_records=wanted.show, subject=wanted.person or None, command=command)
    html += "" if html.endswith("\n") else "\n"
    return f"{html}<!-- rkld page {_sha256(html.encode())} of {made_of(wanted)} -->\n"


def _made_of(run: Run) -> Callable[[_Page], str]:
    """The fingerprint of all that a page is made of, by what it was asked to be."""
    known = json.dumps([version("rkld"), run.audit, run.manifest, list(run.checks), run.changed])
    all_of_it = _sha256(known.encode())  # in their order, which a page may follow
    return lambda wanted: _sha256(json.dumps([all_of_it, *wanted]).encode())


def _written_of(content: bytes) -> str | None:
    """The fingerprint of what a page was made of; None of one that rkld did not write, or that was changed since."""
    mark = _PAGE_MARK.search(content, max(0, len(content) - 1000))
    if mark is None or mark[1].decode() != _sha256(content[: mark.start()]):
        return None
    return mark[2].decode()


def misfits(folder: Path, names: Sequence[str] | None = None, *, again: bool = True) -> dict[str, str]:
    """Pages in a folder that are not made of its audit and manifest as they are now: name → what is wrong, few words.

    Args:
        names: of those alone.
        again: make each page again, and compare it byte for byte: its mark anybody can write. That takes seconds a page
            where there are many people.

    Raises:
        UserError: the folder is neither a run's nor an audit's, or damaged.
    """
    run = read_run(folder)
    made_of = _made_of(run)

    @cache
    def fingerprint(wanted: _Page) -> str | None:
        """None of a page that cannot be made any more: of nobody in the audit, or of texts that are gone."""
        try:
            return None if wanted.show and _without_texts(run) else _sha256(_made(run, wanted, made_of).encode())
        except UserError:
            return None

    found = {}
    for name in _pages(folder) if names is None else names:
        if (asked := _asked(name)) is None:
            found[name] = "is no page that rkld writes there"
            continue
        try:
            content = read_bounded(folder / name, LARGEST_PDF)
        except OSError as error:
            found[name] = f"cannot be read ({error.strerror})"
            continue
        with_pdf = asked._replace(pdf=True)
        if not name.endswith(".pdf"):
            if (of := _written_of(content)) is None:
                found[name] = CHANGED
            elif of not in (ours := {made_of(one): one for one in (asked, with_pdf)}):
                found[name] = "is not made of this audit and manifest"
            elif again and _sha256(content) != fingerprint(ours[of]):
                found[name] = OTHERWISE
        elif (printed := _printed_from(content)) is None:
            found[name] = "was not printed by rkld report --pdf, or was changed since"
        elif printed.of != made_of(with_pdf):
            found[name] = "is not printed from a page of this audit and manifest"
        elif again and printed.page != fingerprint(with_pdf):
            found[name] = OTHERWISE
    return found


def _asked(name: str) -> _Page | None:
    """What a page in a folder was asked to be, by its name; None where it is none that rkld writes."""
    if name in (REPORT, PDF):
        return _Page()
    own = OWN_PAGE.fullmatch(name)
    if own is None or (own[1] == "report" and own[3]):
        return None
    return _Page(show=not own[3], person=f"person {own[2]}" if own[2] else "")


def _pages(folder: Path) -> list[str]:
    """Everything that lies where pages do, hidden files left out."""
    shown = folder / SHOWN
    inner = sorted(shown.rglob("*")) if shown.is_dir() and not shown.is_symlink() else []
    names = [path.relative_to(folder).as_posix() for path in inner if not path.name.startswith(".")]
    return [*(name for name in (REPORT, PDF) if os.path.lexists(folder / name)), *names]


def _is_ours(folder: Path, name: str) -> bool:
    """Whether a page is as rkld wrote it. Whatever is not may be somebody's work: it stays, unsigned."""
    try:
        content = read_bounded(folder / name, LARGEST_PDF)
    except OSError:  # a link, a folder
        return False
    pdf = name.endswith(".pdf")
    return _asked(name) is not None and (_printed_from if pdf else _written_of)(content) is not None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# PDF


def _mark(pdf: Path, html: Path) -> None:
    """Have a PDF say which page it is of, in a comment that changes nothing on paper."""
    content, page = pdf.read_bytes(), html.read_bytes()
    whole = content if content.endswith(b"\n") else content + b"\n"
    last = whole.rfind(b"startxref")  # what a PDF must end in stands there once more
    end = whole[last:] if last >= 0 else b"%%EOF\n"
    pdf.write_bytes(whole + f"%rkld page {_sha256(page)} of {_written_of(page)} pdf {_sha256(whole)}\n".encode() + end)


class _Printed(NamedTuple):
    """Fingerprints of the page that a PDF was printed from, and of what that was made of."""

    page: str
    of: str


def _printed_from(content: bytes) -> _Printed | None:
    """What a PDF says of the page that it was printed from; None where it says nothing or was changed."""
    start = max(0, len(content) - 1000)
    mark = _MARK.search(content[start:])
    if mark is None or mark[3].decode() != _sha256(content[: start + mark.start()]):
        return None
    return _Printed(mark[1].decode(), mark[2].decode())


def find_browser() -> str:
    """An installed Chromium.

    Raises:
        UserError: there is none.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise UserError(
        f"--pdf needs a Chromium to print the page ({', '.join(BROWSERS[:3])} …), and none is on the PATH. Install "
        "one, or open report.html in any browser and print it."
    )


def _print(browser: str, html: Path) -> Path:
    pdf = html.with_suffix(".pdf")
    with tempfile.TemporaryDirectory() as profile, new_file(pdf) as new:
        command = [
            browser, "--headless", "--disable-gpu", "--no-first-run", "--disable-extensions",
            f"--user-data-dir={profile}", "--no-pdf-header-footer",
            f"--print-to-pdf={new.resolve()}", html.resolve().as_uri(),
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium has no sandbox for root
            command.insert(1, "--no-sandbox")
        try:
            done = subprocess.run(command, capture_output=True, timeout=PRINT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(
                f"--pdf: {browser} did not print the page ({type(error).__name__}); {html} is written."
            ) from None
        if done.returncode or not new.stat().st_size:
            raise UserError(
                f"--pdf: {browser} did not print the page (exit code {done.returncode}); {html} is written."
            )
        _mark(new, html)
    return pdf
