"""Turns what a relay and its database know into Prometheus' metrics."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from core.cosmos.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from core.cosmos.lanes import WriterState
    from functions.readiness import Verdict, WatchedRelay
    from outbox.stats import RelayStats
    from outbox.status import OutboxStatus

COUNTERS: Final = {
    "passes": "Passes over the log.",
    "messages": "Outbox messages delivered.",
    "events": "Domain events that arrived in Cosmos DB.",
    "published": "Documents written to Cosmos DB.",
    "unchanged": "Documents that were there already in this very state.",
    "superseded": "Documents of which Cosmos DB held a newer state.",
    "dead_lettered": "Documents and events that were given up.",
    "absent": "Messages of documents that have neither row nor tombstone.",
    "lifted": "Rows that stood behind their own tombstone.",
    "quarantined": "Foreign documents that were in the way.",
    "retries": "Passes repeated because infrastructure failed.",
}
"""The counters of RelayStats with what they mean (a test holds the two together)."""

_BREAKER: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


def registry_of(relay: WatchedRelay, verdict: Verdict) -> CollectorRegistry:
    """Return a registry with the figures of this moment."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(relay, verdict))
    return registry


class _Figures(Collector):
    def __init__(self, relay: WatchedRelay, verdict: Verdict) -> None:
        self._relay = relay
        self._verdict = verdict

    def collect(self) -> Iterator[Metric]:
        yield _gauge("crossfeed_ready", "1 while messages flow, else 0.", self._verdict.is_ready)
        yield from _of_stats(self._relay.stats)
        yield from self._of_health()
        writer = self._relay.writer_state()
        if writer is not None:
            yield from _of_writer(writer)
        if self._verdict.outbox is not None:
            yield from _of_outbox(self._verdict.outbox)

    def _of_health(self) -> Iterator[Metric]:
        health = self._relay.health()
        yield _gauge("crossfeed_relay_slots", "Slots that this relay holds.", len(health.slots))
        yield _gauge(
            "crossfeed_relay_lease_left_seconds", "Until this relay stops sending unless renewed.", health.lease_left_s
        )
        if health.oldest_unsent_s is not None:
            yield _gauge(
                "crossfeed_relay_oldest_unsent_seconds",
                "Age of the oldest message that this relay has read and not delivered.",
                health.oldest_unsent_s,
            )
        if health.pass_age_s is not None:
            yield _gauge("crossfeed_relay_pass_age_seconds", "Since the last pass was finished.", health.pass_age_s)


def _of_stats(stats: RelayStats) -> Iterator[Metric]:
    for name in (field.name for field in fields(stats) if field.name in COUNTERS):
        yield CounterMetricFamily(f"crossfeed_relay_{name}", COUNTERS[name], value=getattr(stats, name))
    lag = GaugeMetricFamily(
        "crossfeed_relay_lag_seconds", "From a message's insert to its delivery, lately.", labels=["quantile"]
    )
    for quantile, seconds in (("0.5", stats.p50_s), ("0.99", stats.p99_s)):
        lag.add_metric([quantile], seconds)
    yield lag


def _of_writer(writer: WriterState) -> Iterator[Metric]:
    breaker = GaugeMetricFamily(
        "crossfeed_cosmos_breaker", "0 closed, 1 half-open, 2 open: nothing is sent.", labels=["container"]
    )
    limit = GaugeMetricFamily("crossfeed_cosmos_limit", "Requests that may be under way at once.", labels=["container"])
    under_way = GaugeMetricFamily("crossfeed_cosmos_under_way", "Requests under way.", labels=["container"])
    for name, container in sorted(writer.containers.items()):
        breaker.add_metric([name], _BREAKER[container.breaker])
        limit.add_metric([name], container.limit)
        under_way.add_metric([name], container.under_way)
    yield from (breaker, limit, under_way)
    yield CounterMetricFamily("crossfeed_cosmos_throttled", "Answers of 429.", value=writer.throttled)
    yield CounterMetricFamily("crossfeed_cosmos_retries", "Requests that were repeated.", value=writer.retries)
    yield CounterMetricFamily("crossfeed_cosmos_postponed", "Documents given up for now.", value=writer.postponed)
    yield CounterMetricFamily("crossfeed_cosmos_request_units", "RU that were charged.", value=writer.request_units)


def _of_outbox(outbox: OutboxStatus) -> Iterator[Metric]:
    messages = GaugeMetricFamily(
        "crossfeed_outbox_backlog", "Messages that wait; exact up to 10,000 a cursor.", labels=["kind"]
    )
    oldest = GaugeMetricFamily("crossfeed_outbox_oldest_seconds", "Age of the oldest that waits.", labels=["kind"])
    for kind, backlog in (("states", outbox.states), ("events", outbox.events)):
        messages.add_metric([kind], backlog.messages)
        oldest.add_metric([kind], backlog.oldest_s or 0.0)
    yield from (messages, oldest)
    yield _gauge("crossfeed_outbox_partitions", "Partitions of the log.", len(outbox.partitions))
    yield _gauge(
        "crossfeed_outbox_overflow_bytes", "Messages for which no partition was made in time.", outbox.overflow_bytes
    )
    yield _gauge(
        "crossfeed_outbox_retention_held_seconds",
        "For how long a cursor has kept the oldest partition from being dropped.",
        outbox.retention_held_s or 0.0,
    )
    yield _gauge("crossfeed_outbox_parked", "Documents and events that wait for another attempt.", outbox.parked)
    yield _gauge("crossfeed_dead_letters", "What was given up and not settled, both directions.", outbox.dead_letters)
    yield _gauge("crossfeed_slots_unowned", "Slots that no live relay holds.", outbox.unowned)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, value=value)
