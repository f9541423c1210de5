"""Names every metric there is, in one place: what it means, its labels, and which processes serve it.

The README's table is made of it (`as_markdown`). Processes can serve nothing that is not here (core.metric_families);
dashboards and alert rules may name nothing else, and tests hold processes, files and README to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What a metric's value does."""

    COUNTER = "counter"
    """Grows from 0 since its process was started."""
    GAUGE = "gauge"
    """Is the figure of the moment."""


class Process(Enum):
    """Who serves a metric."""

    RELAY = "relay"
    MIRROR = "mirror"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True)
class MetricFact:
    """One metric.

    Args:
        name: as Prometheus knows its samples; a counter's ends in `_total`.
        help: what it says, for people.
        labels: in their order.
        processes: who serves it.

    """

    name: str
    help: str
    labels: tuple[str, ...]
    processes: tuple[Process, ...]

    @property
    def kind(self) -> Kind:
        """What its value does."""
        return Kind.COUNTER if self.name.endswith("_total") else Kind.GAUGE


_R = (Process.RELAY,)
_M = (Process.MIRROR,)
_A = (Process.APPLICATION,)
_RM = (Process.RELAY, Process.MIRROR)
_RMA = (Process.RELAY, Process.MIRROR, Process.APPLICATION)

_FACTS: Final[tuple[tuple[str, tuple[Process, ...], tuple[str, ...], str], ...]] = (
    ("crossfeed_ready", _RM, (), "1 while the data path works, else 0."),
    # What the database says of all processes together; every process says the same.
    ("crossfeed_phase", _RMA, ("phase",), "1 for the recorded phase, 0 for the others."),
    ("crossfeed_epoch", _RMA, (), "The recorded epoch; grows with every step between phases and every re-sync."),
    ("crossfeed_draining_seconds", _RM, (), "For how long a switch has been refusing writers; 0 while none does."),
    ("crossfeed_switch_seconds", _RM, (), "For how long a switch has been under way; 0 while none is."),
    ("crossfeed_canary_age_seconds", _RM, ("direction",), "Age of the oldest change that may not have crossed."),
    ("crossfeed_canary_lag_seconds", _RM, ("direction",), "How long the slowest of the newest canaries took to cross."),
    ("crossfeed_dead_letters", _RM, ("direction",), "What was given up and is not settled."),
    ("crossfeed_parity_differences", _RM, ("entity",), "Differences that the last comparison of the stores found."),
    ("crossfeed_parity_age_seconds", _RM, ("entity",), "Since the last comparison of the stores began."),
    (
        "crossfeed_trigger_documents_total",
        _RM,
        ("function",),
        "Documents that a trigger in Azure Functions has applied.",
    ),
    ("crossfeed_trigger_failing_seconds", _RM, ("function",), "For how long a trigger has failed at one batch."),
    (
        "crossfeed_lag_seconds",
        _RM,
        ("direction",),
        "Age of the oldest change that waits to cross, as the process knows.",
    ),
    # The relay.
    ("crossfeed_relay_passes_total", _R, (), "Passes over the log."),
    ("crossfeed_relay_messages_total", _R, (), "Outbox messages delivered."),
    ("crossfeed_relay_events_total", _R, (), "Domain events that arrived in Cosmos DB."),
    ("crossfeed_relay_published_total", _R, (), "Documents written to Cosmos DB."),
    ("crossfeed_relay_unchanged_total", _R, (), "Documents that were there already in this very state."),
    ("crossfeed_relay_superseded_total", _R, (), "Documents of which Cosmos DB held a newer state."),
    ("crossfeed_relay_dead_lettered_total", _R, (), "Documents and events that were given up."),
    ("crossfeed_relay_absent_total", _R, (), "Messages of documents that have neither row nor tombstone."),
    ("crossfeed_relay_lifted_total", _R, (), "Rows that stood behind their own tombstone."),
    ("crossfeed_relay_quarantined_total", _R, (), "Foreign documents that were in the way."),
    ("crossfeed_relay_retries_total", _R, (), "Passes repeated because infrastructure failed."),
    ("crossfeed_relay_lag_seconds", _R, ("quantile",), "From a message's insert to its delivery, lately."),
    ("crossfeed_relay_slots", _R, (), "Slots that this relay holds."),
    ("crossfeed_relay_lease_left_seconds", _R, (), "Until this relay stops sending unless renewed."),
    ("crossfeed_relay_oldest_unsent_seconds", _R, (), "Age of the oldest message that it has read and not delivered."),
    ("crossfeed_relay_pass_age_seconds", _R, (), "Since the last pass was finished."),
    ("crossfeed_cosmos_breaker", _R, ("container",), "0 closed, 1 half-open, 2 open: nothing is sent."),
    ("crossfeed_cosmos_limit", _R, ("container",), "Requests that may be under way at once."),
    ("crossfeed_cosmos_under_way", _R, ("container",), "Requests under way."),
    ("crossfeed_cosmos_throttled_total", _R, (), "Answers of 429."),
    ("crossfeed_cosmos_retries_total", _R, (), "Requests that were repeated."),
    ("crossfeed_cosmos_postponed_total", _R, (), "Documents given up for now."),
    ("crossfeed_cosmos_request_units_total", _R, (), "RU that writing was charged."),
    ("crossfeed_outbox_backlog", _R, ("kind",), "Messages that wait; exact up to 10,000 a cursor."),
    ("crossfeed_outbox_oldest_seconds", _R, ("kind",), "Age of the oldest message that waits."),
    ("crossfeed_outbox_partitions", _R, (), "Partitions of the log."),
    ("crossfeed_outbox_overflow_bytes", _R, (), "Size of the messages for which no partition was made in time."),
    ("crossfeed_outbox_retention_held_seconds", _R, (), "For how long a cursor has kept the oldest partition."),
    ("crossfeed_outbox_parked", _R, (), "Documents and events that wait for another attempt."),
    ("crossfeed_slots_unowned", _R, (), "Slots that no live relay holds."),
    # The mirror.
    ("crossfeed_feed_documents_total", _M, (), "Documents that were applied."),
    ("crossfeed_feed_pages_total", _M, (), "Pages that were applied."),
    ("crossfeed_feed_splits_total", _M, (), "Feed ranges that were split."),
    ("crossfeed_feed_retries_total", _M, ("error",), "Attempts that failed, by error."),
    ("crossfeed_feed_request_units_total", _M, (), "RU that reading the feeds was charged."),
    ("crossfeed_feed_outcomes_total", _M, ("applier", "outcome"), "What was done with what the feeds showed."),
    ("crossfeed_feed_ranges_held", _M, (), "Feed ranges that this processor holds."),
    ("crossfeed_feed_lease_left_seconds", _M, (), "Until this processor stops applying unless renewed."),
    ("crossfeed_feed_lag_seconds", _M, ("feed", "range"), "Age of the oldest change not applied."),
    ("crossfeed_feed_behind", _M, ("feed", "range"), "About how many changes wait."),
    ("crossfeed_feed_progress_age_seconds", _M, ("feed", "range"), "Since a page was applied or the end was seen."),
    ("crossfeed_feed_ranges", _M, (), "Feed ranges of all feeds."),
    ("crossfeed_feed_ranges_unowned", _M, (), "Feed ranges that no live processor holds."),
    ("crossfeed_mirror_parked", _M, (), "Documents that wait for another attempt."),
    ("crossfeed_mirror_parked_oldest_seconds", _M, (), "For how long the oldest parked document has waited."),
    ("crossfeed_mirror_parked_overdue_seconds", _M, (), "For how long a parked document's turn has been due."),
    # The cache, where CROSSFEED_CACHE_URL is set. Relay and mirror only invalidate.
    ("crossfeed_cache_hits_total", _RMA, (), "Answers out of entries."),
    ("crossfeed_cache_negative_hits_total", _RMA, (), "Those of them that said that there is nothing."),
    ("crossfeed_cache_misses_total", _RMA, (), "Loads that may fill an entry."),
    ("crossfeed_cache_stale_total", _RMA, (), "Entries refused: older than what the process has seen, or broken."),
    ("crossfeed_cache_waits_total", _RMA, (), "Answers that waited for somebody else's load."),
    ("crossfeed_cache_bypassed_total", _RMA, (), "Reads that went to the store past the cache."),
    ("crossfeed_cache_fills_total", _RMA, (), "Entries written."),
    ("crossfeed_cache_fills_refused_total", _RMA, (), "Loads that came too late to be kept, or could not be."),
    ("crossfeed_cache_invalidations_total", _RMA, (), "Changes that the cache was told of."),
    ("crossfeed_cache_invalidations_lost_total", _RMA, (), "Changes that it was not: entries live on to their end."),
    ("crossfeed_cache_errors_total", _RMA, (), "Calls of Redis that failed."),
    ("crossfeed_cache_breaker", _RMA, (), "0 closed, 1 half-open, 2 open: Redis is left alone."),
    # Applications (core.metrics).
    (
        "crossfeed_write_lease_left_seconds",
        _A,
        (),
        "Until it stops writing to Cosmos DB unless renewed; 0 without one.",
    ),
    ("crossfeed_shadow_reads_total", _A, ("result",), "Reads compared with the other store, by what came of it."),
)

CATALOG: Final = {name: MetricFact(name, said, labels, by) for name, by, labels, said in _FACTS}
"""Every metric by its name."""


def as_markdown() -> str:
    """Return the README's table."""
    lines = ["| metric | labels | served by | |", "|---|---|---|---|"]
    for fact in CATALOG.values():
        labels = ", ".join(f"`{label}`" for label in fact.labels)
        by = ", ".join(process.value for process in fact.processes)
        lines.append(f"| `{fact.name}` | {labels} | {by} | {fact.help} |")
    return "\n".join(lines) + "\n"
