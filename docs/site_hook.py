"""For mkdocs: what pages link to outside of ``docs/`` goes along, so that one link serves repository and site.

A Markdown file (the README, a table of results) becomes a page below ``repository/``, which no menu shows; any other
file is copied. Links to folders become the folder's path as code, for there is nothing to open on a site.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
"""(what is shown, where it leads); a picture may be what is shown."""


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside of ``docs/`` that a page leads to, and those that these lead to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    known: set[Path] = set()
    while waiting:
        for found in linked(waiting.pop()):
            if found in known or not found.is_file() or found.is_relative_to(DOCS):
                continue
            if not found.resolve().is_relative_to(ROOT):
                raise PluginError(f"a link leads out of the repository: {found}. Give the address of what it leads to.")
            known.add(found)
            page = File.generated(config, uri(found), abs_src_path=str(found), inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(page)
            if found.suffix == ".md":
                waiting.append(found)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as they stand in the repository, made to lead to the same on the site."""
    here = source(page.file.src_uri)

    def mended(match: re.Match[str]) -> str:
        shown, target = match[1], match[2]
        if "](" in shown:
            shown = LINK.sub(mended, shown)
        if re.match(r"[a-z]+:|#", target):
            return f"[{shown}]({target})"
        file, mark, anchor = target.partition("#")
        found = Path(os.path.normpath(here.parent / file))
        if found.is_dir():
            return f"`{found.relative_to(ROOT).as_posix()}/`"
        return f"[{shown}]({os.path.relpath(uri(found), Path(page.file.src_uri).parent)}{mark}{anchor})"

    return LINK.sub(mended, markdown)


def linked(page: Path) -> Iterator[Path]:
    """The files that a page leads to or shows."""
    for _, target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            yield Path(os.path.normpath(page.parent / target.partition("#")[0]))


def uri(path: Path) -> str:
    """Where a file of the repository stands on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}"


def source(src_uri: str) -> Path:
    """The file of the repository that a page of the site is made of."""
    inner = src_uri.removeprefix("repository/")
    return (ROOT if inner != src_uri else DOCS) / inner
