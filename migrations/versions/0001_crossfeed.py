"""The first schema: phase, outbox, slots, tombstones, dead letters, checkpoints and the functions that arm triggers."""

from __future__ import annotations

from alembic import op

from core.postgres.statements import execute
from migrations.arming_0001 import ARMING
from migrations.backfill_0001 import BACKFILL_ROWS, BACKFILL_TABLES
from migrations.canary_0001 import CANARY_TABLES
from migrations.events_0001 import EVENT_FUNCTIONS, EVENT_TABLES
from migrations.feed_0001 import FEED_FUNCTIONS, FEED_TABLES
from migrations.functions_0001 import FUNCTION_TABLES
from migrations.inbox_0001 import INBOX_TABLES
from migrations.leases_0001 import LEASE_FUNCTIONS, LIFE_TABLE
from migrations.lineage_0001 import LINEAGE_ROW, LINEAGE_TABLE
from migrations.log_0001 import LOG_ROWS, LOG_TABLES
from migrations.log_hold_0001 import LOG_HOLD_TABLES
from migrations.mirror_parked_0001 import MIRROR_PARKED_TABLES
from migrations.misfits_0001 import MISFITS
from migrations.overview_0001 import OVERVIEW_TABLES
from migrations.partitions_0001 import PARTITION_FUNCTIONS
from migrations.phases_0001 import PHASE_FUNCTIONS, PHASE_ROWS, PHASE_TABLES
from migrations.reconcile_0001 import RECONCILE_ROW, RECONCILE_TABLES
from migrations.routing_0001 import LEFT_BEHIND
from migrations.slots_0001 import SLOT_FUNCTIONS
from migrations.watermarks_0001 import WATERMARK_TABLES

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
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
    # -- json, not jsonb: a document is dead for what jsonb would refuse. The reference tells letters of one document
    # -- apart: an event's id. An event keeps its place in the log, so that it can be replayed in order.
    """
    CREATE TABLE crossfeed.dead_letter (
        number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        direction     text NOT NULL CHECK (direction IN ('to_cosmos', 'to_postgres')),
        kind          text NOT NULL,
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        reference     text NOT NULL DEFAULT '',
        seq           bigint,
        traceparent   text,
        reason        text NOT NULL,
        document      json,
        ts            bigint,
        lsn           bigint,
        attempts      bigint NOT NULL DEFAULT 1,
        first_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at       timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE UNIQUE INDEX dead_letter_identity
        ON crossfeed.dead_letter (direction, kind, entity, (md5(partition_key || id)::uuid), reference)
    """,
)

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
    *PARTITION_FUNCTIONS,
    *SLOT_FUNCTIONS,
    *EVENT_FUNCTIONS,
    *LEASE_FUNCTIONS,
    *FEED_FUNCTIONS,
    *ARMING,
    *PHASE_FUNCTIONS,
    LEFT_BEHIND,
    MISFITS,
)

ROWS = (
    *PHASE_ROWS,
    *LOG_ROWS,
    LINEAGE_ROW,
    RECONCILE_ROW,
    BACKFILL_ROWS,
    "SELECT crossfeed.arm_fence('crossfeed.outbox', 'ENABLE')",
)


def upgrade() -> None:
    """Create everything."""
    tables: tuple[str, ...] = (*PHASE_TABLES, *TABLES, *LOG_TABLES, *EVENT_TABLES, *INBOX_TABLES, LINEAGE_TABLE)
    tables = (*tables, LIFE_TABLE, *RECONCILE_TABLES, *MIRROR_PARKED_TABLES, *FUNCTION_TABLES, *FEED_TABLES)
    tables = (*tables, *WATERMARK_TABLES, *LOG_HOLD_TABLES, *BACKFILL_TABLES, *CANARY_TABLES)
    tables = (*tables, *OVERVIEW_TABLES)
    for statement in (*tables, *FUNCTIONS, *ROWS):
        execute(op, statement)
