"""The functions of revision 0001 that cut the log into slots, and say how much of each has not been sent."""

from __future__ import annotations

SLOT_FUNCTIONS = (
    # -- Identities hash to so many slots for their states, and to as many after those for their events. The number is a
    # -- literal in the functions. The caller knows that everything in the log was sent; tokens go on from the old ones,
    # -- and no canary (core.postgres.canaries) is older than the new slots: the first ones are due at once.
    """
    CREATE FUNCTION crossfeed.cut_slots(slots integer) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        kind record;
        last record;
    BEGIN
        FOR kind IN SELECT * FROM (VALUES ('slot_of', 0), ('event_slot_of', slots)) AS kind(name, first) LOOP
            EXECUTE format('CREATE OR REPLACE FUNCTION crossfeed.%I(entity text, partition_key text, id text)
                RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $sql$
                    SELECT (%s + (hashtextextended(entity || partition_key || id, 0) & 2147483647) %% %s)::smallint
                $sql$', kind.name, kind.first, slots);
        END LOOP;
        SELECT coalesce(max(token), -1) AS token, max(system_identifier) AS system_identifier, max(timeline) AS timeline
            INTO last FROM crossfeed.slot;
        DELETE FROM crossfeed.slot;
        DELETE FROM crossfeed.canary WHERE direction = 'to_cosmos';
        INSERT INTO crossfeed.slot (slot, carries, seen, token, system_identifier, timeline)
            SELECT slot, CASE WHEN slot < slots THEN 'states' ELSE 'events' END, pg_current_snapshot(), last.token + 1,
                last.system_identifier, last.timeline
            FROM generate_series(0, 2 * slots - 1) AS slot;
        IF last.token >= 0 THEN
            INSERT INTO crossfeed.canary (direction, container, part, epoch, crossed_at, at)
                SELECT 'to_cosmos', '', slot, epoch, clock_timestamp(), clock_timestamp() - interval '1 h'
                FROM crossfeed.slot, crossfeed.phase;
        END IF;
    END $$
    """,
    # -- What each slot has not sent: exact up to `bound` messages of the slots that stand at one cursor, at least that
    # -- many above. Costs what it counts. Slots that have sent everything are left out, and
    # -- canaries (core.postgres.canaries), for which nobody waits.
    """
    CREATE FUNCTION crossfeed.unsent(bound integer)
    RETURNS TABLE (slot smallint, carries text, messages bigint, oldest timestamptz)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        at_one record;
        base pg_snapshot;
        arm text;
    BEGIN
        FOR at_one IN SELECT s.carries, s.seen::text::pg_snapshot AS seen, s.target::text::pg_snapshot AS target,
                s.position, array_agg(s.slot) AS slots
            FROM crossfeed.slot s GROUP BY s.carries, s.seen::text, s.target::text, s.position
        LOOP
            base := coalesce(at_one.target, at_one.seen);
            arm := format('SELECT slot, seq, at FROM crossfeed.outbox
                WHERE event_id IS %s AND slot = ANY (%L::smallint[]) AND NOT pg_visible_in_snapshot(xid, %L)
                    AND entity <> ''crossfeed:canary''',
                CASE at_one.carries WHEN 'events' THEN 'NOT NULL' ELSE 'NULL' END, at_one.slots, at_one.seen);
            RETURN QUERY EXECUTE format('
                SELECT slot, %7$L, count(*), min(at) FROM (
                    (%1$s AND xid >= %3$L ORDER BY xid LIMIT %2$s)
                    UNION (%1$s AND xid = ANY (%4$L::xid8[]) ORDER BY xid LIMIT %2$s)
                    UNION (%1$s AND seq > %5$s AND %6$L ORDER BY seq LIMIT %2$s)) AS found
                GROUP BY slot',
                arm, bound, pg_snapshot_xmax(base), ARRAY(SELECT pg_snapshot_xip(base)), at_one.position,
                at_one.target IS NOT NULL, at_one.carries);
        END LOOP;
    END $$
    """,
    # -- How many messages wait for a relay in this phase: what a scaler of relays asks. Exact up to `bound` of each
    # -- cursor.
    """
    CREATE FUNCTION crossfeed.backlog(bound integer DEFAULT 10000) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT coalesce(sum(messages), 0)::bigint FROM crossfeed.unsent(bound)
        WHERE carries = 'events' OR (SELECT phase = 2 FROM crossfeed.phase)
    $$
    """,
)
