"""The table of revision 0001 in which the mirror says which barrier watermarks have come out of the change feeds."""

from __future__ import annotations

WATERMARK_TABLES = (
    # -- By the etag: what proves that a feed was read so far is the very write of the switch that waits for it.
    """
    CREATE TABLE crossfeed.watermark_seen (
        container text NOT NULL,
        id        text NOT NULL,
        etag      text NOT NULL,
        seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (container, id, etag)
    )
    """,
)
