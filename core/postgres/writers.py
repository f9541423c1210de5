"""Says when no process may write to Cosmos DB any more: nothing there can refuse a write, so leases are waited out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from core.clock import boot_clock
from core.errors import ConflictError
from core.postgres.failures import translated
from core.postgres.switch_record import SwitchStep, require_switch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_LOOK_S = 0.02
"""How often it is looked whether writers have handed back their leases: everybody waits meanwhile."""
_WORTH_S = 60.0
"""Who died with a longer lease than that is left to `wait_for_writers`, which names it when it gives up."""

_WRITERS = text("""
    SELECT name, CAST(extract(epoch FROM expires_at - clock_timestamp()) AS double precision) FROM crossfeed.writer
    ORDER BY 2 DESC, 1
""")
# Whose end has come by the clock of Postgres, and how often each was renewed.
_OVERDUE = text("""
    SELECT writer, renewals, lease_s FROM crossfeed.writer WHERE expires_at < clock_timestamp() AND lease_s <= :most
""")
# Whether this server has taken over since the last step, and may not know of leases that the one before it granted.
_IS_NEW = text("""
    SELECT p.phase < 2, crossfeed.timeline() <> h.timeline, crossfeed.timeline()
    FROM crossfeed.phase p JOIN crossfeed.phase_history h ON h.epoch = p.epoch
""")
_TIMELINE = text("SELECT crossfeed.timeline()")
_BURY = text("DELETE FROM crossfeed.writer WHERE writer = :writer AND renewals = :renewals")
# None is renewed while the switch drains, which is looked at afterwards, in the same transaction: none lasts longer.
_BURY_ALL = text("DELETE FROM crossfeed.writer WHERE lease_s <= :waited_s")


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that may write to Cosmos DB, for as long as its phase lease lasts."""

    name: str
    left_s: float
    """Seconds that it lasts by the clock of Postgres; negative where it ended without having been handed back."""


async def unexpired_writers(connection: AsyncConnection) -> list[Writer]:
    """Return whoever has a phase lease on record that was neither handed back nor waited out."""
    return [Writer(name, left_s) for name, left_s in map(tuple, await connection.execute(_WRITERS))]


async def wait_for_writers(
    engine: AsyncEngine,
    switch_id: UUID,
    *,
    patience: float,
    clock: Callable[[], float] = boot_clock,
    on_wait: Callable[[Sequence[Writer]], None] = lambda _: None,
) -> None:
    """Return when no process may write to Cosmos DB any more: each lease was handed back, or has run out for certain.

    It has run out when its length has passed since this was called, by a clock of this process: none is renewed
    during a drain. The clock of Postgres, which may be stepped, decides nothing.

    Args:
        engine: from core.postgres.engine.open_engine.
        switch_id: of a switch that is draining.
        patience: the seconds after which it gives up.
        clock: seconds that count suspend.
        on_wait: is told again and again who is waited for.

    Raises:
        ConflictError: the switch is not draining any more, or there are writers left (they are named).
        TransientError: Postgres did not answer.

    """
    began = clock()
    while True:
        waited_s = clock() - began
        with translated("waiting for the writers of Cosmos DB"):
            async with engine.begin() as connection:
                await connection.execute(_BURY_ALL, {"waited_s": waited_s})
                await require_switch(connection, switch_id, SwitchStep.DRAINING)
                left = await unexpired_writers(connection)
        if not left:
            return
        if waited_s >= patience:
            named = ", ".join(f"{writer.name} ({writer.left_s:.1f} s left)" for writer in left)
            msg = f"writers of Cosmos DB do not end: {named}"
            raise ConflictError(msg)
        on_wait(left)
        await asyncio.sleep(_LOOK_S)


async def know_the_writers(engine: AsyncEngine, lease_s: float) -> int:
    """Make the leases on record those of the writers that are alive, before a drain makes anybody wait for them.

    Those that died are deleted when nobody renewed them in the time of a lease. After a failover that time is waited
    in any case: who has a lease of the server before, and is not on record here, has renewed it then, or it has ended.

    Args:
        engine: from core.postgres.engine.open_engine.
        lease_s: the longest lease that writers take.

    Returns:
        The timeline of the server that was asked: another one may not know them (`check_still_known`).

    Raises:
        TransientError: Postgres did not answer.

    """
    with translated("getting to know the writers of Cosmos DB"):
        async with engine.connect() as connection:
            [(may_write, is_new, timeline)] = [tuple(row) for row in await connection.execute(_IS_NEW)]
            found = await connection.execute(_OVERDUE, {"most": _WORTH_S})
            overdue = [tuple(row) for row in found] if may_write else []
        waits = [lease_s for _, _, lease_s in overdue] + ([lease_s] if may_write and is_new else [])
        if waits:
            await asyncio.sleep(max(waits))
            async with engine.begin() as connection:
                for writer, renewals, _ in overdue:
                    await connection.execute(_BURY, {"writer": writer, "renewals": renewals})
    return int(timeline)


async def check_still_known(connection: AsyncConnection, timeline: int) -> None:
    """See, in the transaction that drains, that no server has taken over since `know_the_writers`.

    Raises:
        ConflictError: one has; it may have forgotten leases that last still.

    """
    if (await connection.execute(_TIMELINE)).scalar_one() != timeline:
        msg = "Postgres has failed over since its writers were looked at; begin again"
        raise ConflictError(msg)
