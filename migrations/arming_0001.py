"""The functions of revision 0001 that arm the triggers of one table, apart from its tables because they are long."""

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
)
