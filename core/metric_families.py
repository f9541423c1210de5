"""Collects samples of metrics that core.metric_catalog names, and of no others, into what prometheus-client serves.

Needs prometheus-client (the extra `http`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from core.metric_catalog import CATALOG, Kind
from core.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from core.phases import PhaseRow


class Samples(Collector):
    """The figures of one moment."""

    def __init__(self) -> None:
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add one sample.

        Raises:
            KeyError: the catalog has no such metric, or it has other labels.

        """
        fact = CATALOG[name]
        if set(labels) != set(fact.labels):
            raise KeyError(f"{name} has the labels {fact.labels}, not {tuple(labels)}")
        family = self._families.get(name)
        if family is None:
            made = CounterMetricFamily if fact.kind is Kind.COUNTER else GaugeMetricFamily
            family = self._families[name] = made(name, fact.help, labels=fact.labels)
        family.add_metric([labels[label] for label in fact.labels], value)

    def collect(self) -> Iterable[Metric]:
        """Return what was added."""
        return self._families.values()

    def registry(self) -> CollectorRegistry:
        """Return a registry of these figures alone."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry


def add_phase(samples: Samples, row: PhaseRow) -> None:
    """Add the samples of the phase row."""
    for phase in Phase:
        samples.add("crossfeed_phase", phase is row.phase, phase=phase.label)
    samples.add("crossfeed_epoch", row.epoch)
