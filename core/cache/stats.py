"""Counts what the cache does, for metrics and for whoever wonders whether it helps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CacheStats:
    """Counters since the start of the process.

    Attributes:
        hits: answers from entries; `negative_hits` of them said that there is nothing.
        negative_hits: see `hits`.
        misses: loads that may fill an entry.
        stale: entries that were refused, being older than what this process has seen, or unreadable.
        waits: answers that waited for somebody else's load.
        bypassed: reads that went to the store past the cache, because it was not there or not to be used then.
        fills: entries written.
        fills_refused: loads that came too late to be kept, or could not be.
        invalidations: changes that the cache was told.
        invalidations_lost: those that it was not told, Redis being away; their entries live on until their own end.
        errors: calls of Redis that failed.
        breaker: closed; open: Redis is left alone; half-open: one call tries it.

    """

    hits: int = 0
    negative_hits: int = 0
    misses: int = 0
    stale: int = 0
    waits: int = 0
    bypassed: int = 0
    fills: int = 0
    fills_refused: int = 0
    invalidations: int = 0
    invalidations_lost: int = 0
    errors: int = 0
    breaker: str = "closed"
