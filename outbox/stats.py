"""What a relay has done so far, in numbers, for status lines and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.reservoir import Reservoir


@dataclass(slots=True)
class RelayStats:
    """Counters since the relay was made.

    `messages` counts outbox messages delivered. `events` are domain events that arrived; the documents that the others
    name are `published` (written), `unchanged` (this very state was there), `superseded` (a newer one was there),
    `dead_lettered`, or `absent` (neither row nor tombstone). `lifted` rows stood behind their own tombstone,
    `quarantined` documents were foreign and in the way.
    `retries` are passes repeated for infrastructure. Lags are seconds from a message's insert to its delivery.
    """

    passes: int = 0
    messages: int = 0
    events: int = 0
    published: int = 0
    unchanged: int = 0
    superseded: int = 0
    dead_lettered: int = 0
    absent: int = 0
    lifted: int = 0
    quarantined: int = 0
    retries: int = 0
    last_lag_s: float = 0.0
    lags: Reservoir = field(default_factory=Reservoir)

    @property
    def p50_s(self) -> float:
        """The median lag in seconds."""
        return self.lags.quantile(0.5)

    @property
    def p99_s(self) -> float:
        """The 99th percentile of the lag in seconds."""
        return self.lags.quantile(0.99)
