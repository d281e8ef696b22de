"""Writes the parts of the documentation that are made from the code; ``--check`` says whether they are up to date."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]

import forgetting  # noqa: E402
import interfaces  # noqa: E402

from rkld.registry import catalogue  # noqa: E402
from rkld.settings.auditing import AuditSettings  # noqa: E402
from rkld.settings.comparing import CompareSettings  # noqa: E402
from rkld.settings.discovering import DiscoverSettings  # noqa: E402
from rkld.settings.specification import Spec, flag  # noqa: E402
from rkld.settings.table import specs  # noqa: E402
from rkld.settings.unlearning import Settings  # noqa: E402

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


# Settings


def settings_reference(cls: type) -> str:
    """A table for each group of settings."""
    groups: dict[str, list[Spec]] = {}
    for spec in specs(cls).values():
        groups.setdefault(spec.group, []).append(spec)
    return "\n\n".join(f"### {group}\n\n{_table(found)}" for group, found in groups.items())


def _table(found: Sequence[Spec]) -> str:
    lines = ["| setting | default | values | affects | meaning |", "|---|---|---|---|---|"]
    for spec in found:
        cells = (f"`{flag(spec.name)}`", _default(spec), _values(spec), spec.affects, _meaning(spec))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _default(spec: Spec) -> str:
    if spec.default in (None, "", ()):
        return ""
    if isinstance(spec.default, bool):
        return "yes" if spec.default else "no"
    return f"`{', '.join(spec.default) if isinstance(spec.default, tuple) else spec.default}`"


def _values(spec: Spec) -> str:
    if spec.type is bool:
        return "yes, no"
    if spec.choices:
        return ", ".join(f"`{value}`" for value in spec.choices)
    if spec.type not in (int, float):
        *others, last = (f"`{name}`" for name in (spec.metavar or "").split("|"))
        shown = f"{', '.join(others)} or {last}" if others else last
        return f"{'texts' if spec.type is tuple else 'text'} {shown if spec.metavar else ''}".strip()
    parts = [{int: "whole number", float: "number"}[spec.type]]
    if spec.low is not None:
        parts.append(f"{'above' if spec.exclusive != 'none' else 'from'} {spec.low}")
    if spec.high is not None and spec.high != math.inf:
        parts.append(f"{'below' if spec.exclusive == 'both' else 'to'} {spec.high}")
    return " ".join(parts) + (f", {spec.unit}" if spec.unit else "")


def _meaning(spec: Spec) -> str:
    meanings = "; ".join(f"`{value}`: {meaning}" for value, meaning in (spec.choices or {}).items() if meaning)
    names = ", ".join(f"`{name}`" for name in catalogue(spec.entries)) if spec.entries else ""
    return " ".join(
        part for part in (spec.help, f"{meanings}." * bool(meanings), f"Registered: {names}." * bool(names)) if part
    )


# Keywords of the Python functions

KEYWORDS = (
    (
        "UnlearnKeywords",
        Settings,
        ("model", "forget", "retain", "replay", "holdout", "control"),
        (),
        "Keywords of :func:`rkld.unlearn`, :func:`rkld.check` and :func:`rkld.continual` beside records and models.",
    ),
    (
        "AuditKeywords",
        AuditSettings,
        ("model", "forget"),
        ("holdout", "retain", "neighbours", "real_authors", "world_facts", "probes", "original", "control"),
        "Keywords of :func:`rkld.audit` beside the model and the forget records.",
    ),
    (
        "DiscoverKeywords",
        DiscoverSettings,
        ("model", "subject", "out", "review"),
        (),
        "Keywords of :func:`rkld.discover` beside the model and the person's name.",
    ),
)
"""Name, settings, those that the functions name themselves, those that may be objects as well, docstring."""


def keywords() -> str:
    """The source of ``rkld/settings/typed.py``."""
    lines = [
        '"""Keywords of the Python functions with their types, so that editors complete and type checkers check them.',
        "",
        "Made by docs/generate.py from the table of settings.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Sequence",
        "from os import PathLike",
        "from typing import Any, Literal, TypedDict",
    ]
    for name, cls, named, objects, doc in KEYWORDS:
        lines += ["", "", f"class {name}(TypedDict, total=False):", f'    """{doc}"""', ""]
        for spec in specs(cls).values():
            if spec.name not in named:
                lines += [f"    {spec.name}: {'Any' if spec.name in objects else _annotation(spec)}"]
                lines += [f'    """{line}"""' for line in [_meaning_of_keyword(spec)] if len(line) <= 110]
    return "\n".join(lines) + "\n"


def _meaning_of_keyword(spec: Spec) -> str:
    return spec.help.partition(". ")[0].rstrip(".") + "."


def _annotation(spec: Spec) -> str:
    path = " | PathLike[str]" if spec.takes_paths else ""
    if spec.choices:
        found = f"Literal[{', '.join(chr(34) + value + chr(34) for value in spec.choices)}]"
    elif spec.type is tuple:
        found = f"str{path} | Sequence[str{path}]"
    else:
        found = spec.type.__name__ + path
    return found + (" | None" if spec.optional else "")


# Attacks


def attacks() -> str:
    """A table of the registered attacks, by what their classes state; nothing is imported, for that takes seconds."""
    classes = {
        node.name: node
        for path in sorted((ROOT / "src/rkld/auditing/attacks").glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    registered = {name: _stated(node, classes) for node in classes.values() for name in _names(node)}
    lines = ["| `--attacks` | what it does | needs | costs, for each model | source |", "|---|---|---|---|---|"]
    for name, stated in sorted(registered.items()):
        if lacking := [field for field in ("title", "needs", "cost", "source") if not stated.get(field)]:
            sys.exit(
                f'the attack {name} does not state {", ".join(lacking)}: give each a line, NAME = "…", in its class'
            )
        shown = f"`{name}`" + (" (standard)" if stated.get("standard") else "")
        needs = f"{'the weights' if stated.get('weights', True) else 'answers'}; {stated['needs']}"
        lines.append(f"| {shown} | {stated['title']} | {needs} | {stated['cost']} | {stated['source']} |")
    return "\n".join(lines)


def _stated(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, object]:
    """``name = constant`` in the body of a class, or of those of ``classes`` that it is built on."""
    found: dict[str, object] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= _stated(classes[base.id], classes)
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            found |= {target.id: line.value.value for target in line.targets if isinstance(target, ast.Name)}
    return found


def _names(node: ast.ClassDef) -> list[str]:
    """By which a decorator registers the class."""
    calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
    return [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]


PARTS: dict[str, list[tuple[str, Callable[[], str]]]] = {
    "docs/architecture.md": [("## Files", file_map)],
    "docs/forgotten.md": [
        ("## The figures", forgetting.forgetting),
        ("## Beside other methods", forgetting.other_methods),
    ],
    "docs/reference/attacks.md": [("## All of them", attacks)],
    "docs/reference/benchmarks.md": [("## Which there are", lambda: interfaces.benchmarks(_table))],
    "docs/reference/commands.md": [("## All of them", interfaces.commands)],
    "docs/reference/files.md": [
        ("## The request form", interfaces.request_fields),
        ("## audit.json", interfaces.audit_fields),
    ],
    "docs/reference/metrics.md": [
        ("## All of them", interfaces.metrics),
        ("## What a metric is made of", interfaces.reading_columns),
    ],
    "docs/reference/python.md": [("## Public names", interfaces.python)],
    "docs/reference/stopping-rules.md": [("## All of them", interfaces.stopping_rules)],
    "docs/reference/settings.md": [
        ("## rkld unlearn, check and bench continual", lambda: settings_reference(Settings)),
        ("## rkld audit", lambda: settings_reference(AuditSettings)),
        ("## rkld compare", lambda: settings_reference(CompareSettings)),
        ("## rkld discover", lambda: settings_reference(DiscoverSettings)),
    ],
}
"""Document → (heading, what makes the text below its mark, up to the next heading)."""


WHOLE = {"src/rkld/settings/typed.py": keywords}
"""File → what makes all of it."""


def generated(document: str) -> str:
    """The document as it should be."""
    if document in WHOLE:
        return WHOLE[document]()
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
    documents = [*WHOLE, *PARTS]  # the map of files has the files that are made
    stale = [document for document in documents if _there(document) != generated(document)]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"not up to date: {', '.join(stale)}. Run: python docs/generate.py")
        return
    for document in stale:
        (ROOT / document).write_text(generated(document), encoding="utf-8")
        print(document)


def _there(document: str) -> str:
    path = ROOT / document
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
