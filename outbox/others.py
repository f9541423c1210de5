"""Looks into slots that other relays hold, for a drain that has to wait for what they have not delivered yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from core.postgres.failures import translated
from outbox.cursor import load_groups
from outbox.log_reader import read_batch

if TYPE_CHECKING:
    from collections.abc import Container

    from sqlalchemy.ext.asyncio import AsyncEngine

    from outbox.cursor import Carries
    from outbox.leases import Leases


async def is_waiting_elsewhere(engine: AsyncEngine, leases: Leases, kinds: Container[Carries]) -> bool:
    """Whether a message waits in a slot that is not held, by the cursors that are stored.

    Raises:
        TransientError: Postgres did not answer.

    """
    mine = {lease.slot for lease in leases.held}
    with translated("looking into the slots of others"):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for group in await load_groups(connection):
                slots = tuple(slot for slot in group.slots if slot not in mine)
                if slots and group.carries in kinds:
                    batch = await read_batch(connection, replace(group, slots=slots), 1)
                    if batch.newest is not None or batch.more:
                        return True
    return False
