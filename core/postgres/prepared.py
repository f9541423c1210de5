"""Lets the hot statements of a connection be prepared: no planning for each, where the connection leads to Postgres.

Behind a pooler the next statement may meet another session, so there nothing is prepared. What is prepared is only what
asks for it (`core.postgres.engine.fetch`, `core.postgres.pipeline`), and no result of that takes its columns from a
table of the user's: a migration may change the table meanwhile, then Postgres plans anew.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from core.postgres.engine import fetch, raw

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

REPLAN_S: Final = 10.0
"""How long plans are used, in seconds: a table may have grown from empty to large, and not been analyzed yet."""

_PLANNED_AT: Final = "crossfeed_planned_at"


async def leads_to_postgres(connection: AsyncConnection) -> bool:
    """Whether the process that answers is the one that the connection was opened with; a pooler says its own."""
    [(pid,)] = await fetch(connection, "SELECT pg_backend_pid()", {})
    return bool(pid == (await raw(connection)).info.backend_pid)


async def let_prepare(connection: AsyncConnection, clock: Callable[[], float] = time.monotonic) -> None:
    """Let hot statements be prepared from now on, for as long as the driver's connection lives in its pool.

    Args:
        connection: may be in a transaction.
        clock: seconds.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    info, now = (await connection.get_raw_connection()).info, clock()
    if _PLANNED_AT not in info:
        prepares = await leads_to_postgres(connection)
        info[_PLANNED_AT] = now if prepares else None
        if prepares:
            (await raw(connection)).prepare_threshold = sys.maxsize  # only what asks for it
    elif info[_PLANNED_AT] is not None and now - info[_PLANNED_AT] >= REPLAN_S:
        await (await raw(connection)).execute("DISCARD PLANS")
        info[_PLANNED_AT] = now
