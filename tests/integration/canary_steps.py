"""What the tests of canaries share: what is known of them, the canaries in the log and in the containers, time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.errors import StoreUnavailableError
from core.postgres.canaries import canary_problems, read_canaries
from outbox.relay import Relay
from tests.integration.relay_steps import MemorySink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.event_documents import EventMessage
    from core.cosmos.event_sink import EventOutcome
    from core.mappings import Mappings
    from core.postgres.canaries import CanaryLag
    from core.postgres.dead_letters import Direction
    from core.settings import Settings

EVERY_S = 0.2
IN_LOG = "SELECT slot FROM crossfeed.outbox WHERE entity = 'crossfeed:canary' ORDER BY seq"


async def rows(engine: AsyncEngine, sql: str) -> list[Any]:
    async with engine.begin() as connection:
        found = await connection.exec_driver_sql(sql)
        return list(found.scalars()) if found.returns_rows else []


async def known(engine: AsyncEngine) -> dict[str, CanaryLag]:
    """Every part of the direction that is active, by its name."""
    async with engine.connect() as connection:
        return {one.part: one for one in await read_canaries(connection)}


async def have_crossed(engine: AsyncEngine, count: int) -> bool:
    found = await known(engine)
    return len(found) == count and all(one.lag_s is not None for one in found.values())


async def are_in_log(engine: AsyncEngine, count: int) -> bool:
    return len(await rows(engine, IN_LOG)) >= count


async def problems(engine: AsyncEngine, direction: Direction, max_lag_s: float = 60, every_s: float = 30) -> list[str]:
    async with engine.connect() as connection:
        return await canary_problems(connection, direction, max_lag_s, every_s)


async def age(engine: AsyncEngine, seconds: int, where: str = "true") -> None:
    """Let time pass for what is known of canaries."""
    times = ", ".join(f"{name} = {name} - interval '{seconds} s'" for name in ("at", "crossed_at", "unseen_since"))
    await rows(engine, f"UPDATE crossfeed.canary SET {times} WHERE {where}")


async def ids_in(store: CosmosStore, container: str) -> set[str]:
    """The ids of our own documents in a container."""
    query = "SELECT VALUE c.id FROM c WHERE c.crossfeed.kind = 'canary'"
    return {str(item) async for item in store.container_named(container).query_items(query)}


async def ids_of_slots(store: CosmosStore, mappings: Mappings) -> list[str]:
    """The ids of the canaries of slots in all containers, each as often as it is there."""
    names = (*mappings.containers, store.own.events.name)
    return sorted([id_ for name in names for id_ in await ids_in(store, name) if "-slot-" in id_])


@dataclass
class Target:
    """Where canaries of slots go, in memory; fails for as long as it is told."""

    written: list[int] = field(default_factory=list)
    fails: bool = False
    failed: int = 0

    async def write(self, slot: int, epoch: int, *, of_events: bool) -> None:
        assert of_events == (slot >= 16)
        if self.fails:
            self.failed += 1
            msg = "a test"
            raise StoreUnavailableError(msg)
        self.written.append(slot)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run(stop))
        try:
            yield
        finally:
            stop.set()


class NoEvents:
    """Where events would go."""

    async def write(self, events: Sequence[EventMessage], *, check: Callable[[], None]) -> list[EventOutcome]:
        raise NotImplementedError


def relay_of(
    settings: Settings, mappings: Mappings, engine: AsyncEngine, target: Target, sink: MemorySink | None = None
) -> Relay:
    return Relay(settings, mappings, engine, sink or MemorySink(), events=NoEvents(), canaries=target)
