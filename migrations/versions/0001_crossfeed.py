"""The first schema: phase, outbox, slots, tombstones, dead letters, checkpoints and the functions that arm triggers."""

from __future__ import annotations

from alembic import op

from core.postgres.statements import execute

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
    # -- The mapped tables whose writes are captured, and the tables of their aggregates below the root.
    """
    CREATE TABLE crossfeed.captured (
        entity   text COLLATE "C" PRIMARY KEY,
        relation regclass NOT NULL UNIQUE,
        routine  text NOT NULL UNIQUE,
        identity text[] NOT NULL,
        children regclass[] NOT NULL
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
        at            timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (entity, partition_key, id)
    )
    """,
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
        last_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        UNIQUE (direction, kind, entity, partition_key, id)
    )
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
    # -- Creates the triggers of one mapped table with the epoch as a literal, then sets their states: the WHEN clause
    # -- of the stamp leaves rows alone that are already right, and all but the fence leave the mirror alone.
    """
    CREATE FUNCTION crossfeed.arm(which text, new_epoch bigint, postgres_takes_writes boolean) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        mapped crossfeed.captured;
        child regclass;
        wanted text := CASE WHEN postgres_takes_writes THEN 'ENABLE' ELSE 'DISABLE' END;
        fence  text := CASE WHEN postgres_takes_writes THEN 'DISABLE' ELSE 'ENABLE' END;
        not_mirroring constant text := 'current_setting(''crossfeed.mirroring'', true) IS DISTINCT FROM ''on''';
    BEGIN
        SELECT * INTO STRICT mapped FROM crossfeed.captured WHERE entity = which;
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_stamp_insert BEFORE INSERT ON %s FOR EACH ROW
            WHEN (%s) EXECUTE FUNCTION crossfeed.%I(%L)',
            mapped.relation, not_mirroring, 'stamp_' || mapped.routine, new_epoch);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_stamp_update BEFORE UPDATE ON %s FOR EACH ROW
            WHEN (%s AND (NEW.crossfeed_epoch IS DISTINCT FROM %s
                OR NEW.crossfeed_version IS DISTINCT FROM OLD.crossfeed_version + 1 OR %s))
            EXECUTE FUNCTION crossfeed.%I(%L)',
            mapped.relation, not_mirroring, new_epoch,
            (SELECT string_agg(format('NEW.%1$I IS DISTINCT FROM OLD.%1$I', part), ' OR ')
             FROM unnest(mapped.identity) AS part),
            'stamp_' || mapped.routine, new_epoch);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_capture_insert AFTER INSERT ON %s
            REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (%s) EXECUTE FUNCTION crossfeed.%I()',
            mapped.relation, not_mirroring, 'captured_insert_' || mapped.routine);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_capture_update AFTER UPDATE ON %s
            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (%s)
            EXECUTE FUNCTION crossfeed.%I(%L)',
            mapped.relation, not_mirroring, 'captured_update_' || mapped.routine, new_epoch);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_capture_delete AFTER DELETE ON %s
            REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT WHEN (%s) EXECUTE FUNCTION crossfeed.%I(%L)',
            mapped.relation, not_mirroring, 'captured_delete_' || mapped.routine, new_epoch);
        EXECUTE format('ALTER TABLE %s %s TRIGGER crossfeed_stamp_insert, %2$s TRIGGER crossfeed_stamp_update,
            %2$s TRIGGER crossfeed_capture_insert, %2$s TRIGGER crossfeed_capture_update,
            %2$s TRIGGER crossfeed_capture_delete', mapped.relation, wanted);
        PERFORM crossfeed.arm_fence(mapped.relation, fence);
        FOREACH child IN ARRAY mapped.children LOOP
            EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_child_insert AFTER INSERT ON %s
                REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (%s) EXECUTE FUNCTION crossfeed.%I()',
                child, not_mirroring, 'child_insert_' || child::oid);
            EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_child_update AFTER UPDATE ON %s
                REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (%s)
                EXECUTE FUNCTION crossfeed.%I()', child, not_mirroring, 'child_update_' || child::oid);
            EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_child_delete AFTER DELETE ON %s
                REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT WHEN (%s) EXECUTE FUNCTION crossfeed.%I()',
                child, not_mirroring, 'child_delete_' || child::oid);
            EXECUTE format('ALTER TABLE %s %s TRIGGER crossfeed_child_insert, %2$s TRIGGER crossfeed_child_update,
                %2$s TRIGGER crossfeed_child_delete', child, wanted);
            PERFORM crossfeed.arm_fence(child, fence);
        END LOOP;
    END $$
    """,
    """
    CREATE FUNCTION crossfeed.arm_fence(relation regclass, wanted text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_refuse BEFORE INSERT OR UPDATE OR DELETE ON %s
            FOR EACH STATEMENT WHEN (current_setting(''crossfeed.mirroring'', true) IS DISTINCT FROM ''on'')
            EXECUTE FUNCTION crossfeed.refuse()', relation);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_refuse_truncate BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION crossfeed.refuse_truncate()', relation);
        EXECUTE format('ALTER TABLE %s %s TRIGGER crossfeed_refuse', relation, wanted);
    END $$
    """,
    # -- The one function that raises epochs. Locks in the fixed order (entities by name, children, the outbox), waits
    # -- for every writer in flight, re-creates the triggers, moves the phase.
    """
    CREATE FUNCTION crossfeed.open_epoch(new_phase smallint, who text, why text) RETURNS bigint
    LANGUAGE plpgsql AS $$
    DECLARE
        mapped crossfeed.captured;
        child regclass;
        next_epoch bigint;
        postgres_is_primary boolean := new_phase >= 2;
    BEGIN
        FOR mapped IN SELECT * FROM crossfeed.captured ORDER BY entity LOOP
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', mapped.relation);
            FOREACH child IN ARRAY mapped.children LOOP
                EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', child);
            END LOOP;
        END LOOP;
        LOCK TABLE crossfeed.outbox IN SHARE ROW EXCLUSIVE MODE;
        UPDATE crossfeed.phase SET phase = new_phase, epoch = epoch + 1, state = 'steady', switch_id = NULL
            RETURNING epoch INTO STRICT next_epoch;
        FOR mapped IN SELECT * FROM crossfeed.captured ORDER BY entity LOOP
            PERFORM crossfeed.arm(mapped.entity, next_epoch, postgres_is_primary);
        END LOOP;
        EXECUTE format('ALTER TABLE crossfeed.outbox %s TRIGGER crossfeed_refuse',
            CASE WHEN postgres_is_primary THEN 'DISABLE' ELSE 'ENABLE' END);
        INSERT INTO crossfeed.phase_history (epoch, phase, by_whom, why) VALUES (next_epoch, new_phase, who, why);
        RETURN next_epoch;
    END $$
    """,
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
