"""Metrics by name: the one that `rkld unlearn`, `rkld bench` and `rkld audit` show it under."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rkld.registry import Registry

if TYPE_CHECKING:
    from rkld.evaluation.metric import Metric

METRICS: Registry[Metric] = Registry(
    "metric", "rkld.evaluation.metrics", "rkld.evaluation.metric.Metric", "--metric", "rkld.metrics", instances=True
)
"""Every metric: an instance of :class:`rkld.evaluation.metric.Metric`. That of a metric with a parameter is registered
with the parameter's name in the place of its value ("leak@k"). A metric of another set of records, or behind an attack,
is no other metric: it is called SET_NAME (:meth:`rkld.evaluation.metric.RecordMetric.on`)."""

M = TypeVar("M", bound="Metric")


def declare(metric: M) -> M:
    """Register a metric under its own name."""
    METRICS.register(metric.name)(metric)
    return metric
