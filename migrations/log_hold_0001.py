"""What revision 0001 keeps of the log for whoever compares the stores while the relay sends nothing."""

from __future__ import annotations

LOG_HOLD_TABLES = (
    # -- Messages that `seen` does not show are not dropped until the hold is let go, or has run out: a step that died
    # -- must not keep the log for ever.
    """
    CREATE TABLE crossfeed.log_hold (
        hold  uuid PRIMARY KEY,
        seen  pg_snapshot NOT NULL,
        epoch bigint NOT NULL,
        until timestamptz NOT NULL
    )
    """,
)
