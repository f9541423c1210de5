"""What revision 0001 knows of a reconcile pass, so that one that is killed at any line goes on where it was."""

from __future__ import annotations

RECONCILE_TABLES = (
    # -- One row: whose turn it is (a lease with a fencing token that grows with every owner), and how far the round is.
    # -- `todo` begins with the container under way; `step` and `place` are where it is, `counts` what was found in it.
    # -- `reports` are the containers that are done. `completed_at`: when a round over all containers ended last.
    """
    CREATE TABLE crossfeed.reconcile (
        only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        owner        text,
        token        bigint NOT NULL DEFAULT 0,
        lease_s      double precision NOT NULL DEFAULT 0,
        expires_at   timestamptz NOT NULL DEFAULT '-infinity',
        wanted       text[] NOT NULL DEFAULT '{}',
        todo         text[] NOT NULL DEFAULT '{}',
        dry          boolean NOT NULL DEFAULT false,
        epoch        bigint NOT NULL DEFAULT 0,
        step         text NOT NULL DEFAULT 'begin'
            CHECK (step IN ('begin', 'documents', 'tail', 'rows', 'doubts')),
        place        jsonb NOT NULL DEFAULT '{}',
        counts       jsonb NOT NULL DEFAULT '{}',
        reports      jsonb NOT NULL DEFAULT '[]',
        moved_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        completed_at timestamptz
    ) WITH (fillfactor = 50)
    """,
    # -- The feed ranges of the container under way, each with how far it was read.
    """
    CREATE TABLE crossfeed.reconcile_range (
        feed_range   text COLLATE "C" PRIMARY KEY,
        token        jsonb NOT NULL,
        continuation text,
        passed       boolean NOT NULL DEFAULT false
    )
    """,
    # -- What its documents are: md5 of (entity, partition key, id). Emptied by TRUNCATE: nothing to vacuum.
    "CREATE TABLE crossfeed.reconcile_seen (digest uuid PRIMARY KEY)",
    # -- What has to be looked at twice: a row without a document ('absent') or a document older than its row ('old'),
    # -- with the row's stamp and what it was taken from, as they were before anybody looked. `read_at`: after the first
    # -- look.
    """
    CREATE TABLE crossfeed.reconcile_doubt (
        number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind          text NOT NULL CHECK (kind IN ('absent', 'old')),
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        epoch         bigint NOT NULL,
        version       bigint NOT NULL,
        etag          text,
        ts            bigint,
        lsn           bigint,
        document_etag text,
        noticed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
        read_at       timestamptz
    )
    """,
    """
    CREATE UNIQUE INDEX reconcile_doubt_identity
        ON crossfeed.reconcile_doubt (entity, (md5(partition_key || id)::uuid))
    """,
    "CREATE INDEX reconcile_doubt_read ON crossfeed.reconcile_doubt (read_at NULLS FIRST, number)",
)

RECONCILE_ROW = "INSERT INTO crossfeed.reconcile DEFAULT VALUES"
