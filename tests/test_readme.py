"""The README is the map of the house."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_source_file_has_its_line():
    """A file that nobody can find from the README, or a line for a file that is gone."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Where things are")[1]
    listed = {line.split()[0] for line in section.splitlines() if line.startswith("  ")}
    for folder in ("src/rkld", "benchmarks"):
        files = {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}
        assert not files - listed, f"not in the README: {sorted(files - listed)}"
    known = {p.relative_to(ROOT / f).as_posix() for f in ("src/rkld", "benchmarks") for p in (ROOT / f).rglob("*.py")}
    assert not {name for name in listed if name.endswith(".py")} - known
