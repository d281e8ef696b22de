"""Which metrics an audit computes: those of its readings and attacks, and the aggregates over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from rkld.auditing.kinds import worst_kinds
from rkld.auditing.reading import Reading
from rkld.auditing.readings import OF_EVERY_MODEL, OWN_ANSWERS
from rkld.auditing.registry import known_attacks
from rkld.errors import UserError, nearest
from rkld.evaluation.metric import Metric, RecordMetric
from rkld.evaluation.registry import METRICS
from rkld.settings.auditing import AuditSettings


def known_readings(settings: AuditSettings) -> list[Reading]:
    """All that can be read of a model, attacks included; UserError as of :func:`audit_metrics`."""
    return [*OF_EVERY_MODEL, *known_attacks(settings)]


def audit_metrics(settings: AuditSettings) -> Mapping[str, Metric]:
    """Every metric that an audit with these settings can compute, by name, whatever data there is.

    A registered metric is computed wherever its reading is made; an aggregate wherever its parts are.

    Raises:
        UserError: a name, file or entry of ``--metric`` or ``--attacks`` that there is not; two metrics of one name.
    """
    registered = [metric for _, metric in METRICS.items()]
    registered += [metric for spec in settings.metric if (metric := METRICS.resolve(spec)) not in registered]
    values, found = asdict(settings), dict[str, Metric]()

    def add(metric: Metric) -> None:
        own = metric.at(values)
        if own.name in found and own is metric:  # at a parameter of 1 leak@k is leak@1
            raise UserError(f"there are two metrics of the name '{own.name}'. Rename one of them.")
        found.setdefault(own.name, own)

    readings = {reading.name: reading for reading in known_readings(settings)}
    for metric in registered:
        if isinstance(metric, RecordMetric) and metric.reading not in (*readings, OWN_ANSWERS):
            raise UserError(
                f"the metric {metric.name} is made of the reading '{metric.reading}', which there is not."
                f"{nearest(metric.reading, readings)} There are: {', '.join(readings)}."
            )
    for name in (*readings, OWN_ANSWERS):
        for metric in registered:
            if isinstance(metric, RecordMetric) and metric.reading == name:
                add(metric)
        for metric in readings[name].metrics() if name in readings else ():
            add(metric)
    for metric in registered:
        if not isinstance(metric, RecordMetric):
            add(metric)
    for metric in worst_kinds(list(found.values()), list(readings.values())):
        add(metric)
    return found
