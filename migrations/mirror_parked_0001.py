"""The table of revision 0001 for documents that Postgres refused because of the state of another document."""

from __future__ import annotations

MIRROR_PARKED_TABLES = (
    # -- One row a document: what is tried again is read by its key. Etag and position are those of the state that was
    # -- refused: what is not as far was read from a replica that lags, and a state that is settles it.
    """
    CREATE TABLE crossfeed.mirror_parked (
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        etag          text NOT NULL,
        ts            bigint NOT NULL,
        lsn           bigint NOT NULL,
        reason        text NOT NULL,
        attempts      bigint NOT NULL DEFAULT 1,
        first_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        retry_at      timestamptz NOT NULL
    ) WITH (fillfactor = 50)
    """,
    "CREATE UNIQUE INDEX mirror_parked_identity ON crossfeed.mirror_parked (entity, (md5(partition_key || id)::uuid))",
    "CREATE INDEX mirror_parked_due ON crossfeed.mirror_parked (retry_at)",
)
