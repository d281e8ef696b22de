"""What a metric is: a number with its interval, made of readings of one or several models.

A *reading* is what was measured of one model: rows, one per record, of plain values (:mod:`rkld.evaluation.readings`).
It is made once; metrics are computed of readings, and need no model. There are two shapes:

- :class:`RecordMetric`: a mean over values of single records (or of the facts in them);
- :class:`Aggregate`: a statistic over several readings, several models, or both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from rkld.evaluation.statistics import LEVEL, Figure, Persons, bootstrap, mean, paired_difference, share

Row = Mapping[str, Any]
"""What was measured on one record: column → value."""

Rows = Mapping[str, Row]
"""A record's key → its row."""

Values = dict[str, float]
"""A record's key (or one of its facts', "key/number") → the metric's value."""

Direction = Literal["low", "high", ""]

Risk = Literal[
    "membership inference",
    "attribute inference",
    "exfiltration",
    "regurgitation",
    "relearning",
    "quantisation",
    "kept",
    "fluency",
    "",
]
"""What a figure is evidence of: an attack by the names of EDPB Opinion 28/2024 (paragraph 55), what others can do with
the weights, or what the model is still good for."""

BETTER: Mapping[str, str] = {"low": "lower", "high": "higher", "": "as a model that never saw them"}
"""Direction → what is better, in the words that tables and pages show."""

ANSWERED = ("facts", "leaks", "borrowed")
"""Columns of flags that are None where an answer was cut before it said what was looked for: that was not measured."""

GROWING = ("rouge_l", "parts")
"""Columns of shares, or lists of them, that an answer that was cut has at least: it could have gone up to 1."""

KEPT = ("retain", "neighbours", "real_authors", "world_facts")
"""Sets of records that should have been kept."""

T = TypeVar("T")


def nobody(keys: Sequence[str]) -> list[Hashable] | None:
    """No persons are known: records count as independent."""
    return None


@dataclass(frozen=True)
class Measured:
    """Readings of one or several models on the same records.

    Attributes:
        readings: role ("audited", "control", "original") → name of a reading → the reading.
        persons: whose the records of these keys are; None where they count as independent.
        holdout_persons: the same of the holdout records, in their order.
        retrained_ratios: (m,) truth ratios of a retrained model on the forget set, known from its log alone.
        text_auc: how well the texts of forget and holdout records are told apart without any model.
        settings: values of the parameters that metrics have ("k", "top").
        seed: of every interval.
        level: of every interval.
    """

    readings: Mapping[str, Mapping[str, Any]]
    persons: Callable[[Sequence[str]], list[Hashable] | None] = nobody
    holdout_persons: Persons = None
    retrained_ratios: np.ndarray | None = None
    text_auc: Figure | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    level: float = LEVEL
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def of(self, role: str, reading: str) -> Any:
        """One reading of one model; {} where it was not made."""
        return self.readings.get(role, {}).get(reading) or {}

    def record_persons(self, values: Sequence[str]) -> list[Hashable] | None:
        """Whose the values of these keys are, where a key may be that of a record or of one of its facts."""
        return self.persons([key.rsplit("/", 1)[0] for key in values])

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What several metrics need: made once, by its name."""
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def bootstrap(
        self,
        statistic: Callable[..., float],
        samples: Sequence[Sequence[str]],
        *,
        persons: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Figure:
        """``statistic`` of the rows drawn from each sample, given by its keys.

        Args:
            persons: draw whole persons where it is known whose the records are.
        """
        labels = [self.persons(some) for some in samples] if persons else None
        sizes = [len(some) for some in samples]
        return bootstrap(statistic, sizes, labels, bounds=bounds, seed=self.seed, level=self.level)


@dataclass(frozen=True)
class Metric(ABC):
    """What every metric says of itself; see :class:`RecordMetric` and :class:`Aggregate`.

    Attributes:
        name: the one name it has, in gates, tables and files.
        title: what it says, in words.
        explanation: a sentence or two for who has never heard of it; a page and ``--explain`` show it.
        direction: "low" where a model that never saw the records has it low; "high" for what should have been kept, or
            rises with forgetting; "" where neither is better.
        source: the paper (and equation).
        risk: what it is evidence of (:data:`Risk`), where the reading that it is made of does not say so.
        unit: of the value.
        bounds: that no value can pass.
        distance: where a model gives itself away by how far it is from a reference, above or below it: the metric that
            says how far. No gate is on the height itself.
    """

    name: str
    title: str
    explanation: str = field(default="", kw_only=True)
    direction: Direction = field(default="low", kw_only=True)
    source: str = field(default="", kw_only=True)
    risk: Risk = field(default="", kw_only=True)
    unit: str = field(default="share", kw_only=True)
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    distance: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.direction not in BETTER:
            raise ValueError(
                f"the metric {self.name} has the direction '{self.direction}': it is one of 'low', 'high', ''"
            )

    def at(self, settings: Mapping[str, Any]) -> Metric:
        """The metric with the value that its parameter has in ``settings``; itself where it has none."""
        return self

    @abstractmethod
    def figures(self, measured: Measured) -> Mapping[str, Figure | dict[str, Any]]:
        """Role → the metric with its interval; {} where what it is made of was not measured."""

    def differences(self, measured: Measured) -> dict[str, Figure]:
        """Role → the audited model's value less that model's, drawn together; {} where there is no such comparison."""
        return {}

    def records(self, measured: Measured) -> dict[str, Values]:
        """Role → the value of every record; {} for metrics that have none."""
        return {}


@dataclass(frozen=True)
class RecordMetric(Metric):
    """A mean over records or facts.

    Attributes:
        reading: the one that it is made of.
        values: of that reading; {} where it lacks the column.
        flags: values are 0 or 1, so that the interval is exact.
        on_sets: values on other sets of records, by the set's name, where the metric has another form there.
        kept_direction: on sets that should have been kept.
        needs_end: a value is known of an answer that ended alone: of one that was cut it can be whatever the bounds
            allow. For what is computed of ``row["answer"]``; the columns of :data:`ANSWERED` and :data:`GROWING` know
            it by themselves.
        parameter: the setting that the "@…" in its name is the value of; ``values`` takes it second then.
    """

    reading: str
    values: Callable[..., Values]
    flags: bool = field(default=False, kw_only=True)
    on_sets: Mapping[str, Callable[..., Values]] = field(default_factory=dict, kw_only=True)
    kept_direction: Direction = field(default="high", kw_only=True)
    needs_end: bool = field(default=False, kw_only=True)
    parameter: str = field(default="", kw_only=True)

    def at(self, settings: Mapping[str, Any]) -> RecordMetric:
        if not self.parameter:
            return self
        value = settings[self.parameter]
        name = self.name.replace(f"@{self.parameter}", f"@{value}")
        values = partial(_with_parameter, self.values, value)
        return replace(self, name=name, title=self.title.format(value), values=values, parameter="")

    def on(self, name: str, words: str = "", *, reading: str = "", part: str = "") -> RecordMetric:
        """The same metric of other rows, called ``name_…``: of another set of records, or of answers under an attack.

        Args:
            name: of the set or the attack.
            words: what is added to the title; by default the name.
            reading: the one that holds these rows; by default the one of this name.
            part: of a reading that holds several tables of rows: which.
        """
        values = self.on_sets.get(name, self.values)
        return replace(
            self,
            name=f"{name}_{self.name}",
            title=f"{self.title}: {words or name.replace('_', ' ')}",
            direction=self.kept_direction if name in KEPT else self.direction,
            reading=reading or name,
            values=partial(_of_part, values, part) if part else values,
            on_sets={},
        )

    def figure_of(self, rows: Rows, measured: Measured) -> Figure | None:
        """The mean over rows; None where nothing was measured.

        The value is that of what was seen: what a cut answer did not say up to there counts as not said. Whatever it
        would have said, the interval holds the figure: its ends are those of the least and the most that it can be. So
        a gate takes a cut answer for one that says what was looked for.
        """

        def figure(values: Values) -> Figure:
            return self.figure(values, measured.record_persons(list(values)), measured.seed, measured.level)

        known, low, high = self._known(rows), *self._ends(rows)
        if len(known) == len(low):
            return figure(known) if known else None
        unknown = [key for key in low if (low[key], high[key]) == self.bounds]
        if len(unknown) == len(low) or (unknown and not np.isfinite(self.bounds).all()):
            return None
        ends = seen, _ = figure(low), figure(high)
        least, most = min(end.low for end in ends), max(end.high for end in ends)
        return replace(seen, low=least, high=most, unmeasured=len(low) - len(known))

    def figure(self, values: Values, persons: Persons = None, seed: int = 0, level: float = LEVEL) -> Figure:
        """The mean of some records' values."""
        if self.flags:
            return share(list(values.values()), persons, level=level)
        return mean(list(values.values()), persons, bounds=self.bounds, seed=seed, name=self.name, level=level)

    def records(self, measured: Measured) -> dict[str, Values]:
        return {
            role: found
            for role, readings in measured.readings.items()
            if readings.get(self.reading) and (found := self._known(readings[self.reading]))
        }

    def _known(self, rows: Rows) -> Values:
        """The values that were measured."""
        low, high = self._ends(rows)
        return {key: value for key, value in low.items() if value == high[key]}

    def _ends(self, rows: Rows) -> tuple[Values, Values]:
        """The least and the most that the values can be, where something was not measured."""
        low, high = self.values(_filled(rows, 0.0)), self.values(_filled(rows, 1.0))
        if self.needs_end:
            cut = low.keys() - self.values(_whole(rows))
            low, high = ({key: end if key in cut else value for key, value in found.items()}
                         for found, end in zip((low, high), self.bounds, strict=True))  # fmt: skip
        return low, high

    def figures(self, measured: Measured) -> dict[str, Figure]:
        found = {
            role: self.figure_of(readings[self.reading], measured)
            for role, readings in measured.readings.items()
            if readings.get(self.reading)
        }
        return {role: figure for role, figure in found.items() if figure is not None}

    def differences(self, measured: Measured) -> dict[str, Figure]:
        """See :meth:`Metric.differences`; none where a value was not measured, as the others alone may differ less."""
        values = {}
        for role, found in self.records(measured).items():
            low, high = self._ends(measured.of(role, self.reading))
            if low == high:
                values[role] = found
        ours = values.pop("audited", {})
        return {
            role: paired_difference(
                list(ours.values()),
                [theirs[key] for key in ours],
                measured.record_persons(list(ours)),
                bounds=self.bounds,
                seed=measured.seed,
                level=measured.level,
            )
            for role, theirs in values.items()
            if ours and theirs.keys() == ours.keys()
        }


@dataclass(frozen=True)
class Aggregate(Metric):
    """A statistic of several readings or models.

    Attributes:
        compute: of the measured readings and a role; None where a part is missing.
        compare: the audited model's less another role's, where the two can be drawn together.
    """

    compute: Callable[[Measured, str], Figure | dict[str, Any] | None]
    compare: Callable[[Measured, str], Figure | None] | None = field(default=None, kw_only=True)

    def figures(self, measured: Measured) -> dict[str, Figure | dict[str, Any]]:
        found = {role: self.compute(measured, role) for role in measured.readings}
        return {role: figure for role, figure in found.items() if figure is not None}

    def differences(self, measured: Measured) -> dict[str, Figure]:
        if self.compare is None or "audited" not in measured.readings:
            return {}
        found = {role: self.compare(measured, role) for role in measured.readings if role != "audited"}
        return {role: figure for role, figure in found.items() if figure is not None}


def _with_parameter(values: Callable[..., Values], value: Any, rows: Rows) -> Values:
    return values(rows, value)


def _filled(rows: Any, value: float) -> Any:
    """Rows (or tables of them) with ``value``, 0 or 1, for everything that was not measured."""
    if not isinstance(rows, Mapping):
        return rows
    filled = {}
    for name, found in rows.items():
        if name in ANSWERED:
            filled[name] = _put(found, value)
        elif name in GROWING and rows.get("cut"):
            filled[name] = [max(one, value) for one in found] if isinstance(found, list) else max(found, value)
        else:
            filled[name] = _filled(found, value)
    return filled


def _whole(rows: Any) -> Any:
    """Rows (or tables of them) without those of answers that were cut."""
    if not isinstance(rows, Mapping):
        return rows
    return {key: _whole(found) for key, found in rows.items() if not (isinstance(found, Mapping) and found.get("cut"))}


def _put(found: Any, value: float) -> Any:
    if isinstance(found, list):
        return [_put(one, value) for one in found]
    return value if found is None else found


def _of_part(values: Callable[..., Values], part: str, parts: Mapping[str, Rows]) -> Values:
    return values(parts[part]) if part in parts else {}


# Values of rows


def column(name: str) -> Callable[[Rows], Values]:
    """A column of numbers or flags as it stands, of the rows that have it."""
    return lambda rows: {key: float(row[name]) for key, row in rows.items() if name in row}


def probability_of(name: str) -> Callable[[Rows], Values]:
    """``exp(−L)`` of a column of mean losses per token, in nats."""
    return lambda rows: {key: math.exp(-row[name]) for key, row in rows.items() if name in row}


def each_of(name: str) -> Callable[[Rows], Values]:
    """One value per fact, of a column of lists: flags, or shares."""
    return lambda rows: {
        f"{key}/{number}": float(flag) for key, row in rows.items() for number, flag in enumerate(row.get(name, ()))
    }


def transformed(
    arrays: Callable[[list[Row]], np.ndarray], needs: Sequence[str], change: Callable[[np.ndarray], Any] = np.asarray
) -> Callable[[Rows], Values]:
    """Values computed for all rows together.

    Args:
        arrays: (n,) of n rows.
        needs: columns; rows that lack one are left out.
        change: of that array, elementwise.
    """

    def values(rows: Rows) -> Values:
        found = {key: row for key, row in rows.items() if all(name in row for name in needs)}
        return dict(zip(found, change(arrays(list(found.values()))).tolist(), strict=True)) if found else {}

    return values
