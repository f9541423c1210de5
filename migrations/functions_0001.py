"""The tables of revision 0001 in which the triggers of Azure Functions say how far they are, for their health."""

from __future__ import annotations

# -- A trigger is not told which lease its batch is of, so a failure is known by its batch: another lease of the same
# -- trigger that works must not hide it.
FUNCTION_TABLES = (
    """
    CREATE TABLE crossfeed.trigger_progress (
        function  text PRIMARY KEY,
        container text NOT NULL,
        batches   bigint NOT NULL,
        documents bigint NOT NULL,
        newest_ts bigint NOT NULL,
        at        timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE crossfeed.trigger_failure (
        function text NOT NULL,
        batch    text NOT NULL,
        error    text NOT NULL,
        attempts bigint NOT NULL DEFAULT 1,
        since    timestamptz NOT NULL DEFAULT clock_timestamp(),
        at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (function, batch)
    )
    """,
)
