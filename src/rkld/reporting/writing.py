"""``rkld report``: the page, its PDF and what machines read, written into the folder of a run or an audit."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rkld.errors import UserError
from rkld.files import make_own_folder, new_file, write_json, write_text
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


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        page: the page; pdf: the same on paper, where it was asked for.
        others: what machines read.
        shows: whether texts of records are in it, so that it is personal data.
    """

    page: Path
    pdf: Path | None = None
    others: tuple[Path, ...] = field(default=())
    shows: bool = False


def write_report(
    folder: str | Path, *, show_records: bool = False, subject: str | None = None, pdf: bool = False
) -> Written:
    """Write the report of a run or an audit into its folder.

    ``report.html``, ``report.json`` (:func:`rkld.reporting.statement.statement`) and a bill of materials of the model.
    With the records' texts, or of one person, the page goes into a folder of its own that a purge removes.

    Args:
        show_records: with what was asked and said.
        subject: of one person of several, with nothing about the others.
        pdf: also as a PDF, printed by an installed Chromium.

    Raises:
        UserError: neither a run's folder nor an audit's; damaged; no such person; no browser for the PDF.
    """
    folder = Path(folder)
    browser = find_browser() if pdf else None  # before anything is written
    run = read_run(folder)
    given = [*(["--show-records"] if show_records else []), *(["--pdf"] if pdf else [])]
    with as_rkld_writes(folder):
        person = chosen(run, subject).name if subject else ""
    named = [*(["--subject", person] if person else [])]  # by no name: the page may be handed on
    command = command_line("rkld", "report", "RUN", *given, *named)
    html = page(run, show_records=show_records, subject=subject, command=command)
    with hold(folder, marks=(MANIFEST, AUDIT), shared=True):
        at = folder / REPORT
        if show_records or person:
            make_own_folder(folder / SHOWN)
            at = folder / SHOWN / f"{person.replace(' ', '-') or 'report'}{'' if show_records else '-redacted'}.html"
        write_text(at, html)
        printed = _print(browser, at) if browser else None
        others = () if show_records or person else _for_machines(run)
    return Written(at, printed, others, bool(show_records))


def _for_machines(run: Run) -> tuple[Path, ...]:
    """After the page, whose fingerprint is in the statement."""
    written = []
    if (run.folder / MODEL).is_dir():
        write_json(run.folder / BOM, bill_of_materials(run.folder))
        written.append(run.folder / BOM)
    write_json(run.folder / STATEMENT, statement(run.folder))
    return (*written, run.folder / STATEMENT)


# PDF


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
    return pdf
