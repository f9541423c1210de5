"""The phase of revision 0001: its row and history, the switches between primaries, leases of writers of Cosmos DB."""

from __future__ import annotations

PHASE_TABLES = (
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
    # -- A move of the primary, as far as it is. `facts` is what it has found on its way, for whoever resumes it.
    """
    CREATE TABLE crossfeed.switch (
        id           uuid PRIMARY KEY,
        from_phase   smallint NOT NULL,
        to_phase     smallint NOT NULL,
        from_epoch   bigint NOT NULL,
        opened_epoch bigint,
        step         text NOT NULL CHECK (step IN ('draining', 'opened', 'done', 'cancelled')),
        by_whom      text NOT NULL,
        why          text NOT NULL,
        started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        drained_at   timestamptz,
        flipped_at   timestamptz,
        ended_at     timestamptz,
        facts        jsonb NOT NULL DEFAULT '{}',
        report       jsonb,
        CHECK ((step IN ('opened', 'done')) = (opened_epoch IS NOT NULL)),
        CHECK (opened_epoch > from_epoch),
        CHECK ((step IN ('done', 'cancelled')) = (ended_at IS NOT NULL))
    )
    """,
    # -- The rule that there is one at a time, whoever writes the row.
    """
    CREATE UNIQUE INDEX switch_pending ON crossfeed.switch ((true)) WHERE step IN ('draining', 'opened')
    """,
    """
    CREATE TABLE crossfeed.phase_history (
        epoch     bigint PRIMARY KEY,
        phase     smallint NOT NULL,
        at        timestamptz NOT NULL DEFAULT clock_timestamp(),
        by_whom   text NOT NULL,
        why       text NOT NULL,
        timeline  bigint NOT NULL,
        switch_id uuid UNIQUE REFERENCES crossfeed.switch
    )
    """,
    # -- Who may write to Cosmos DB. The count of renewals says without any clock whether one was renewed meanwhile.
    """
    CREATE TABLE crossfeed.writer (
        writer     uuid PRIMARY KEY,
        name       text NOT NULL,
        lease_s    double precision NOT NULL CHECK (lease_s > 0),
        phase      smallint NOT NULL,
        epoch      bigint NOT NULL,
        renewals   bigint NOT NULL DEFAULT 1,
        expires_at timestamptz NOT NULL
    )
    """,
)

PHASE_FUNCTIONS = (
    # -- Of the WAL that is being written: another one after a failover, which may have forgotten the last commits.
    """
    CREATE FUNCTION crossfeed.timeline() RETURNS bigint LANGUAGE sql AS $$
        SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
    $$
    """,
    # -- For this transaction: others act on it as soon as it is answered, so a crash must not undo it.
    """
    CREATE FUNCTION crossfeed.commit_durably() RETURNS void LANGUAGE sql AS $$
        SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'
    $$
    """,
    # -- The lock on the phase row: a renewal comes before a drain, and the drain sees it, or after, and is refused. One
    # -- that is refused changes nothing: its writer may have writes in flight under the lease that it has, until that
    # -- has run out or it hands it back itself. Writers need no right to the phase row for this.
    """
    CREATE FUNCTION crossfeed.renew_writer(me uuid, my_name text, my_lease_s double precision)
    RETURNS TABLE (phase smallint, epoch bigint, state text, granted boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    #variable_conflict use_column
    DECLARE
        now_in crossfeed.phase;
        may_write boolean;
    BEGIN
        SELECT * INTO STRICT now_in FROM crossfeed.phase FOR SHARE;
        may_write := now_in.phase < 2 AND now_in.state = 'steady';
        IF may_write THEN
            PERFORM crossfeed.commit_durably();
            INSERT INTO crossfeed.writer AS w (writer, name, lease_s, phase, epoch, expires_at)
            VALUES (me, my_name, my_lease_s, now_in.phase, now_in.epoch,
                clock_timestamp() + make_interval(secs => my_lease_s))
            ON CONFLICT (writer) DO UPDATE SET lease_s = greatest(w.lease_s, excluded.lease_s), phase = excluded.phase,
                epoch = excluded.epoch, renewals = w.renewals + 1, expires_at = excluded.expires_at;
        END IF;
        RETURN QUERY SELECT now_in.phase, now_in.epoch, now_in.state, may_write;
    END $$
    """,
    # -- By a writer that has no write in flight and begins none.
    """
    CREATE FUNCTION crossfeed.release_writer(me uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DELETE FROM crossfeed.writer WHERE writer = me
    $$
    """,
    # -- Locks in the fixed order (entities by name, children, the outbox) and so waits for every writer in flight. Of
    # -- the outbox alone, not of its partitions: nobody writes to those past it, and vacuum is at one at any time.
    """
    CREATE FUNCTION crossfeed.lock_writers_out() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        mapped crossfeed.captured;
        child regclass;
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
        LOCK TABLE ONLY crossfeed.outbox IN SHARE ROW EXCLUSIVE MODE;
    END $$
    """,
    # -- By whoever holds those locks.
    """
    CREATE FUNCTION crossfeed.arm_all(with_epoch bigint, postgres_takes_writes boolean) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        mapped crossfeed.captured;
    BEGIN
        FOR mapped IN SELECT * FROM crossfeed.captured ORDER BY entity LOOP
            PERFORM crossfeed.arm(mapped.entity, with_epoch, postgres_takes_writes);
        END LOOP;
        EXECUTE format('ALTER TABLE ONLY crossfeed.outbox %s TRIGGER crossfeed_refuse',
            CASE WHEN postgres_takes_writes THEN 'DISABLE' ELSE 'ENABLE' END);
    END $$
    """,
    # -- The phase row comes first everywhere: steps at once go one after the other, each from what the other left.
    """
    CREATE FUNCTION crossfeed.drain(the_switch uuid, to_phase smallint, who text, why text) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        was crossfeed.phase;
        started constant timestamptz := clock_timestamp();
    BEGIN
        SELECT * INTO STRICT was FROM crossfeed.phase FOR UPDATE;
        IF was.state <> 'steady' OR EXISTS (SELECT FROM crossfeed.switch s WHERE s.step IN ('draining', 'opened')) THEN
            RAISE EXCEPTION 'crossfeed: a switch is under way' USING ERRCODE = 'CF005';
        END IF;
        IF (was.phase, to_phase) NOT IN ((1, 2), (2, 1)) THEN
            RAISE EXCEPTION 'crossfeed: a step from phase % to % does not move the primary', was.phase, to_phase
                USING ERRCODE = 'CF005';
        END IF;
        IF was.phase = 2 THEN
            PERFORM crossfeed.lock_writers_out();
            PERFORM crossfeed.arm_all(was.epoch, false);
        END IF;
        INSERT INTO crossfeed.switch (id, from_phase, to_phase, from_epoch, step, by_whom, why, started_at, drained_at)
        VALUES (the_switch, was.phase, to_phase, was.epoch, 'draining', who, why, started, clock_timestamp());
        UPDATE crossfeed.phase SET state = 'draining', switch_id = the_switch;
    END $$
    """,
    """
    CREATE FUNCTION crossfeed.undrain(the_switch uuid) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        was crossfeed.phase;
    BEGIN
        SELECT * INTO STRICT was FROM crossfeed.phase FOR UPDATE;
        IF was.switch_id IS DISTINCT FROM the_switch THEN
            RAISE EXCEPTION 'crossfeed: this switch is not draining, or not any more' USING ERRCODE = 'CF005';
        END IF;
        IF was.phase = 2 THEN
            PERFORM crossfeed.lock_writers_out();
            PERFORM crossfeed.arm_all(was.epoch, true);
        END IF;
        UPDATE crossfeed.switch SET step = 'cancelled', ended_at = clock_timestamp() WHERE id = the_switch;
        UPDATE crossfeed.phase SET state = 'steady', switch_id = NULL;
    END $$
    """,
    # -- The one function that raises epochs: waits for writers in flight, moves the phase, re-creates the triggers.
    # -- A switch (null: a step that drains nobody) is matched within the locks: one that was cancelled while it slept
    # -- opens nothing, nor does one that leaves a writer of Cosmos DB behind.
    """
    CREATE FUNCTION crossfeed.open_epoch(
        new_phase smallint, who text, why text, at_least bigint DEFAULT 0, the_switch uuid DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql AS $$
    DECLARE
        was crossfeed.phase;
        next_epoch bigint;
        postgres_is_primary constant boolean := new_phase >= 2;
    BEGIN
        SELECT * INTO STRICT was FROM crossfeed.phase FOR UPDATE;
        IF was.switch_id IS DISTINCT FROM the_switch THEN
            RAISE EXCEPTION 'crossfeed: %', CASE WHEN the_switch IS NULL THEN 'a switch is under way'
                ELSE 'this switch is not draining, or not any more' END USING ERRCODE = 'CF005';
        END IF;
        PERFORM crossfeed.lock_writers_out();
        IF the_switch IS NOT NULL AND postgres_is_primary AND EXISTS (SELECT FROM crossfeed.writer) THEN
            RAISE EXCEPTION 'crossfeed: a writer of Cosmos DB has not ended' USING ERRCODE = 'CF005';
        END IF;
        next_epoch := greatest(was.epoch + 1, at_least);
        UPDATE crossfeed.phase SET phase = new_phase, epoch = next_epoch, state = 'steady', switch_id = NULL;
        PERFORM crossfeed.arm_all(next_epoch, postgres_is_primary);
        IF the_switch IS NOT NULL THEN
            UPDATE crossfeed.switch SET step = 'opened', opened_epoch = next_epoch, flipped_at = clock_timestamp()
            WHERE id = the_switch AND step = 'draining' AND to_phase = new_phase;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'crossfeed: this switch does not open phase %', new_phase USING ERRCODE = 'CF005';
            END IF;
        END IF;
        INSERT INTO crossfeed.phase_history (epoch, phase, by_whom, why, timeline, switch_id)
        VALUES (next_epoch, new_phase, who, why, crossfeed.timeline(), the_switch);
        RETURN next_epoch;
    END $$
    """,
)

PHASE_ROWS = (
    "INSERT INTO crossfeed.phase (phase, epoch, state) VALUES (0, 1, 'steady')",
    """
    INSERT INTO crossfeed.phase_history (epoch, phase, by_whom, why, timeline)
    VALUES (1, 0, current_user, 'migrated', crossfeed.timeline())
    """,
)
