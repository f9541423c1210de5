"""The leases of revision 0001: one function is a relay's whole heartbeat, so that none can be stopped inside it."""

from __future__ import annotations

# -- Empty after a crash, which ends every session but not the server: it tells one life of its memory from the next.
LIFE_TABLE = """
    CREATE UNLOGGED TABLE crossfeed.life (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        life     uuid NOT NULL DEFAULT gen_random_uuid()
    )
"""

LEASE_FUNCTIONS = (
    # -- Which run of which server answers, and which life of its memory: when one session is killed, all are ended and
    # -- the WAL is recovered as after a power cut. Transaction ids that left no trace in it are given out again, and
    # -- a snapshot of before would take them for those that it knew. (A standby cannot read an unlogged table.)
    """
    CREATE FUNCTION crossfeed.server() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        run constant text := extract(epoch FROM pg_postmaster_start_time());
    BEGIN
        IF pg_is_in_recovery() THEN
            RETURN run;
        END IF;
        RETURN run || coalesce((SELECT ' ' || life FROM crossfeed.life), '');
    END $$
    """,
    """
    CREATE FUNCTION crossfeed.begin_life() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        INSERT INTO crossfeed.life SELECT WHERE NOT EXISTS (SELECT FROM crossfeed.life) ON CONFLICT DO NOTHING
    $$
    """,
    # -- An expiry far in the future was set by a clock that has been put back since: it says nothing.
    """
    CREATE FUNCTION crossfeed.is_alive(expires_at timestamptz, lease_s double precision) RETURNS boolean
    LANGUAGE sql AS $$
        SELECT expires_at BETWEEN clock_timestamp() AND clock_timestamp() + make_interval(secs => 2 * lease_s)
    $$
    """,
    # -- The lock makes heartbeats one after the other, and each statement in here sees what the one before has
    # -- committed. The dead are deleted, and only a slot whose owner has no row is free: who comes late finds what
    # -- nobody took from it still its own. Nothing in here waits for a relay: a slot whose row one of them has locked
    # -- is taken at a later heartbeat. A token grows whenever its slot changes hands.
    """
    CREATE FUNCTION crossfeed.keep_leases(me uuid, my_name text, lease_s double precision)
    RETURNS TABLE (relays int, share int, server text, slot smallint, carries text, token bigint, seen text,
        target text, "position" bigint)
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        until constant timestamptz := clock_timestamp() + make_interval(secs => lease_s);
        others int;
        fair int;
        kind text;
        missing int;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('crossfeed.keep_leases', 0));
        PERFORM crossfeed.begin_life();
        DELETE FROM crossfeed.relay r WHERE r.relay <> me AND NOT crossfeed.is_alive(r.expires_at, r.lease_s);
        INSERT INTO crossfeed.relay (relay, name, lease_s, expires_at) VALUES (me, my_name, lease_s, until)
            ON CONFLICT (relay) DO UPDATE SET expires_at = excluded.expires_at;
        SELECT count(*) INTO others FROM crossfeed.relay r WHERE r.relay <> me;
        SELECT ceil(count(*)::numeric / (others + 1)) INTO fair FROM crossfeed.slot s WHERE s.carries = 'states';
        FOR kind, missing IN
            SELECT s.carries, fair - count(*) FILTER (WHERE s.owner = me) FROM crossfeed.slot s GROUP BY s.carries
        LOOP
            IF missing > 0 THEN
                UPDATE crossfeed.slot s SET owner = me, token = s.token + 1 WHERE s.slot IN (
                    SELECT f.slot FROM crossfeed.slot f
                    WHERE f.carries = kind AND NOT EXISTS (SELECT FROM crossfeed.relay r WHERE r.relay = f.owner)
                    ORDER BY f.slot LIMIT missing FOR UPDATE SKIP LOCKED);
            END IF;
        END LOOP;
        RETURN QUERY
            SELECT others + 1, fair, crossfeed.server(), s.slot, s.carries, s.token,
                s.seen::text, s.target::text, s.position
            FROM (SELECT) AS always LEFT JOIN crossfeed.slot s ON s.owner = me ORDER BY s.slot;
    END $$
    """,
)
