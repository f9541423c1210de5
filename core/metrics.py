"""Lets an application serve Crossfeed's figures with its own, by the registry of prometheus-client that it has.

    from prometheus_client import REGISTRY
    from core.metrics import CrossfeedCollector

    async with Crossfeed.open(settings, MAPPINGS) as db:
        REGISTRY.register(CrossfeedCollector(db))

Needs prometheus-client (the extra `http`). Relay and mirror serve theirs themselves, with CROSSFEED_HTTP_PORT.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Final

from prometheus_client.registry import Collector

from core.metric_families import Samples, add_phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from core.cache.stats import CacheStats
    from core.crossfeed import Crossfeed

BREAKER: Final = {"closed": 0, "half-open": 1, "open": 2}
"""The figure of a breaker's state, by its name."""


class CrossfeedCollector(Collector):
    """The figures of one open Crossfeed. Scraping it asks no store and waits for nothing.

    Args:
        db: from `Crossfeed.open`; may have been closed meanwhile.

    """

    def __init__(self, db: Crossfeed) -> None:
        self._db = db

    def describe(self) -> Iterable[Metric]:
        """Return nothing: a registry then does not ask for samples when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the figures of this moment."""
        samples = Samples()
        figures = self._db.figures
        if figures.phase is not None:
            add_phase(samples, figures.phase)
        if figures.write_lease_left_s is not None:
            samples.add("crossfeed_write_lease_left_seconds", figures.write_lease_left_s)
        if self._db.shadow is not None:
            for result, count in asdict(self._db.shadow.counts).items():
                samples.add("crossfeed_shadow_reads_total", count, result=result)
        if self._db.cache is not None:
            add_cache(samples, self._db.cache)
        return samples.collect()


def add_cache(samples: Samples, stats: CacheStats) -> None:
    """Add the samples of a cache."""
    for name in (field.name for field in fields(stats) if field.name != "breaker"):
        samples.add(f"crossfeed_cache_{name}_total", getattr(stats, name))
    samples.add("crossfeed_cache_breaker", BREAKER[stats.breaker])
