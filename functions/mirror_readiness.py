"""Judges whether a processor's data path works: leases, both stores, how far its feed ranges are, what is parked.

A process that runs is not enough: a feed that nobody applies under a green health check looks like a quiet night.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from core.postgres.canaries import canary_problems
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from core.postgres.mirror_parking import parked_in_mirror
from functions.instance_facts import facts_of_instance
from functions.phase_facts import read_problems
from functions.probing import Fresh, Probe, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry
    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.ports import Applier
    from changefeed.processor import ProcessorHealth
    from changefeed.stats import ProcessorStats
    from core.cache.stats import CacheStats
    from core.cosmos.client import CosmosStore
    from core.postgres.mirror_parking import ParkedInMirror
    from core.settings import Settings

_RANGES = """
    SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
        SELECT FROM crossfeed.feed_processor p
        WHERE p.processor = r.owner AND crossfeed.is_alive(p.expires_at, p.lease_s)))
    FROM crossfeed.feed_range r
"""


class WatchedProcessor(Protocol):
    """What is asked of a processor (changefeed.processor.Processor); nothing of it waits for a store."""

    stats: ProcessorStats

    @property
    def appliers(self) -> Mapping[str, Applier]:
        """Who applies what it reads, by the name of a feed."""
        ...

    def health(self) -> ProcessorHealth:
        """Say how it is."""
        ...


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """What Postgres says of all processors together; `unowned` of the ranges are held by none that is alive.

    `wrong` is what a switch that is under way, or has crashed, keeps from working, and canaries that are late.
    """

    ranges: int
    unowned: int
    parked: ParkedInMirror
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MirrorVerdict:
    """What is wrong, nothing when it is ready; and what Postgres said, None if it said nothing."""

    problems: tuple[str, ...]
    facts: FeedFacts | None


class MirrorReadiness(Probe[MirrorVerdict]):
    """The readiness of one processor.

    Args:
        settings: `mirror_max_lag_s`, and `mirror_park_max_s`, the longest wait of what is parked.
        engine: the database that it writes to.
        store: where it reads.
        processor: the processor.
        clock: monotonic seconds.
        cache: what is known of the cache that it tells of changes, for the metrics.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        settings: Settings,
        engine: AsyncEngine,
        store: CosmosStore,
        processor: WatchedProcessor,
        clock: Callable[[], float] = time.monotonic,
        *,
        cache: CacheStats | None = None,
    ) -> None:
        super().__init__(clock)
        self.processor = processor
        self._max_lag_s = settings.mirror_max_lag_s
        self._every_s = settings.canary_every_s
        self._engine = engine
        self._store = store
        self._cache = cache
        self._instance = Fresh(partial(facts_of_instance, engine), clock)

    async def registry(self) -> CollectorRegistry:
        """See Probe."""
        from functions.mirror_metrics import registry_of  # noqa: PLC0415 - of the extra `http`

        return registry_of(self.processor, await self.verdict(), await self._instance(), self._cache)

    async def _ask(self) -> MirrorVerdict:
        problems: list[str] = []
        facts, _ = await asyncio.gather(
            answer("Postgres", self._ask_postgres(), problems), answer("Cosmos DB", self._store.ping(), problems)
        )
        return MirrorVerdict((*self._of_processor(), *problems, *self._of_facts(facts)), facts)

    async def _ask_postgres(self) -> FeedFacts:
        with translated("reading the state of the feed ranges"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                ranges, unowned = tuple((await connection.exec_driver_sql(_RANGES)).one())
                parked = await parked_in_mirror(connection)
                late = await canary_problems(connection, Direction.TO_POSTGRES, self._max_lag_s, self._every_s)
                return FeedFacts(ranges, unowned, parked, (*await read_problems(connection), *late))

    def _of_processor(self) -> list[str]:
        health = self.processor.health()
        problems = []
        if health.is_stopping:
            problems.append("the processor is stopping")
        if health.lease_left_s <= 0:
            problems.append("the processor holds no valid lease: its last heartbeat was answered too long ago")
        for item in health.ranges:
            waiting = f", waiting for {item.error}" if item.error else ""
            if item.lag_s > self._max_lag_s:
                problems.append(
                    f"{item.feed} {item.feed_range} is {item.lag_s:.0f} s behind, about {item.behind} changes{waiting}"
                )
            elif item.progress_age_s > self._max_lag_s:
                problems.append(
                    f"{item.feed} {item.feed_range} has not come forward for {item.progress_age_s:.0f} s{waiting}"
                )
        return problems

    def _of_facts(self, facts: FeedFacts | None) -> list[str]:
        """Judge what no processor of its own can see. Who stands by holds nothing, and is ready to take over."""
        if facts is None:
            return []
        if facts.ranges == 0:
            return [*facts.wrong, "there are no feed ranges: none could be listed so far"]
        overdue_s = facts.parked.overdue_s or 0.0
        if overdue_s > self._max_lag_s:
            tried = f"{facts.parked.documents} documents are parked, and nobody has tried for {overdue_s:.0f} s"
            return [*facts.wrong, tried]
        return [*facts.wrong]
