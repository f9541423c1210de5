"""Compares the two stores on a sample of the reads, off their path, so that a cutover holds no surprise.

The read itself waits for nothing: its key goes to a task, which reads both stores, and when they differ reads both once
more after the lag window, because a change may have been under way. When there is too much to do keys are dropped.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, assert_never

import structlog

from core.content import content_hash
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.envelope import Origin
from core.postgres.unit_of_work import PostgresUnitOfWork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import KeyArgument
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow

log = structlog.get_logger()

MOST: Final = 64
"""How many comparisons may be under way, most of them waiting for the lag window; more are dropped."""
_AT_ONCE: Final = 2


@dataclass(slots=True)
class ShadowCounts:
    """What came of the reads that were picked: `mismatched` ones differed twice, `failed` ones could not be read."""

    compared: int = 0
    mismatched: int = 0
    dropped: int = 0
    failed: int = 0


class ShadowReads:
    """Compares reads by id; made by core.migration.routing.Routing.

    Args:
        engine: the Postgres side.
        mappings: all mappings.
        store: opens Cosmos DB, once, when it is needed.
        share: how many of the reads are picked, from 0.0 to 1.0.
        lag_s: the seconds in which what is under way arrives.
        draw: a number from 0.0 up to 1.0, without it.
        sleep: waits so many seconds.

    """

    def __init__(  # noqa: PLR0913 - both stores, and what decides how often and when
        self,
        engine: AsyncEngine,
        mappings: Mappings,
        store: Callable[[], Awaitable[CosmosStore]],
        *,
        share: float,
        lag_s: float,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.share = share
        self.counts = ShadowCounts()
        self._engine = engine
        self._mappings = mappings
        self._store = store
        self._lag_s = lag_s
        self._draw = draw
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(_AT_ONCE)

    def offer(self, mapping: EntityMapping[Any], id_: str, partition_key: KeyArgument, phase: PhaseRow) -> None:
        """Say that an entity was read by its id; it may be compared, later."""
        if not self.share or self._draw() >= self.share:
            return
        if len(self._tasks) >= MOST:
            self.counts.dropped += 1
            return
        task = asyncio.create_task(
            self._compare(mapping, id_, partition_key, phase), name=f"shadow read {mapping.name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End the comparisons that are under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _compare(
        self, mapping: EntityMapping[Any], id_: str, partition_key: KeyArgument, phase: PhaseRow
    ) -> None:
        names = {"entity": mapping.name, "document_id": id_}
        try:
            fields = await self._differing(mapping, id_, partition_key, phase)
            if fields is not None:
                await self._sleep(self._lag_s)
                fields = await self._differing(mapping, id_, partition_key, phase)
        except Exception as error:  # noqa: BLE001 - nobody waits for this task: its failure is counted, and said
            self.counts.failed += 1
            log.info("shadow.failed", **names, why=type(error).__name__)
            return
        self.counts.compared += 1
        if fields is not None:
            self.counts.mismatched += 1
            log.warning("shadow.mismatched", **names, fields=fields)

    async def _differing(
        self, mapping: EntityMapping[Any], id_: str, partition_key: KeyArgument, phase: PhaseRow
    ) -> list[str] | None:
        """Return the properties in which the stores differ (all of them where one has no entity), None if in none."""
        async with self._turn:
            one = await self._read(Origin.POSTGRES, mapping, id_, partition_key, phase)
            other = await self._read(Origin.COSMOS, mapping, id_, partition_key, phase)
        if one is None or other is None:
            return None if one is other else sorted(one or other or {})
        if content_hash(one) == content_hash(other):
            return None
        return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))

    async def _read(
        self, where: Origin, mapping: EntityMapping[Any], id_: str, partition_key: KeyArgument, phase: PhaseRow
    ) -> Document | None:
        unit: PostgresUnitOfWork | CosmosUnitOfWork
        match where:
            case Origin.POSTGRES:
                unit = PostgresUnitOfWork(self._engine, self._mappings)
            case Origin.COSMOS:
                unit = CosmosUnitOfWork(await self._store(), self._mappings, phase.epoch)
            case _:
                assert_never(where)
        async with unit as work:
            entity = await work[mapping.model].get_by_id(id_, partition_key=partition_key)
        return None if entity is None else mapping.document(entity)
