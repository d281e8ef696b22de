"""The documentation as a site: built without a warning, so that every link and anchor leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_every_page_is_in_the_menu() -> None:
    """And the menu names no page that is not there."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"]))
    assert sorted(named) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_list_is_one_on_the_site(page: str) -> None:
    """Python-Markdown needs an empty line before it, and four spaces where it stands in another list."""
    text = re.sub(r"^( *)```.*?^\1```", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.S | re.M)
    for paragraph in re.split(r"\n\s*\n", text):
        first, *rest = paragraph.splitlines() or [""]
        item = re.match(r"\s*(?:[-*]|\d+\.) ", first)
        assert item or not any(re.match(r"\s*[-*] ", line) for line in rest), f"no empty line before a list: {first}"
        assert not re.match(r" {1,3}\S", first), f"less than four spaces before what belongs to a list: {first}"


@pytest.fixture
def hook() -> Any:
    pytest.importorskip("mkdocs", reason="needs mkdocs-material (the extra docs)")
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "site_hook.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_a_link_out_of_the_repository_is_refused(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there would be published with the site."""
    secret, root = tmp_path / "secret.md", tmp_path / "repository"
    (root / "docs").mkdir(parents=True)
    secret.write_text("secret")
    (root / "link.md").symlink_to(secret)
    monkeypatch.setattr(hook, "ROOT", root)
    monkeypatch.setattr(hook, "DOCS", root / "docs")
    pages = SimpleNamespace(documentation_pages=lambda: [SimpleNamespace(src_uri="page.md")])
    for link in ("../../secret.md", "../link.md"):
        (root / "docs" / "page.md").write_text(f"[a]({link})")
        with pytest.raises(Exception, match="leads out of the repository"):
            hook.on_files(pages, None)


def test_a_link_of_the_repository_leads_to_the_same_on_the_site(hook: Any) -> None:
    links = {
        "[a](../method.md#precision)": "[a](../method.md#precision)",
        "[a](../../README.md#two-commands)": "[a](../repository/README.md#two-commands)",
        "![a](../../benchmarks/results/bench_methods.md)": "![a](../repository/benchmarks/results/bench_methods.md)",
        "[![b](../report.png)](../../LICENSE)": "[![b](../report.png)](../repository/LICENSE)",
        "[examples](../../examples)": "`examples/`",
        "[a](https://example.org/x)": "[a](https://example.org/x)",
        "[a](#here)": "[a](#here)",
    }
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/audit.md"))
    assert {link: hook.on_page_markdown(link, page, None, None) for link in links} == links
    page = SimpleNamespace(file=SimpleNamespace(src_uri="repository/README.md"))
    assert hook.on_page_markdown("[a](docs/method.md)", page, None, None) == "[a](../method.md)"


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
