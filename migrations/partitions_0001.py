"""The functions of revision 0001 that make and drop the log's partitions, so that a relay needs no right to do DDL.

Tried on Postgres 18, and what follows from it:

- `CREATE TABLE … PARTITION OF` and every way to drop a partition take ACCESS EXCLUSIVE on the log, so they wait for all
  writers and all writers wait for them. Attaching waits for nobody who writes to another partition, so partitions are
  attached; dropping gives up after 50 ms.
- A statement knows the partitions that there were when it began. Writing one attached since fails it, by the
  constraint of the default partition, into which it routes the row. So partitions are attached far above the sequence,
  and not while a statement that has been running for a second holds the log: that one may be about to write millions.
  (Other roles' statements are seen by owners of this schema that have pg_read_all_stats.)
- Whoever has a row in a partition holds its lock until the transaction ends, prepared ones too. So with the lock in
  hand nothing in it is in progress, and a fresh snapshot sees what will ever be in it.
"""

from __future__ import annotations

PARTITION_FUNCTIONS = (
    # -- Makes sure that so many partitions above the sequence are empty; returns how many were made. What the sequence
    # -- has passed, or is about to, while nobody made one stays with the default partition, as a range of its own.
    """
    CREATE FUNCTION crossfeed.make_partitions(size bigint, ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
    DECLARE
        made integer := 0;
        drawn bigint := (SELECT last_value FROM crossfeed.outbox_seq);
        known bigint;
        first bigint;
    BEGIN
        IF NOT pg_try_advisory_xact_lock(hashtextextended('crossfeed.partitions', 0)) THEN
            RETURN 0;
        END IF;
        WHILE ahead > (SELECT count(*) FROM crossfeed.outbox_partition WHERE from_seq > drawn AND NOT in_default) LOOP
            IF EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                WHERE l.relation = 'crossfeed.outbox'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND a.state = 'active' AND a.query_start < clock_timestamp() - interval '1 s')
            THEN
                EXIT;
            END IF;
            known := (SELECT max(until_seq) FROM crossfeed.outbox_partition);
            first := CASE WHEN known IS NULL THEN 1 ELSE greatest(known, drawn + size / 4 + 1,
                (SELECT seq + 1 FROM crossfeed.outbox_default ORDER BY seq DESC LIMIT 1)) END;
            BEGIN
                EXECUTE format('CREATE TABLE crossfeed.%I (LIKE crossfeed.outbox INCLUDING ALL)', 'outbox_' || first);
                EXECUTE format('ALTER TABLE crossfeed.outbox ATTACH PARTITION crossfeed.%I
                    FOR VALUES FROM (%s) TO (%s)', 'outbox_' || first, first, first + size);
                IF first > known THEN
                    INSERT INTO crossfeed.outbox_partition (from_seq, until_seq, in_default)
                        VALUES (known, first, true);
                END IF;
                INSERT INTO crossfeed.outbox_partition (from_seq, until_seq) VALUES (first, first + size);
            EXCEPTION WHEN lock_not_available OR check_violation THEN
                EXIT;
            END;
            made := made + 1;
            -- Attaching looks through the default partition, with its writers waiting: once in a transaction.
            EXIT WHEN EXISTS (SELECT FROM crossfeed.outbox_default);
        END LOOP;
        RETURN made;
    END $$
    """,
    # -- Drops the oldest partition if it is full, its messages are older than what is kept and every cursor, and the
    # -- hold if there is one, is past them, or empties the default one. One at a time, for the caller to commit.
    # -- Returns 'dropped'; 'held' by one of them, the first time 'newly held'; 'busy': the lock was not to be had;
    # -- NULL: nothing is due.
    """
    CREATE FUNCTION crossfeed.drop_partition(keep_s double precision) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
    DECLARE
        drawn bigint := (SELECT last_value FROM crossfeed.outbox_seq);
        part crossfeed.outbox_partition;
        outcome text;
        its text;
        newest timestamptz;
        highest xid8;
        before pg_snapshot;
        due boolean;
        held boolean;
        late boolean;
    BEGIN
        IF NOT pg_try_advisory_xact_lock(hashtextextended('crossfeed.partitions', 0)) THEN
            RETURN NULL;
        END IF;
        -- Gone for good before anything is dropped that it holds: a clock that is put back must not revive it.
        DELETE FROM crossfeed.log_hold WHERE until <= clock_timestamp();
        FOR part IN SELECT * FROM crossfeed.outbox_partition WHERE from_seq IN (
                (SELECT min(from_seq) FROM crossfeed.outbox_partition WHERE dropped_at IS NULL AND NOT in_default),
                (SELECT min(from_seq) FROM crossfeed.outbox_partition WHERE dropped_at IS NULL AND in_default))
            ORDER BY in_default
        LOOP
            -- The default partition holds every range that has no other, and is emptied while the sequence is in one of
            -- them too, but not above all that are known: what is gone is told from what was lost by its range.
            CONTINUE WHEN CASE WHEN part.in_default
                THEN drawn < part.from_seq OR drawn >= (SELECT max(until_seq) FROM crossfeed.outbox_partition)
                ELSE drawn < part.until_seq END;
            its := CASE WHEN part.in_default THEN 'outbox_default' ELSE 'outbox_' || part.from_seq END;
            EXECUTE format('SELECT (SELECT at FROM crossfeed.%1$I ORDER BY seq DESC LIMIT 1),
                (SELECT xid FROM crossfeed.%1$I ORDER BY xid DESC LIMIT 1)', its) INTO newest, highest;
            due := newest IS NULL OR newest <= clock_timestamp() - make_interval(secs => keep_s);
            held := false;
            -- The long look comes before the lock; with it in hand only what this snapshot does not show matters.
            before := pg_current_snapshot();
            IF due THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM crossfeed.slot s JOIN crossfeed.%1$I o ON o.slot = s.slot
                    WHERE pg_snapshot_xmin(s.seen) <= %2$L AND NOT pg_visible_in_snapshot(o.xid, s.seen))
                    OR EXISTS (SELECT FROM crossfeed.log_hold h JOIN crossfeed.%1$I o
                        ON NOT pg_visible_in_snapshot(o.xid, h.seen)
                        WHERE h.until > clock_timestamp() AND pg_snapshot_xmin(h.seen) <= %2$L)', its, highest)
                    INTO held;
            END IF;
            IF held <> (part.held_since IS NOT NULL) THEN
                UPDATE crossfeed.outbox_partition SET held_since = CASE WHEN held THEN clock_timestamp() END
                    WHERE from_seq = part.from_seq;
            END IF;
            IF held AND coalesce(outcome, 'busy') = 'busy' THEN
                outcome := CASE WHEN part.held_since IS NULL THEN 'newly held' ELSE 'held' END;
            END IF;
            CONTINUE WHEN held OR NOT due;
            BEGIN
                IF NOT part.in_default THEN
                    LOCK TABLE ONLY crossfeed.outbox IN ACCESS EXCLUSIVE MODE;
                END IF;
                EXECUTE format('LOCK TABLE crossfeed.%I IN ACCESS EXCLUSIVE MODE', its);
                EXECUTE format('SELECT EXISTS (SELECT FROM crossfeed.%1$I WHERE xid = ANY (%2$L::xid8[]))
                    OR coalesce((SELECT xid FROM crossfeed.%1$I ORDER BY xid DESC LIMIT 1) >= %3$L, false)
                    OR coalesce((SELECT seq FROM crossfeed.%1$I ORDER BY seq DESC LIMIT 1) > %4$s, false)',
                    its, ARRAY(SELECT pg_snapshot_xip(before)), pg_snapshot_xmax(before), drawn) INTO late;
                IF late THEN
                    RAISE lock_not_available;
                END IF;
                EXECUTE format('%s TABLE crossfeed.%I', CASE WHEN part.in_default THEN 'TRUNCATE' ELSE 'DROP' END, its);
                INSERT INTO crossfeed.outbox_partition (from_seq, until_seq, in_default)
                    SELECT drawn + 1, until_seq, true FROM crossfeed.outbox_partition
                    WHERE part.in_default AND in_default AND from_seq <= drawn AND until_seq > drawn + 1;
                UPDATE crossfeed.outbox_partition
                    SET dropped_at = clock_timestamp(), newest_at = newest, until_seq = least(until_seq, drawn + 1)
                    WHERE from_seq = part.from_seq
                        OR part.in_default AND in_default AND dropped_at IS NULL AND from_seq <= drawn;
                RETURN 'dropped';
            EXCEPTION WHEN lock_not_available THEN
                outcome := coalesce(outcome, 'busy');
            END;
        END LOOP;
        RETURN outcome;
    END $$
    """,
)
