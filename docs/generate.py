"""Writes the parts of the documentation that are made from the code; ``--check`` says whether they are up to date."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- made by docs/generate.py"


def first_line(path: Path) -> str:
    """The first line of a Python file's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (doc or "").partition("\n")[0].rstrip(".")


def file_map() -> str:
    """One line for each source file, folder by folder."""
    lines = ["```"]
    for root in ("src/rkld", "benchmarks"):
        lines.append(f"{root}/")
        paths = [path.relative_to(ROOT / root) for path in (ROOT / root).rglob("*.py")]
        for path in sorted(paths, key=lambda path: (len(path.parts) > 1, path.as_posix())):
            lines.append(f"  {path.as_posix():<42} {first_line(ROOT / root / path)}".rstrip())
    return "\n".join([*lines, "```"])


PARTS = {"docs/architecture.md": [("## Files", file_map)]}
"""Document → (heading, what makes the text below its mark, up to the next heading)."""


def generated(document: str) -> str:
    """The document as it should be."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for heading, make in PARTS[document]:
        before, found, rest = text.partition(f"{heading}\n")
        if not found:
            raise SystemExit(f"{document}: there is no heading '{heading}'")
        mark, _, body = rest.lstrip("\n").partition("\n")
        if not mark.startswith(MARK):
            raise SystemExit(f"{document}: no mark stands below '{heading}'")
        _, following, after = body.partition("\n## ")
        text = f"{before}{found}\n{mark}\n{make()}\n" + (f"\n## {after}" if following else "")
    return text


def main() -> None:
    stale = [document for document in PARTS if (ROOT / document).read_text(encoding="utf-8") != generated(document)]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"not up to date: {', '.join(stale)}. Run: python docs/generate.py")
        return
    for document in stale:
        (ROOT / document).write_text(generated(document), encoding="utf-8")
        print(document)


if __name__ == "__main__":
    main()
