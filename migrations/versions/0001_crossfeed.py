"""The first schema: phase, outbox, slots, tombstones, dead letters, checkpoints and the functions that arm triggers."""

from __future__ import annotations

from alembic import op

from core.postgres.statements import execute
from migrations.arming_0001 import ARMING
from migrations.misfits_0001 import MISFITS

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # -- One row: who is primary. Every step raises the epoch.
    """
    CREATE TABLE crossfeed.phase (
        only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        phase     smallint NOT NULL CHECK (phase BETWEEN 0 AND 3),
        epoch     bigint NOT NULL CHECK (epoch > 0),
        state     text NOT NULL CHECK (state IN ('steady', 'draining')),
        switch_id uuid,
        CHECK ((state = 'draining') = (switch_id IS NOT NULL))
    )
    """,
    """
    CREATE TABLE crossfeed.phase_history (
        epoch   bigint PRIMARY KEY,
        phase   smallint NOT NULL,
        at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        by_whom text NOT NULL,
        why     text NOT NULL
    )
    """,
    # -- The mapped tables whose writes are captured, and the tables of their aggregates below the root with the columns
    # -- of each that name the root.
    """
    CREATE TABLE crossfeed.captured (
        entity   text COLLATE "C" PRIMARY KEY,
        relation regclass NOT NULL UNIQUE,
        routine  text NOT NULL UNIQUE,
        identity text[] NOT NULL,
        children regclass[] NOT NULL,
        parents  text[][] NOT NULL
    )
    """,
    # -- Append-only; the relay never updates or deletes a row of it. CACHE 1: the sequence is the order.
    """
    CREATE TABLE crossfeed.outbox (
        seq           bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
        xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
        slot          smallint NOT NULL,
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        epoch         bigint NOT NULL,
        version       bigint NOT NULL,
        deleted       boolean NOT NULL,
        traceparent   text,
        at            timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # -- The delta of two snapshots is found by transaction id, a large one is paged by seq.
    "CREATE INDEX outbox_xid ON crossfeed.outbox (xid)",
    """
    CREATE TABLE crossfeed.slot (
        slot     smallint PRIMARY KEY,
        seen     pg_snapshot NOT NULL,
        target   pg_snapshot,
        position bigint NOT NULL DEFAULT 0,
        at       timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE crossfeed.tombstone (
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        epoch         bigint NOT NULL,
        version       bigint NOT NULL,
        etag          text,
        ts            bigint,
        lsn           bigint,
        at            timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # -- Keys may be longer than what an index entry holds, so a digest of them is the key here and below.
    "CREATE UNIQUE INDEX tombstone_identity ON crossfeed.tombstone (entity, (md5(partition_key || id)::uuid))",
    # -- json, not jsonb: a document is dead for what jsonb would refuse.
    """
    CREATE TABLE crossfeed.dead_letter (
        number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        direction     text NOT NULL CHECK (direction IN ('to_cosmos', 'to_postgres')),
        kind          text NOT NULL,
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        reason        text NOT NULL,
        document      json,
        attempts      bigint NOT NULL DEFAULT 1,
        first_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at       timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE UNIQUE INDEX dead_letter_identity
        ON crossfeed.dead_letter (direction, kind, entity, (md5(partition_key || id)::uuid))
    """,
    """
    CREATE TABLE crossfeed.checkpoint (
        container    text NOT NULL,
        feed_range   text NOT NULL,
        continuation text NOT NULL,
        epoch        bigint NOT NULL,
        at           timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (container, feed_range)
    )
    """,
)

SLOTS = 16

FUNCTIONS = (
    # -- One level of a partition key as core.identity.key_text spells it: equal numbers have equal texts.
    """
    CREATE FUNCTION crossfeed.key_part(part jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
        SELECT CASE jsonb_typeof(part)
            WHEN 'number' THEN trim_scale(part::numeric)::text
            WHEN 'string' THEN to_json(part #>> '{}')::text
            ELSE coalesce(part::text, 'null')
        END
    $$
    """,
    # -- The number of slots is a literal here; it changes only drained.
    f"""
    CREATE FUNCTION crossfeed.slot_of(entity text, partition_key text, id text) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
        SELECT ((hashtextextended(entity || partition_key || id, 0) & 2147483647) % {SLOTS})::smallint
    $$
    """,
    # -- The fence: nobody but the mirror writes while this store is not the primary, or is being drained.
    """
    CREATE FUNCTION crossfeed.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'crossfeed: Postgres does not take writes now (%.%)', TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'CF001',
                HINT = 'Cosmos DB is primary, or a switch is draining writers: see crossfeed.phase.';
    END $$
    """,
    """
    CREATE FUNCTION crossfeed.refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'crossfeed: TRUNCATE of %.% cannot be captured', TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'CF002', HINT = 'Use DELETE: every document needs its tombstone.';
    END $$
    """,
    *ARMING,
    MISFITS,
)

ROWS = (
    "INSERT INTO crossfeed.phase (phase, epoch, state) VALUES (0, 1, 'steady')",
    "INSERT INTO crossfeed.phase_history (epoch, phase, by_whom, why) VALUES (1, 0, current_user, 'migrated')",
    f"""
    INSERT INTO crossfeed.slot (slot, seen)
    SELECT slot, pg_current_snapshot() FROM generate_series(0, {SLOTS - 1}) AS slot
    """,
    "SELECT crossfeed.arm_fence('crossfeed.outbox', 'ENABLE')",
)


def upgrade() -> None:
    """Create everything."""
    for statement in (*TABLES, *FUNCTIONS, *ROWS):
        execute(op, statement)
