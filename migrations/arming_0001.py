"""The functions of revision 0001 that arm triggers and move the epoch, apart from its tables because they are long."""

from __future__ import annotations

ARMING = (
    # -- Creates the triggers of one mapped table with the epoch as a literal, then sets their states. All leave the
    # -- mirror alone: the fence by its WHEN clause, those of capture by a question in their functions, which costs less
    # -- (Postgres reads a clause from its text in every statement while the trigger is enabled).
    """
    CREATE FUNCTION crossfeed.arm(which text, new_epoch bigint, postgres_takes_writes boolean) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        mapped crossfeed.captured;
        child regclass;
        wanted text := CASE WHEN postgres_takes_writes THEN 'ENABLE' ELSE 'DISABLE' END;
        fence  text := CASE WHEN postgres_takes_writes THEN 'DISABLE' ELSE 'ENABLE' END;
    BEGIN
        SELECT * INTO STRICT mapped FROM crossfeed.captured WHERE entity = which;
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_stamp_insert BEFORE INSERT ON %s FOR EACH ROW
            EXECUTE FUNCTION crossfeed.%I(%L)', mapped.relation, 'stamp_insert_' || mapped.routine, new_epoch);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_stamp_update BEFORE UPDATE ON %s FOR EACH ROW
            EXECUTE FUNCTION crossfeed.%I(%L)', mapped.relation, 'stamp_update_' || mapped.routine, new_epoch);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_capture_insert AFTER INSERT ON %s
            REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION crossfeed.%I()',
            mapped.relation, 'captured_insert_' || mapped.routine);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_capture_update AFTER UPDATE ON %s
            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT
            EXECUTE FUNCTION crossfeed.%I(%L)', mapped.relation, 'captured_update_' || mapped.routine, new_epoch);
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_capture_delete AFTER DELETE ON %s
            REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION crossfeed.%I(%L)',
            mapped.relation, 'captured_delete_' || mapped.routine, new_epoch);
        -- By its name it comes after crossfeed_capture_update, which asks for it.
        EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_lift_update AFTER UPDATE ON %s
            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT
            EXECUTE FUNCTION crossfeed.%I()', mapped.relation, 'lift_' || mapped.routine);
        EXECUTE format('ALTER TABLE %s %s TRIGGER crossfeed_stamp_insert, %2$s TRIGGER crossfeed_stamp_update,
            %2$s TRIGGER crossfeed_capture_insert, %2$s TRIGGER crossfeed_capture_update,
            %2$s TRIGGER crossfeed_capture_delete, %2$s TRIGGER crossfeed_lift_update', mapped.relation, wanted);
        PERFORM crossfeed.arm_fence(mapped.relation, fence);
        FOR n IN 1..cardinality(mapped.children) LOOP
            child := mapped.children[n];
            EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_child_insert AFTER INSERT ON %s
                REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION crossfeed.%I()',
                child, 'child_insert_' || mapped.routine || '_' || n);
            EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_child_update AFTER UPDATE ON %s
                REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT
                EXECUTE FUNCTION crossfeed.%I()', child, 'child_update_' || mapped.routine || '_' || n);
            EXECUTE format('CREATE OR REPLACE TRIGGER crossfeed_child_delete AFTER DELETE ON %s
                REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION crossfeed.%I()',
                child, 'child_delete_' || mapped.routine || '_' || n);
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
    CREATE FUNCTION crossfeed.open_epoch(new_phase smallint, who text, why text, at_least bigint DEFAULT 0)
    RETURNS bigint
    LANGUAGE plpgsql AS $$
    DECLARE
        mapped crossfeed.captured;
        child regclass;
        next_epoch bigint;
        postgres_is_primary boolean := new_phase >= 2;
        gone text;
    BEGIN
        SELECT string_agg(entity, ', ' ORDER BY entity) INTO gone FROM crossfeed.captured c WHERE EXISTS (
            SELECT FROM unnest(c.children || c.relation) AS t(oid) WHERE NOT EXISTS (
                SELECT FROM pg_class WHERE pg_class.oid = t.oid));
        IF gone IS NOT NULL THEN
            RAISE EXCEPTION 'crossfeed: a table was dropped whose writes are captured: mapping %', gone
                USING ERRCODE = 'CF003',
                    HINT = 'Call core.postgres.capture.remove(op, <the name of the mapping>) in a migration.';
        END IF;
        FOR mapped IN SELECT * FROM crossfeed.captured ORDER BY entity LOOP
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', mapped.relation);
            FOREACH child IN ARRAY mapped.children LOOP
                EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', child);
            END LOOP;
        END LOOP;
        LOCK TABLE crossfeed.outbox IN SHARE ROW EXCLUSIVE MODE;
        UPDATE crossfeed.phase SET phase = new_phase, epoch = greatest(epoch + 1, at_least), state = 'steady',
            switch_id = NULL RETURNING epoch INTO STRICT next_epoch;
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
