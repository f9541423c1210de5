"""What tests of a switch's recorded steps have in common."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from core.phases import Phase
from core.postgres.phases import open_phase, read_phase
from core.postgres.switch_record import pending_switch
from core.postgres.switching import begin_switch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.phases import PhaseRow
    from core.postgres.switch_record import Switch

COSMOS, POSTGRES = Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ

_RENEW = text("SELECT phase, epoch, state, granted FROM crossfeed.renew_writer(:me, :name, :lease)")


async def start_in(engine: AsyncEngine, phase: Phase) -> None:
    await open_phase(engine, phase, who="test", why="test")


async def drain(engine: AsyncEngine, to: Phase, patience: float = 10) -> Switch:
    return await begin_switch(engine, to, who="operator", why="because", patience=patience)


async def renew(engine: AsyncEngine, me: UUID | None = None, lease_s: float = 10) -> tuple[Any, ...]:
    """Ask for a phase lease as a writer of Cosmos DB does: (phase, epoch, state, granted)."""
    async with engine.begin() as connection:
        return await renew_within(connection, me, lease_s)


async def renew_within(connection: AsyncConnection, me: UUID | None = None, lease_s: float = 10) -> tuple[Any, ...]:
    asked = {"me": me or uuid.uuid4(), "name": "a writer", "lease": lease_s}
    return tuple((await connection.execute(_RENEW, asked)).one())


async def release(engine: AsyncEngine, me: UUID) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT crossfeed.release_writer(:me)"), {"me": me})


async def recorded(engine: AsyncEngine) -> tuple[PhaseRow, Switch | None]:
    """The phase row, and the switch that is under way."""
    async with engine.connect() as connection:
        return await read_phase(connection), await pending_switch(connection)


async def triggers(engine: AsyncEngine) -> Sequence[tuple[Any, ...]]:
    """Every trigger of Crossfeed's with its state and its definition, which holds the epoch."""
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger"
            " WHERE tgname ~ '^crossfeed' AND NOT tgisinternal ORDER BY 1, 2"
        )
        return [tuple(row) for row in found]


async def nothing(_connection: AsyncConnection, _row: PhaseRow) -> None:
    """What a flip does besides, here."""
