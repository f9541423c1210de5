"""Says which triggers of ours are not as the phase wants them: then writes are not captured, or not refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# In each phase capture is on and the fence is off, or the other way round. 'R' fires only for replicas: that is off.
# TRUNCATE is always refused. What `crossfeed.arm` makes for a table is as many rows in `expected`.
_WRONG = """
    WITH wanted AS (SELECT phase >= 2 AND state = 'steady' AS takes_writes FROM crossfeed.phase),
    expected AS (
        SELECT c.relation AS oid, name, (name = 'crossfeed_refuse') IS DISTINCT FROM w.takes_writes AS is_on
        FROM crossfeed.captured c CROSS JOIN wanted w CROSS JOIN unnest(ARRAY[
            'crossfeed_stamp_insert', 'crossfeed_stamp_update', 'crossfeed_capture_insert', 'crossfeed_capture_update',
            'crossfeed_capture_delete', 'crossfeed_lift_update', 'crossfeed_refuse']) AS name
        UNION ALL
        SELECT child, name, (name = 'crossfeed_refuse') IS DISTINCT FROM w.takes_writes
        FROM crossfeed.captured c CROSS JOIN wanted w CROSS JOIN unnest(c.children) AS child CROSS JOIN unnest(ARRAY[
            'crossfeed_child_insert', 'crossfeed_child_update', 'crossfeed_child_delete', 'crossfeed_refuse']) AS name
        UNION ALL
        SELECT oid, 'crossfeed_refuse_truncate', true
        FROM crossfeed.captured c CROSS JOIN unnest(c.children || c.relation) AS oid
        UNION ALL
        SELECT 'crossfeed.outbox'::regclass, 'crossfeed_refuse', NOT w.takes_writes FROM wanted w
    )
    SELECT coalesce(e.oid::regclass::text, '?'), e.name, e.is_on
    FROM expected e LEFT JOIN pg_trigger t ON t.tgrelid = e.oid AND t.tgname = e.name AND NOT t.tgisinternal
    WHERE coalesce(t.tgenabled IN ('O', 'A'), false) <> e.is_on ORDER BY 1, 2
"""


async def trigger_problems(connection: AsyncConnection) -> list[str]:
    """Compare the state of every trigger with the recorded phase; return what is wrong, nothing if all is well.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    rows: list[tuple[Any, ...]] = [tuple(row) for row in await connection.exec_driver_sql(_WRONG)]
    return [
        f"trigger {name} of {table} is {'off or missing' if is_on else 'on'}, against the phase"
        for table, name, is_on in rows
    ]
