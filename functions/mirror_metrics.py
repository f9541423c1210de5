"""Turns what a processor and its database know into Prometheus' metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.metric_families import Samples
from core.metrics import add_cache
from core.postgres.dead_letters import Direction
from functions.instance_facts import add_instance

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from changefeed.stats import ProcessorStats
    from core.cache.stats import CacheStats
    from functions.instance_facts import InstanceFacts
    from functions.mirror_readiness import FeedFacts, MirrorVerdict, WatchedProcessor


def registry_of(
    processor: WatchedProcessor, verdict: MirrorVerdict, instance: InstanceFacts | None, cache: CacheStats | None
) -> CollectorRegistry:
    """Return a registry with the figures of this moment; what Postgres did not say is not in it."""
    samples = Samples()
    samples.add("crossfeed_ready", not verdict.problems)
    _add_stats(samples, processor.stats)
    _add_appliers(samples, processor)
    _add_health(samples, processor)
    if verdict.facts is not None:
        _add_facts(samples, verdict.facts)
    if instance is not None:
        add_instance(samples, instance)
    if cache is not None:
        add_cache(samples, cache)
    return samples.registry()


def _add_stats(samples: Samples, stats: ProcessorStats) -> None:
    samples.add("crossfeed_feed_documents_total", stats.documents)
    samples.add("crossfeed_feed_pages_total", stats.pages)
    samples.add("crossfeed_feed_splits_total", stats.splits)
    samples.add("crossfeed_feed_request_units_total", stats.request_units)
    for error, count in sorted(stats.retries.items()):
        samples.add("crossfeed_feed_retries_total", count, error=error)


def _add_appliers(samples: Samples, processor: WatchedProcessor) -> None:
    for name, applier in processor.appliers.items():
        for outcome, count in applier.counts().items():
            samples.add("crossfeed_feed_outcomes_total", count, applier=name.partition("/")[0], outcome=outcome)


def _add_health(samples: Samples, processor: WatchedProcessor) -> None:
    health = processor.health()
    samples.add("crossfeed_feed_ranges_held", len(health.ranges))
    samples.add("crossfeed_feed_lease_left_seconds", max(health.lease_left_s, 0.0))
    for item in health.ranges:
        of = {"feed": item.feed, "range": item.feed_range}
        samples.add("crossfeed_feed_lag_seconds", item.lag_s, **of)
        samples.add("crossfeed_feed_behind", item.behind, **of)
        samples.add("crossfeed_feed_progress_age_seconds", item.progress_age_s, **of)
    # Who stands by knows of no lag.
    if health.ranges:
        lag_s = max(item.lag_s for item in health.ranges)
        samples.add("crossfeed_lag_seconds", lag_s, direction=Direction.TO_POSTGRES.value)


def _add_facts(samples: Samples, facts: FeedFacts) -> None:
    samples.add("crossfeed_feed_ranges", facts.ranges)
    samples.add("crossfeed_feed_ranges_unowned", facts.unowned)
    samples.add("crossfeed_mirror_parked", facts.parked.documents)
    samples.add("crossfeed_mirror_parked_oldest_seconds", facts.parked.oldest_s or 0.0)
    samples.add("crossfeed_mirror_parked_overdue_seconds", facts.parked.overdue_s or 0.0)
