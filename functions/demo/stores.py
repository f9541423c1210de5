"""Prepares both stores for the demo: schema, tables with capture, containers; and what every part of it shares."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.cosmos.client import open_cosmos
from core.postgres import capture
from core.postgres.engine import open_engine
from functions.schema import upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """Both stores, opened."""

    settings: Settings
    mappings: Mappings
    engine: AsyncEngine
    cosmos: CosmosStore


@asynccontextmanager
async def prepared_stores(settings: Settings, mappings: Mappings, metadata: sa.MetaData) -> AsyncIterator[Stores]:
    """Open both stores and create what the demo needs in them.

    Args:
        settings: where the stores are; their database may be empty.
        mappings: of the demo's documents.
        metadata: their tables.

    """
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(settings))
        await upgrade(engine)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            for mapping in mappings:
                await connection.run_sync(capture.install, mapping)
        cosmos = await stack.enter_async_context(open_cosmos(settings))
        await cosmos.provision(mappings)
        yield Stores(settings, mappings, engine, cosmos)


async def fetch(
    connection: AsyncConnection, statement: str, parameters: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """Run hand-written SQL and return all its rows."""
    result = await connection.exec_driver_sql(statement, dict(parameters or {}))
    return [tuple(row) for row in result]
