"""The table of revision 0001 in which carriers say how far their canaries are (core.postgres.canaries)."""

from __future__ import annotations

CANARY_TABLES = (
    # -- `part` is a slot's number (`container` is empty then), or the id of the document that is probed into a feed
    # -- range. `written` is null of one that was only seen.
    """
    CREATE TABLE crossfeed.canary (
        direction    text NOT NULL CHECK (direction IN ('to_cosmos', 'to_postgres')),
        container    text NOT NULL,
        part         text NOT NULL,
        epoch        bigint,
        written      text,
        seen         text,
        unseen_since timestamptz,
        crossed_at   timestamptz,
        lag_s        double precision,
        at           timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (direction, container, part)
    ) WITH (fillfactor = 50)
    """,
)
