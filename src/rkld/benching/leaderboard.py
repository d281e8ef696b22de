"""Tables of finished benchmarks, anybody's, read again and put together by method: for ``rkld bench report``."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rkld.benching.provenance import PROVENANCE
from rkld.benching.tables import MOMENTS
from rkld.errors import UserError
from rkld.records.sources import existing_file, local_path, text_of

RESULTS, TIMINGS = "results.csv", "timings.csv"

LARGEST = 32 * 1024 * 1024
"""Bytes of one of these files."""

KEYS = ("split", "method", "settings", "moment", "seed")
"""Columns that say what a row is of."""

NO_FIGURES = (*KEYS, "step", "epoch", "n", "note")

LEVEL = 0.95


@dataclass(frozen=True)
class Value:
    """A figure over ``n`` seeds: its mean, and the t-interval of that at 95 %; one seed has none."""

    mean: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Entry:
    """One method at one moment of one benchmark and split, over its seeds."""

    method: str
    settings: str
    moment: str
    seeds: int
    measured: int
    """Seeds that came to a figure: a training that diverged has none."""
    values: Mapping[str, Value]
    """By figure."""
    over_forgetting: float | None
    """How far :attr:`Group.remaining` is below the retrained model's, 0 at least; None where that is not known."""
    seconds: float | None
    notes: tuple[str, ...]
    """Of single seeds: "diverged", …"""
    command: str
    """"" where it is not known."""


@dataclass(frozen=True)
class Group:
    """One benchmark on one split: what can be compared."""

    benchmark: str
    split: str
    model: str
    date: str
    machine: str
    titles: Mapping[str, str]
    """Figure → what it is called."""
    forgotten: str
    """The figure of what is left, lower is better; "" where there is none."""
    utility: str
    """Of what was to stay, higher is better."""
    remaining: str
    entries: Sequence[Entry]


def read_groups(source: str) -> list[Group]:
    """The groups of one benchmark's folder, or of its table under a name of its own (``…results.csv``).

    Raises:
        UserError: there is no table; it is not as ``rkld bench`` writes it.
    """
    path = local_path(source, "rkld bench report")
    if path.is_dir():
        path = path / RESULTS
        if not path.exists():
            raise UserError(
                f"rkld bench report: {path.parent} holds no {RESULTS}, which a benchmark writes when all its cells are "
                "finished. Give its rkld bench command again: it goes on where it stopped."
            )
    if not path.name.endswith(RESULTS):
        raise UserError(f"{path}: give a benchmark's folder, or a table whose name ends in {RESULTS}.")
    prefix = path.name.removesuffix(RESULTS)
    rows = _rows(existing_file(path, "rkld bench report"), KEYS)
    figures = [name for name in rows[0] if name not in NO_FIGURES]
    timings = path.with_name(prefix + TIMINGS)
    seconds = _seconds(_rows(timings, ("split", "method", "seed", "seconds"))) if timings.is_file() else {}
    made = _made(path.with_name(f"{prefix.rstrip('_')}.json" if prefix else PROVENANCE), prefix, figures)
    splits = dict.fromkeys(row["split"] for row in rows)
    return [_group(made, split, [row for row in rows if row["split"] == split], figures, seconds) for split in splits]


def _group(
    made: Mapping[str, Any],
    split: str,
    rows: Sequence[Mapping[str, str]],
    figures: Sequence[str],
    seconds: Mapping[tuple[str, str], list[float]],
) -> Group:
    there = {name for name in figures if any(row[name] for row in rows)}
    keys = dict.fromkeys((row["method"], row["settings"], row["moment"]) for row in rows)
    some = {key: [r for r in rows if (r["method"], r["settings"], r["moment"]) == key] for key in keys}
    values = {key: {name: found for name in figures if (found := _value(own, name))} for key, own in some.items()}
    retrained = next((v.get(made["remaining"]) for (method, *_), v in values.items() if method == "retrained"), None)
    entries = []
    for (method, settings, moment), own in some.items():
        of = values[method, settings, moment]
        own_remaining = of.get(made["remaining"])
        over = max(0.0, retrained.mean - own_remaining.mean) if retrained and own_remaining else None
        took = seconds.get((split, method))
        notes = tuple(dict.fromkeys(row["note"] for row in own if row.get("note")))
        command = _command(made["command"], method, is_reference=moment == MOMENTS["model"])
        entries.append(
            Entry(
                method,
                settings,
                moment,
                len(own),
                _measured(own, figures),
                of,
                over,
                fmean(took) if took else None,
                notes,
                command,
            )
        )
    return Group(
        benchmark=made["benchmark"],
        split=split,
        model=made["model"],
        date=made["date"],
        machine=made["machine"],
        titles=made["titles"],
        forgotten=next((name for name in made["forgotten"] if name in there), ""),
        utility=next((name for name in made["utility"] if name in there), ""),
        remaining=made["remaining"],
        entries=entries,
    )


def _measured(rows: Sequence[Mapping[str, str]], figures: Sequence[str]) -> int:
    """How many rows have a figure that is a number."""
    return sum(any(row[name] and math.isfinite(_number(row[name], name)) for name in figures) for row in rows)


def _value(rows: Sequence[Mapping[str, str]], name: str) -> Value | None:
    """Over the rows that have the figure; None where none has."""
    found = [_number(row[name], name) for row in rows if row[name]]
    if not found:
        return None
    n = len(found)
    if not all(map(math.isfinite, found)):
        return Value(math.inf, n)
    mean = fmean(found)
    if n == 1:
        return Value(mean, n)
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * stdev(found) / math.sqrt(n)
    return Value(mean, n, mean - half, mean + half)


UNBOUNDED = 1e100
"""A figure of this size is that of a training that diverged, and stands for infinity: it cannot be reckoned with."""


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
        return math.copysign(math.inf, value) if abs(value) >= UNBOUNDED else value
    except ValueError:
        raise UserError(f"a figure of the column '{name[:40]}' is no number: make the table again.") from None


def _seconds(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], list[float]]:
    """(split, method) → seconds of its cells."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["split"], row["method"]), []).append(_number(row["seconds"], "seconds"))
    return found


def _command(made: str | Sequence[str], method: str, *, is_reference: bool) -> str:
    """Of a command that is known by its words with the row's own method; of another as it stands."""
    if isinstance(made, str):
        return made
    return shlex.join(without_places([*made, "--methods", method] if not is_reference else made))


def without_places(words: Sequence[str]) -> list[str]:
    """The words of a command, of full paths the last part alone: pages are handed on, and where it lay names people."""
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


# What lies beside the table


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), restval="")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: broken CSV ({error}): make the table again.") from None
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing or not rows or any(None in row for row in rows):
        why = f"lacks the columns {', '.join(missing)}" if missing else "has no rows, or rows of another length"
        raise UserError(f"{path} {why}: it is no table of rkld bench. Give the folder of a finished benchmark.")
    return rows


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST // 2**20} MiB: it is no table of rkld bench.")
    return text_of(path)


def _made(path: Path, prefix: str, figures: Sequence[str]) -> dict[str, Any]:
    """How the table was made, with every field of :mod:`rkld.benching.provenance`; "" where that is not known.

    UserError where the file is none of ours.
    """
    value: Any = {}
    if path.is_file():
        try:
            value = json.loads(_text(path))
        except (ValueError, RecursionError):
            raise UserError(f"{path} is broken JSON: run the benchmark again, or take the file away.") from None
    value = value if isinstance(value, dict) else {}
    name = _said(value.get("benchmark")) or prefix.rstrip("_") or path.parent.name
    table = _table(figures)
    command = value.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else _said(command)
    titles = value.get("titles")
    return {
        "benchmark": name,
        "model": _said(value.get("model")) or "not stated",
        "date": _said(value.get("date")),
        "machine": _said(value.get("machine")),
        "command": words,
        "titles": {str(k): _said(v) for k, v in titles.items()} if isinstance(titles, dict) else table["titles"],
        "forgotten": _names(value.get("forgotten")) or table["forgotten"],
        "utility": _names(value.get("utility")) or table["utility"],
        "remaining": _said(value.get("remaining")) or table["remaining"],
    }


def _table(figures: Sequence[str]) -> dict[str, Any]:
    """Of a table without a note of how it was made: that of TOFU's figures, if it has them."""
    from rkld.benching.question_benchmark import TABLE

    known = set(TABLE.forgotten) <= set(figures)
    return {
        "titles": dict(TABLE.titles) if known else {},
        "forgotten": TABLE.forgotten if known else (),
        "utility": TABLE.utility if known else (),
        "remaining": TABLE.remaining if known else "",
    }


def _said(value: Any) -> str:
    return value[:500] if isinstance(value, str) else ""


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()
