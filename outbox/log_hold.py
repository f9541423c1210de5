"""Keeps what is written while the stores are compared from being forgotten by the relays, which send nothing meanwhile.

In the phase `postgres_only` cursors move past states that nobody sends. Whoever is about to let Cosmos DB follow again
takes a hold first, compares then, and sets the cursors back to the hold in the transaction that opens the phase: what
the comparison may have missed is what the hold's snapshot did not see, and all of that goes out once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.errors import ConflictError
from core.migration.catch_up import Hold
from core.phases import Phase
from core.postgres.failures import translated
from core.postgres.phases import GIVE_WAY
from outbox.partitions import KEEP_PARTITIONS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.phases import PhaseRow

HOLD_S: Final = 3600.0
"""How long a hold that is not renewed keeps the log, in seconds: its process may have been killed."""

_RUN_OUT: Final = "the log is not held any more: its process slept, or took too long. Begin the step again"

# The transaction that writes the row has a later id than any that its snapshot knows: a crash after which ids are given
# out again takes the row with it.
_TAKE = """
    INSERT INTO crossfeed.log_hold (hold, seen, epoch, until)
    SELECT gen_random_uuid(), pg_current_snapshot(), epoch, clock_timestamp() + make_interval(secs => %(hold_s)s)
    FROM crossfeed.phase RETURNING hold, epoch
"""
_RENEW = """
    UPDATE crossfeed.log_hold SET until = clock_timestamp() + make_interval(secs => %(hold_s)s) WHERE hold = %(hold)s
"""
_RELEASE = "DELETE FROM crossfeed.log_hold WHERE hold = %(hold)s"

# What either of them had not seen, the cursor has not seen now. Owners lose their lease: a relay that read in the phase
# before can never store its cursor.
_REWIND = """
    WITH held AS (DELETE FROM crossfeed.log_hold WHERE hold = %(hold)s RETURNING seen)
    UPDATE crossfeed.slot s SET target = NULL, position = 0, owner = NULL, token = token + 1, at = clock_timestamp(),
        seen = (
            SELECT (coalesce((array_agg(open ORDER BY open))[1], back.xmax) || ':' || back.xmax || ':'
                || coalesce(string_agg(open::text, ',' ORDER BY open), ''))::pg_snapshot
            FROM (SELECT least(pg_snapshot_xmax(s.seen), pg_snapshot_xmax(held.seen)) AS xmax) AS back
            LEFT JOIN LATERAL (
                SELECT pg_snapshot_xip(s.seen) UNION SELECT pg_snapshot_xip(held.seen)
            ) AS either (open) ON open < back.xmax
            GROUP BY back.xmax)
    FROM held WHERE carries = 'states'
"""


class LogHold:
    """The port `core.migration.catch_up.Log` by the outbox.

    Args:
        engine: the database whose log it is.
        hold_s: how long a hold that is not renewed keeps the log, in seconds.

    """

    def __init__(self, engine: AsyncEngine, hold_s: float = HOLD_S) -> None:
        self._engine = engine
        self._hold_s = hold_s

    async def take(self) -> Hold:
        """See Log."""
        with translated("holding the log"):
            async with self._engine.begin() as connection:
                await connection.execute(GIVE_WAY)
                # Else somebody may be looking who drops what was written after the snapshot and before the commit.
                await connection.execute(KEEP_PARTITIONS)
                hold, epoch = tuple((await connection.exec_driver_sql(_TAKE, {"hold_s": self._hold_s})).one())
        return Hold(hold, epoch)

    async def renew(self, hold: Hold) -> None:
        """See Log."""
        if not await self._change(_RENEW, {"hold": hold.id, "hold_s": self._hold_s}):
            raise ConflictError(_RUN_OUT)

    async def release(self, hold: Hold) -> None:
        """See Log."""
        await self._change(_RELEASE, {"hold": hold.id})

    async def rewind(self, connection: AsyncConnection, hold: Hold, opened: PhaseRow) -> None:
        """See Log."""
        if opened.phase is not Phase.DUAL_WRITE_POSTGRES_READ or opened.epoch != hold.epoch + 1:
            msg = f"the stores were compared in epoch {hold.epoch}; another step was made meanwhile, begin again"
            raise ConflictError(msg)
        await connection.execute(KEEP_PARTITIONS)
        if (await connection.exec_driver_sql(_REWIND, {"hold": hold.id})).rowcount == 0:
            raise ConflictError(_RUN_OUT)

    async def _change(self, sql: str, facts: dict[str, Any]) -> bool:
        with translated("holding the log"):
            async with self._engine.begin() as connection:
                return (await connection.exec_driver_sql(sql, facts)).rowcount == 1
