"""How tests come into phase 2 with something left behind in Cosmos DB, as a switch that accepted it leaves it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from core.cosmos.documents import CosmosDocuments
from core.migration.routing import Routing
from core.phases import Phase, PhaseRow
from core.postgres.phases import open_phase
from core.postgres.switching import begin_switch, finish_switch, flip, note_switch
from core.postgres.unit_of_work import PostgresUnitOfWork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.repository import UnitOfWork
    from core.settings import Settings

LATER_S = 3600


def barrier_of(mappings: Mappings, ts: int | None = None) -> dict[str, int]:
    """Return a barrier that whatever is written in the next hour is before, unless `ts` says when it was."""
    return dict.fromkeys(mappings.containers, int(time.time()) + LATER_S if ts is None else ts)


async def enter_phase_2(engine: AsyncEngine, **facts: Any) -> PhaseRow:
    """Make Postgres the primary by a switch that recorded these facts."""
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="tests", why="routing")
    switch = await begin_switch(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="tests", why="routing")
    await note_switch(engine, switch.id, facts)
    row = await flip(engine, switch.id, nothing)
    await finish_switch(engine, switch.id, {})
    return row


async def _opened(store: CosmosStore) -> CosmosStore:
    return store


async def nothing(connection: AsyncConnection, row: PhaseRow) -> None:
    """Do nothing in the transaction of a step."""


@dataclass
class App:
    """A process of the application in phase 2."""

    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    phase: PhaseRow
    routing: Routing

    @classmethod
    @asynccontextmanager
    async def open(
        cls, engine: AsyncEngine, store: CosmosStore, mappings: Mappings, settings: Settings, **facts: Any
    ) -> AsyncIterator[App]:
        phase = await enter_phase_2(engine, **facts)
        async with Routing(engine, mappings, partial(_opened, store), settings) as routing:
            yield cls(engine, store, mappings, phase, routing)

    def routing_on(self, engine: AsyncEngine, settings: Settings) -> Routing:
        """Return the routes of another process; without shadow reads there is nothing to end."""
        return Routing(engine, self.mappings, partial(_opened, self.store), settings)

    @asynccontextmanager
    async def unit(
        self, routing: Routing | None = None, phase: PhaseRow | None = None, isolation_level: str | None = None
    ) -> AsyncIterator[UnitOfWork]:
        async with PostgresUnitOfWork(self.engine, self.mappings, isolation_level=isolation_level) as work:
            yield (routing or self.routing).routed(work, phase or self.phase)

    async def foreign(self, mapping: EntityMapping[Any], *documents: Document) -> None:
        """Write documents as the legacy application did."""
        for document in documents:
            await self.store.container(mapping).upsert_item(document)

    async def document(self, mapping: EntityMapping[Any], id_: str) -> Document | None:
        """Return what Cosmos DB holds."""
        return await CosmosDocuments(self.store, self.mappings).read(mapping.identity_of(id_, id_))
