"""Changes into how many slots the log is cut: more of them let more relays share the work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from psycopg import errors as pg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.errors import ConflictError
from core.postgres.failures import driver_error, scrubbed, translate
from core.postgres.phases import GIVE_WAY, lock_holders

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

MOST = 1024
"""Slots for states, and as many for events."""

PATIENCE_S = 1.0
"""How long writers wait for the relays to send the rest, in seconds."""

_LOOK_S = 0.02

# Writers in flight are waited for; later ones wait until the change is through, and are planned with its functions.
_LOCK_LOG = text("LOCK TABLE crossfeed.outbox IN SHARE ROW EXCLUSIVE MODE")
# No relay takes, renews or moves a slot meanwhile.
_LOCK_SLOTS = text("LOCK TABLE crossfeed.slot IN EXCLUSIVE MODE")
_UNSENT = text("SELECT string_agg(DISTINCT slot::text, ', ') FROM crossfeed.unsent(1)")
_CUT = text("SELECT crossfeed.cut_slots(:slots)")
_MOVE_PARKED = text("""
    UPDATE crossfeed.parked SET slot = CASE WHEN event_id IS NULL
        THEN crossfeed.slot_of(entity, partition_key, id) ELSE crossfeed.event_slot_of(entity, partition_key, id) END
""")


async def change_slots(engine: AsyncEngine, slots: int, patience_s: float = PATIENCE_S) -> None:
    """Cut the log into so many slots for states, and as many for events, in one transaction.

    Writers to captured tables wait while the relays send what was committed before; they must be running. All relays
    lose their slots, and take the new ones at their next heartbeat.

    Args:
        engine: of the role that owns the schema.
        slots: 1 to MOST.
        patience_s: how long writers wait for the relays at most, in seconds.

    Raises:
        ConflictError: a writer did not end, or the relays did not send everything in time; nothing was changed.
        ValueError: the number is out of range.
        CrossfeedError: Postgres failed; nothing was changed.

    """
    if not 1 <= slots <= MOST:
        msg = f"there are 1 to {MOST} slots, not {slots}"
        raise ValueError(msg)
    try:
        async with engine.begin() as connection:
            await connection.execute(GIVE_WAY)
            await connection.execute(_LOCK_LOG)
            await _until_sent(connection, patience_s)
            await connection.execute(_LOCK_SLOTS)
            await _check_sent(connection)
            await connection.execute(_CUT, {"slots": slots})
            await connection.execute(_MOVE_PARKED)
    except DBAPIError as error:
        if isinstance(driver_error(error), pg.LockNotAvailable):
            msg = f"writers do not end: {await lock_holders(engine)}"
            raise ConflictError(msg) from scrubbed(error)
        raise translate(error, "changing the number of slots") from scrubbed(error)


async def _until_sent(connection: AsyncConnection, patience_s: float) -> None:
    for _ in range(int(patience_s / _LOOK_S)):
        if (await connection.execute(_UNSENT)).scalar_one() is None:
            return
        await asyncio.sleep(_LOOK_S)


async def _check_sent(connection: AsyncConnection) -> None:
    unsent = (await connection.execute(_UNSENT)).scalar_one()
    if unsent is not None:
        msg = (
            f"slots {unsent} have messages that are not sent: the number of slots changes only when everything is."
            " Let relays run, at a quiet time; while Cosmos DB is the primary, what is left of states is not sent"
        )
        raise ConflictError(msg)
