"""The table of docs/forgotten.md: what is said in wordings that no step had seen, of every case that was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interfaces import table

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


@dataclass(frozen=True)
class Case:
    """A column of a result of ``benchmarks.wordings``."""

    title: str
    file: str
    group: str
    way: str


CASES = (
    Case("tiny world, four people in two worlds", "wordings_tiny", "tiny", "defaults"),
    Case("one of six employees", "wordings_employees", "employees", "defaults"),
    Case("four of LUME's people", "wordings_lume", "lume", "defaults"),
    Case("TOFU's pair 2", "wordings_tofu", "tofu, choosing", "defaults"),
    Case("TOFU's pair 3", "wordings_tofu_pair3_bf16_ends", "tofu", "defaults"),
    Case("TOFU's pair 4", "wordings_tofu_pair4_bf16", "tofu", "defaults"),
    Case("tiny world, others' questions as `--replay`", "wordings_tiny", "tiny", "retain prompts"),
    Case("employees, others' questions as `--replay`", "wordings_employees", "employees", "retain prompts"),
    Case("employees, `--base` and others' questions", "wordings_employees", "employees", "base vector"),
    Case("TOFU's pair 2, `--base` and others' questions", "wordings_tofu", "tofu, choosing", "base vector"),
    Case("TOFU's pair 3, `--base` and others' questions", "wordings_tofu_pair3_bf16", "tofu", "base vector"),
    Case("TOFU's pair 4, `--base` and others' questions", "wordings_tofu_pair4_bf16", "tofu", "base vector"),
)

OTHERS = (
    ("the defaults", "defaults", (4, 3)),
    ("the defaults, others' questions as `--replay`", "retain prompts", (4,)),
    ("RKLD as published, beside this replay and the same rewordings", "published, retain prompts", (4, 3)),
    ("NPO, likewise", "npo, retain prompts", (4,)),
    ("SimNPO, likewise", "simnpo, retain prompts", (4,)),
    ("`--base` and others' questions", "base vector", (4, 3)),
)
"""Title, way of ``benchmarks.wordings``, and the pairs of TOFU's authors on which it was measured."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "facts said, worst unseen kind": tuple(f"facts said, unseen kind {n}, − retrained" for n in (1, 2, 3)),
    "behind begun answers": ("facts said, begun answers, − retrained",),
    "in any of 16 samples": ("leak@16, − retrained", "leak@16, unseen kinds, − retrained"),
    "recorded answers' probability": ("forget p − retrained",),
    "KS distance": ("KS distance",),
    "brought back by learning 8 records": ("relearning gain − retrained",),
    "left of others": ("retain probability / original",),
    "left of the worst person": ("retain probability / original, worst person",),
}
"""Column → figures of ``benchmarks.wordings_figures``, of which the largest stands there."""


def forgetting() -> str:
    """A row for each of :data:`CASES`."""
    return table(["", *COLUMNS], [[f"{case.title} ([all]({_link(case)}))", *_cells(case)] for case in CASES])


def other_methods() -> str:
    """A row for each way and pair of :data:`OTHERS`."""
    cases = [
        Case(f"pair {pair}: {title}", f"wordings_tofu_pair{pair}_others", "tofu", way)
        for title, way, pairs in OTHERS
        for pair in pairs
    ]
    cases.sort(key=lambda case: case.file, reverse=True)  # stable: the pair that has every way first
    return table(["", *COLUMNS], [[f"{case.title} ([all]({_link(case)}))", *_cells(case)] for case in cases])


def _link(case: Case) -> str:
    return f"../benchmarks/results/{case.file.removesuffix('_ends')}.md"  # pair 3's two runs have one table


def _cells(case: Case) -> list[str]:
    document = json.loads((RESULTS / f"{case.file}.json").read_text(encoding="utf-8"))
    figures: Mapping[str, Any] = document["results"][case.group]["models"][case.way]["pooled"]
    return [_cell(figures, titles) for titles in COLUMNS.values()]


def _cell(figures: Mapping[str, Any], titles: Sequence[str]) -> str:
    """The largest of some figures; of shares of few questions also of how many."""
    found = [figures[title] for title in titles if figures.get(title) is not None]
    if not found:
        return "not measured"
    worst = max(found, key=lambda figure: figure["value"])
    compared = "− retrained" in titles[0]
    value = f"{worst['value']:+.2f}" if compared else f"{worst['value']:.2f}"
    value = {"-0.00": "+0.00"}.get(value, value).replace("0.", ".", 1)
    return f"{value} of {worst['n']}" if titles[0].startswith(("facts said", "leak")) else value
