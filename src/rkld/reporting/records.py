"""The records as a table: what each model says to each, in four buckets, with a paired test."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from rkld.reporting.sections import Section
from rkld.reporting.words import unseen, written
from rkld.text.printable import harmless

SETS = ("retain", "neighbours", "real_authors", "world_facts")
"""Sets of records to keep, by the names of the metrics that are made of them."""

KEPT_SHARE = 0.8
"""Of the original's probability of a record to keep, what must be left, where no limit says another."""

BUCKETS = {
    "forgotten": "the original says a fact of it, the unlearned model none",
    "still said": "the unlearned model says a fact of it",
    "never said": "neither says a fact of it when it is asked like this",
    "kept": "of what should be kept: nearly as probable as to the original",
    "harmed": "of what should be kept: much less probable than to the original",
}
"""Bucket → what is in it."""

LONGEST = 1500
"""Characters of one text that are shown."""

SHOWN_FIRST = ("still said", "harmed", "")
"""Buckets of which records are shown first, where there is no room for all: what went wrong, and what is unknown."""


@dataclass(frozen=True)
class Cell:
    """What one model says to one record."""

    role: str
    figure: str
    length: int | None = None
    text: Markup | None = None


@dataclass(frozen=True)
class Row:
    """One record.

    Attributes:
        of: "to forget", or the set of records to keep that it is of.
        value: what it is sorted by: the unlearned model's figure.
        question: None where it is not shown.
    """

    key: str
    of: str
    bucket: str
    value: float
    cells: Sequence[Cell]
    question: Markup | None = None
    answer: Markup | None = None
    lengths: str = ""


@dataclass(frozen=True)
class Records:
    """The table, and what it comes to.

    Attributes:
        left_out: how many rows there was no room for.
    """

    rows: Sequence[Row]
    counts: Mapping[str, int] = field(default_factory=dict)
    tests: Sequence[str] = ()
    roles: Sequence[str] = ()
    left_out: int = 0
    cut: bool = False


def records_of(
    section: Section,
    texts: Mapping[str, Any],
    *,
    forget: bool,
    kept: bool,
    show: bool,
    budget: int,
    most: int,
) -> Records:
    """The rows of a section.

    Args:
        texts: of the audit; empty where they were redacted or purged.
        forget, kept: which records; those to keep are about others.
        show: with the texts themselves, else with their lengths alone.
        budget: characters of texts; most: rows.
    """

    def made(shower: _Shower) -> Iterable[Row]:
        return itertools.chain(
            _forget_rows(section, shower) if forget else (), _kept_rows(section, shower) if kept else ()
        )

    rows, shower = list(made(_Shower(texts, False, 0))), _Shower(texts, show, budget)
    shown = _first(rows, most)
    if show and shown:  # only these take of the room for texts
        wanted = {(row.of, row.key) for row in shown}
        shower.wanted = wanted
        shown = [row for row in made(shower) if (row.of, row.key) in wanted]
    found = {bucket: sum(row.bucket == bucket for row in rows) for bucket in BUCKETS}
    tests = [*(_forget_test(section) if forget else ()), *(_kept_tests(section) if kept else ())]
    roles = [role for role in section.roles if any(cell.role == role for row in rows for cell in row.cells)]
    return Records(
        shown, {name: n for name, n in found.items() if n}, tests, roles, max(0, len(rows) - most),
        show and bool(shown) and shower.left <= 0,
    )  # fmt: skip


def _first(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """Those that there is room for, in their order."""
    if len(rows) <= most:
        return rows
    wanted = sorted(range(len(rows)), key=lambda i: rows[i].bucket not in SHOWN_FIRST)[:most]
    return [rows[i] for i in sorted(wanted)]


# Rows


def said(section: Section, role: str) -> dict[str, list[bool]]:
    """Record → for each of its facts whether the model's own answer says it."""
    found: dict[str, list[bool]] = {}
    for key, flag in section.records("facts_said", role).items():
        found.setdefault(key.rpartition("/")[0], []).append(bool(flag))
    return found


def _forget_rows(section: Section, shower: _Shower) -> Iterable[Row]:
    facts = {role: said(section, role) for role in section.roles}
    counts = _facts_of(section)
    likely = {role: section.records("probability", role) for role in section.roles}
    keys = dict.fromkeys(key for table in (*facts.values(), *likely.values()) for key in table)
    for key in keys:
        ours, before = facts.get("audited", {}).get(key), facts.get("original", {}).get(key)
        bucket = _bucket(ours, before, counts.get(key, 0))
        figures = {
            role: _said_of(facts[role][key], counts[key])
            if key in facts[role]
            else f"probability {written(likely[role].get(key), 'probability')}"
            for role in section.roles
        }
        value = float(sum(ours)) if ours else likely.get("audited", {}).get(key, 0.0)
        yield shower.row(key, "to forget", bucket, value, figures, "answers")


def _facts_of(section: Section) -> dict[str, int]:
    """Record → how many facts it has. They are numbered, and those of an answer that was cut may be missing."""
    found: dict[str, int] = {}
    for key in (key for role in section.roles for key in section.records("facts_said", role)):
        record, _, number = key.rpartition("/")
        found[record] = max(found.get(record, 0), int(number) + 1 if number.isdecimal() else 0)
    return found


def _said_of(flags: Sequence[bool], of: int) -> str:
    cut = of - len(flags)
    return f"{sum(flags)} of {of} fact{'' if of == 1 else 's'}" + (f", {unseen(cut, None)}" if cut > 0 else "")


def _bucket(ours: Sequence[bool] | None, before: Sequence[bool] | None, facts: int) -> str:
    """Of a record to forget; empty where too little was measured to say: what a cut answer did not say is unknown."""
    if ours is None or (not any(ours) and (before is None or len(ours) < facts)):
        return ""
    if any(ours):
        return "still said"
    return "forgotten" if any(before or ()) else "never said"


def _kept_rows(section: Section, shower: _Shower) -> Iterable[Row]:
    for name in SETS:
        likely = {role: section.records(f"{name}_probability", role) for role in section.roles}
        least = (section.gate(f"{name}_kept") or {}).get("limit", KEPT_SHARE)
        for key, ours in likely.get("audited", {}).items():
            before = likely.get("original", {}).get(key)
            bucket = "" if before is None else "kept" if ours >= least * before else "harmed"
            figures = {role: f"probability {written(likely[role].get(key), 'probability')}" for role in section.roles}
            yield shower.row(key, name.replace("_", " "), bucket, ours, figures, name)


class _Shower:
    """Makes rows of texts, as long as there is room for texts."""

    def __init__(self, texts: Mapping[str, Any], show: bool, budget: int):
        self.texts, self.show, self.left = texts, show, budget
        self.wanted: Collection[tuple[str, str]] | None = None
        """Of which records texts are shown, (of, key); None: of all."""

    def row(self, key: str, of: str, bucket: str, value: float, figures: Mapping[str, str], reading: str) -> Row:
        known = self.texts.get("records", {}).get(key, {}) if reading == "answers" else {}
        answers = {
            role: self.texts.get("said", {}).get(role, {}).get(reading, {}).get(key, {}).get("answer")
            for role in figures
            if self.wanted is None or (of, key) in self.wanted
        }
        first = answers.get("original")
        cells = [
            Cell(
                role,
                figure,
                len(text) if isinstance(text := answers.get(role), str) else None,
                self._shown(text, None if role == "original" else first),
            )
            for role, figure in figures.items()
        ]
        question, answer = known.get("question"), known.get("answer")
        if self.wanted is not None and (of, key) not in self.wanted:
            question = answer = None
        lengths = ", ".join(
            f"{name} of {len(text)}"
            for name, text in (("question", question), ("answer", answer))
            if isinstance(text, str)
        )
        return Row(key, of, bucket, value, cells, self._shown(question), self._shown(answer), lengths)

    def _shown(self, text: Any, beside: Any = None) -> Markup | None:
        if not self.show or not isinstance(text, str) or self.left <= 0:
            return None
        found = cut(text)
        self.left -= len(found)
        return marked(found, cut(beside)) if isinstance(beside, str) else escape(found)


def cut(text: str) -> str:
    """What of a text is shown: nothing that acts, and not more than :data:`LONGEST` characters."""
    found = harmless(text[: 4 * LONGEST])
    rest = len(text) - LONGEST
    return found if rest <= 0 else f"{found[:LONGEST]} … ({rest} more characters)"


def marked(text: str, beside: str) -> Markup:
    """A text with the words marked that another one has not, in its place."""
    ours, theirs = text.split(), beside.split()
    matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
    parts = []
    for how, _, _, start, end in matcher.get_opcodes():
        words = escape(" ".join(ours[start:end]))
        if words:
            parts.append(words if how == "equal" else Markup("<mark>{}</mark>").format(words))
    return Markup(" ").join(parts)


# Paired tests


def _forget_test(section: Section) -> Iterable[str]:
    """McNemar's exact test over records (McNemar 1947, Psychometrika 12)."""
    ours, before, counts = said(section, "audited"), said(section, "original"), _facts_of(section)
    both = [key for key in ours if key in before and all(_is_known(of[key], counts[key]) for of in (ours, before))]
    if not both:
        return
    from scipy.stats import binomtest

    lost = sum(any(before[key]) and not any(ours[key]) for key in both)
    won = sum(any(ours[key]) and not any(before[key]) for key in both)
    yield (
        f"Of {len(both)} records the original says a fact of {sum(any(before[key]) for key in both)}, the unlearned "
        f"model of {sum(any(ours[key]) for key in both)}. {_differ(lost, won, 'says a fact')} "
        + (f"McNemar's exact test: {p_value(binomtest(won, lost + won).pvalue)}." if lost + won else "")
    ).strip()


def _is_known(flags: Sequence[bool], facts: int) -> bool:
    """Whether it is known that an answer says a fact, or none."""
    return any(flags) or len(flags) >= facts


def _differ(lost: int, won: int, what: str) -> str:
    if not lost + won:
        return "They do not differ."
    return f"Where they differ, the original alone {what} {_times(lost)}, the unlearned model alone {_times(won)}."


def _times(n: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(n, f"{n} times")


def _kept_tests(section: Section) -> Iterable[str]:
    """Wilcoxon's signed-rank test over records (Wilcoxon 1945, Biometrics Bulletin 1)."""
    for name in SETS:
        ours, before = (section.records(f"{name}_probability", role) for role in ("audited", "original"))
        changes = [ours[key] - before[key] for key in ours if key in before]
        if not changes:
            continue
        from scipy.stats import wilcoxon

        fell = sum(change < 0 for change in changes)
        test = f" Wilcoxon's signed-rank test: {p_value(wilcoxon(changes).pvalue)}." if any(changes) else ""
        yield f"Of {len(changes)} records of {name.replace('_', ' ')}, {fell} became less probable.{test}"


def p_value(p: float) -> str:
    """A p-value as it is written."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
