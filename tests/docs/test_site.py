"""The documentation as a site: built without a warning, so that every link and anchor leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_every_page_is_in_the_menu() -> None:
    """And the menu names no page that is not there."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"]))
    assert sorted(named) == PAGES


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs mkdocs-material (the extra docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
def test_it_is_built_without_a_warning(site: Path) -> None:
    for page in PAGES:
        assert (site / page).with_suffix(".html").exists(), page


@pytest.mark.slow
def test_what_pages_lead_to_outside_of_docs_goes_along(site: Path) -> None:
    assert (site / "repository/index.html").exists()
    assert (site / "repository/benchmarks/results/stopping.html").exists()
    assert "repository/index.html" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\s\">]+)", text)
        links = re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*>", text)
        fetched += [link for link in links if re.search(r"href=\"?https?:", link)]
        assert not fetched, f"{page.relative_to(site)}: {fetched}"
