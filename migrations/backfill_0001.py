"""What revision 0001 knows of a backfill, so that one that is killed at any line goes on where it was."""

from __future__ import annotations

BACKFILL_TABLES = (
    # -- One row for each direction: whose turn it is (a lease with a fencing token that grows with every owner), and
    # -- how far the run is. `begun_at` is NULL where none is under way; `counts` is what was done, over all processes.
    # -- `begun_epoch` says whether the primary moved since: clocks do not agree across a failover.
    """
    CREATE TABLE crossfeed.backfill (
        target     text PRIMARY KEY CHECK (target IN ('postgres', 'cosmos')),
        owner      text,
        token      bigint NOT NULL DEFAULT 0,
        lease_s    double precision NOT NULL DEFAULT 0,
        expires_at timestamptz NOT NULL DEFAULT '-infinity',
        wanted     text[] NOT NULL DEFAULT '{}',
        counts     jsonb NOT NULL DEFAULT '{}',
        begun_at   timestamptz,
        begun_epoch bigint,
        moved_at   timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (fillfactor = 50)
    """,
    # -- What a run is cut into, each with the place up to which it is done: the feed ranges of a container, or the rows
    # -- and the tombstones of an entity type.
    """
    CREATE TABLE crossfeed.backfill_part (
        target text NOT NULL REFERENCES crossfeed.backfill,
        source text COLLATE "C" NOT NULL,
        part   text COLLATE "C" NOT NULL,
        range  jsonb,
        place  jsonb,
        done   boolean NOT NULL DEFAULT false,
        PRIMARY KEY (target, source, part)
    )
    """,
)

BACKFILL_ROWS = "INSERT INTO crossfeed.backfill (target) VALUES ('postgres'), ('cosmos')"
