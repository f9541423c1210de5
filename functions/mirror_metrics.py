"""Turns what a processor and its database know into Prometheus' metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from changefeed.stats import ProcessorStats
    from functions.mirror_readiness import FeedFacts, MirrorVerdict, WatchedProcessor


def registry_of(processor: WatchedProcessor, verdict: MirrorVerdict) -> CollectorRegistry:
    """Return a registry with the figures of this moment."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(processor, verdict))
    return registry


class _Figures(Collector):
    def __init__(self, processor: WatchedProcessor, verdict: MirrorVerdict) -> None:
        self._processor = processor
        self._verdict = verdict

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("crossfeed_ready", "1 while changes are applied, else 0.", not self._verdict.problems)
        yield from _of_stats(self._processor.stats)
        yield self._of_appliers()
        yield from self._of_health()
        if self._verdict.facts is not None:
            yield from _of_facts(self._verdict.facts)

    def _of_appliers(self) -> Metric:
        done = CounterMetricFamily(
            "crossfeed_feed_outcomes", "What was done with what the feeds showed.", labels=["applier", "outcome"]
        )
        for name, applier in self._processor.appliers.items():
            for outcome, count in applier.counts().items():
                done.add_metric([name.partition("/")[0], outcome], count)
        return done

    def _of_health(self) -> Iterator[Metric]:
        health = self._processor.health()
        yield GaugeMetricFamily(
            "crossfeed_feed_ranges_held", "Feed ranges that this processor holds.", len(health.ranges)
        )
        yield GaugeMetricFamily(
            "crossfeed_feed_lease_left_seconds",
            "Until this processor stops applying unless renewed.",
            max(health.lease_left_s, 0.0),
        )
        names = ["feed", "range"]
        lag = GaugeMetricFamily("crossfeed_feed_lag_seconds", "Age of the oldest change not applied.", labels=names)
        behind = GaugeMetricFamily("crossfeed_feed_behind", "About how many changes wait.", labels=names)
        progress = GaugeMetricFamily(
            "crossfeed_feed_progress_age_seconds", "Since a page was applied or the end was seen.", labels=names
        )
        for item in health.ranges:
            of = [item.feed, item.feed_range]
            lag.add_metric(of, item.lag_s)
            behind.add_metric(of, item.behind)
            progress.add_metric(of, item.progress_age_s)
        yield from (lag, behind, progress)


def _of_stats(stats: ProcessorStats) -> Iterator[Metric]:
    yield CounterMetricFamily("crossfeed_feed_documents", "Documents that were applied.", value=stats.documents)
    yield CounterMetricFamily("crossfeed_feed_pages", "Pages that were applied.", value=stats.pages)
    yield CounterMetricFamily("crossfeed_feed_splits", "Feed ranges that were split.", value=stats.splits)
    retries = CounterMetricFamily("crossfeed_feed_retries", "Attempts that failed, by error.", labels=["error"])
    for error, count in sorted(stats.retries.items()):
        retries.add_metric([error], count)
    yield retries


def _of_facts(facts: FeedFacts) -> Iterator[Metric]:
    yield GaugeMetricFamily("crossfeed_feed_ranges", "Feed ranges of all feeds.", facts.ranges)
    yield GaugeMetricFamily("crossfeed_feed_ranges_unowned", "Feed ranges that no live processor holds.", facts.unowned)
    yield GaugeMetricFamily(
        "crossfeed_mirror_parked", "Documents that wait for another attempt.", facts.parked.documents
    )
    yield GaugeMetricFamily(
        "crossfeed_mirror_parked_oldest_seconds", "For how long the oldest has waited.", facts.parked.oldest_s or 0.0
    )
    yield GaugeMetricFamily(
        "crossfeed_mirror_parked_overdue_seconds",
        "For how long a parked document's turn has been due.",
        facts.parked.overdue_s or 0.0,
    )
    yield GaugeMetricFamily("crossfeed_dead_letters", "What was given up on its way to Postgres.", facts.dead_letters)
