"""Turns what a relay and its database know into Prometheus' metrics."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from core.metric_families import Samples
from core.metrics import BREAKER, add_cache
from core.postgres.dead_letters import Direction
from functions.instance_facts import add_instance
from functions.readiness import oldest_waiting_s

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from core.cache.stats import CacheStats
    from core.cosmos.lanes import WriterState
    from functions.instance_facts import InstanceFacts
    from functions.readiness import Verdict, WatchedRelay
    from outbox.stats import RelayStats
    from outbox.status import OutboxStatus


def registry_of(
    relay: WatchedRelay, verdict: Verdict, instance: InstanceFacts | None, cache: CacheStats | None
) -> CollectorRegistry:
    """Return a registry with the figures of this moment; what Postgres did not say is not in it."""
    samples = Samples()
    samples.add("crossfeed_ready", verdict.is_ready)
    _add_stats(samples, relay.stats)
    _add_health(samples, relay)
    samples.add("crossfeed_lag_seconds", oldest_waiting_s(relay, verdict.outbox), direction=Direction.TO_COSMOS.value)
    writer = relay.writer_state()
    if writer is not None:
        _add_writer(samples, writer)
    if verdict.outbox is not None:
        _add_outbox(samples, verdict.outbox)
    if instance is not None:
        add_instance(samples, instance)
    if cache is not None:
        add_cache(samples, cache)
    return samples.registry()


def _add_stats(samples: Samples, stats: RelayStats) -> None:
    for name in (field.name for field in fields(stats) if field.type == "int"):
        samples.add(f"crossfeed_relay_{name}_total", getattr(stats, name))
    for quantile, seconds in (("0.5", stats.p50_s), ("0.99", stats.p99_s)):
        samples.add("crossfeed_relay_lag_seconds", seconds, quantile=quantile)


def _add_health(samples: Samples, relay: WatchedRelay) -> None:
    health = relay.health()
    samples.add("crossfeed_relay_slots", len(health.slots))
    samples.add("crossfeed_relay_lease_left_seconds", max(health.lease_left_s, 0.0))
    if health.oldest_unsent_s is not None:
        samples.add("crossfeed_relay_oldest_unsent_seconds", health.oldest_unsent_s)
    if health.pass_age_s is not None:
        samples.add("crossfeed_relay_pass_age_seconds", health.pass_age_s)


def _add_writer(samples: Samples, writer: WriterState) -> None:
    for name, container in sorted(writer.containers.items()):
        samples.add("crossfeed_cosmos_breaker", BREAKER[container.breaker], container=name)
        samples.add("crossfeed_cosmos_limit", container.limit, container=name)
        samples.add("crossfeed_cosmos_under_way", container.under_way, container=name)
    samples.add("crossfeed_cosmos_throttled_total", writer.throttled)
    samples.add("crossfeed_cosmos_retries_total", writer.retries)
    samples.add("crossfeed_cosmos_postponed_total", writer.postponed)
    samples.add("crossfeed_cosmos_request_units_total", writer.request_units)


def _add_outbox(samples: Samples, outbox: OutboxStatus) -> None:
    for kind, backlog in (("states", outbox.states), ("events", outbox.events)):
        samples.add("crossfeed_outbox_backlog", backlog.messages, kind=kind)
        samples.add("crossfeed_outbox_oldest_seconds", backlog.oldest_s or 0.0, kind=kind)
    samples.add("crossfeed_outbox_partitions", len(outbox.partitions))
    samples.add("crossfeed_outbox_overflow_bytes", outbox.overflow_bytes)
    samples.add("crossfeed_outbox_retention_held_seconds", outbox.retention_held_s or 0.0)
    samples.add("crossfeed_outbox_parked", outbox.parked)
    samples.add("crossfeed_slots_unowned", outbox.unowned)
