"""Judges whether a relay's data path works: leases, both stores, triggers, switches, canaries, the oldest message.

A process that runs is not enough: a queue that nobody empties under a green health check is what users of similar
systems suffer from most.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from core.cosmos.breaker import BreakerState
from core.postgres.armed import trigger_problems
from core.postgres.canaries import canary_problems
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from functions.instance_facts import facts_of_instance
from functions.phase_facts import read_problems
from functions.probing import Fresh, Probe, answer
from outbox.status import read_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cache.stats import CacheStats
    from core.cosmos.client import CosmosStore
    from core.cosmos.lanes import WriterState
    from core.settings import Settings
    from outbox.health import RelayHealth
    from outbox.stats import RelayStats
    from outbox.status import OutboxStatus


class WatchedRelay(Protocol):
    """What is asked of a relay (outbox.relay.Relay); no method waits for a store."""

    stats: RelayStats

    def health(self) -> RelayHealth:
        """Say how it is."""
        ...

    def writer_state(self) -> WriterState | None:
        """Say how its guarded write is doing, None if that keeps no account."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, nothing when it is ready; and what Postgres said of the outbox, None if it said nothing."""

    problems: tuple[str, ...]
    outbox: OutboxStatus | None

    @property
    def is_ready(self) -> bool:
        """Whether messages flow."""
        return not self.problems


class Readiness(Probe[Verdict]):
    """The readiness of one relay.

    Args:
        settings: `relay_max_lag_s`, `canary_every_s`.
        engine: the database whose log it reads.
        store: where it writes.
        relay: the relay.
        clock: monotonic seconds.
        cache: what is known of the cache that it tells of changes, for the metrics.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        settings: Settings,
        engine: AsyncEngine,
        store: CosmosStore,
        relay: WatchedRelay,
        clock: Callable[[], float] = time.monotonic,
        *,
        cache: CacheStats | None = None,
    ) -> None:
        super().__init__(clock)
        self.relay = relay
        self._max_lag_s = settings.relay_max_lag_s
        self._every_s = settings.canary_every_s
        self._engine = engine
        self._store = store
        self._cache = cache
        self._instance = Fresh(partial(facts_of_instance, engine), clock)

    async def registry(self) -> CollectorRegistry:
        """See Probe."""
        from functions.metrics import registry_of  # noqa: PLC0415 - of the extra `http`

        return registry_of(self.relay, await self.verdict(), await self._instance(), self._cache)

    async def _ask(self) -> Verdict:
        problems: list[str] = []
        postgres, _ = await asyncio.gather(
            answer("Postgres", self._ask_postgres(), problems), answer("Cosmos DB", self._store.ping(), problems)
        )
        outbox = None
        if postgres is not None:
            outbox, wrong = postgres
            problems += wrong
        return Verdict((*self._of_relay(), *problems, *self._of_outbox(outbox)), outbox)

    async def _ask_postgres(self) -> tuple[OutboxStatus, list[str]]:
        with translated("reading the state of the outbox"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                wrong = [*await read_problems(connection), *await trigger_problems(connection)]
                if self.relay.health().waits_for is None:
                    wrong += await canary_problems(connection, Direction.TO_COSMOS, self._max_lag_s, self._every_s)
                return await read_status(connection), wrong

    def _of_relay(self) -> list[str]:
        health = self.relay.health()
        problems = []
        if health.is_stopping:
            problems.append("the relay is stopping")
        if health.lease_left_s <= 0:
            problems.append("the relay holds no valid lease: its last heartbeat was answered too long ago")
        if health.pass_age_s is None or health.pass_age_s > self._max_lag_s:
            since = "none so far" if health.pass_age_s is None else f"the last {health.pass_age_s:.0f} s ago"
            waiting = f", waiting for {health.last_error}" if health.last_error else ""
            problems.append(f"the relay finishes no pass: {since}{waiting}")
        writer = self.relay.writer_state()
        if writer is not None and writer.breaker is BreakerState.OPEN:
            names = sorted(
                name for name, container in writer.containers.items() if container.breaker is BreakerState.OPEN
            )
            problems.append(f"the circuit breaker is open: {', '.join(names)}")
        return problems

    def _of_outbox(self, outbox: OutboxStatus | None) -> list[str]:
        oldest_s = oldest_waiting_s(self.relay, outbox)
        if oldest_s <= self._max_lag_s:
            return []
        return [f"the oldest unsent message is {oldest_s:.0f} s old, more than {self._max_lag_s:.0f}"]


def oldest_waiting_s(relay: WatchedRelay, outbox: OutboxStatus | None) -> float:
    """Return the age in seconds of the oldest message that waits; what nobody may send in this phase does not count."""
    health = relay.health()
    if health.waits_for is not None:
        return 0.0
    known = [health.oldest_unsent_s, None if outbox is None else outbox.backlog.oldest_s]
    return max((age for age in known if age is not None), default=0.0)
