"""The change feed processors of revision 0001: who reads which feed range, and how far it has come."""

from __future__ import annotations

FEED_TABLES = (
    # -- A token is never given out twice: a range that was split, merged or read anew begins with one nobody has held.
    "CREATE SEQUENCE crossfeed.feed_token",
    """
    CREATE TABLE crossfeed.feed_processor (
        processor  uuid PRIMARY KEY,
        name       text NOT NULL,
        feeds      text[] NOT NULL,
        lease_s    double precision NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    # -- The bounds are hashes in hexadecimal: their order is that of their bytes. Lease and checkpoint are one row, so
    # -- that one statement moves the checkpoint and finds the range another's.
    """
    CREATE TABLE crossfeed.feed_range (
        feed         text NOT NULL,
        lower_bound  text COLLATE "C" NOT NULL,
        upper_bound  text COLLATE "C" NOT NULL CHECK (lower_bound < upper_bound),
        continuation text,
        epoch        bigint,
        at           timestamptz NOT NULL DEFAULT clock_timestamp(),
        owner        uuid,
        token        bigint NOT NULL DEFAULT nextval('crossfeed.feed_token'),
        PRIMARY KEY (feed, lower_bound, upper_bound)
    )
    """,
)

FEED_FUNCTIONS = (
    # -- A processor's whole heartbeat, as crossfeed.keep_leases is a relay's: nobody can be stopped inside it, nothing
    # -- waits, and a range whose row is locked is taken later. A range counts for as much as one divided by those that
    # -- may read it, and what the fewest may read is taken first: so none is left over when processors differ. Who has
    # -- enough takes such a one in exchange for one that more may read, which is a surplus then. Who is
    # -- leaving reads nothing any more and counts for nobody, but keeps what it has until it lets go.
    """
    CREATE FUNCTION crossfeed.keep_feed_leases(
        me uuid, my_name text, my_lease_s double precision, my_feeds text[], is_leaving boolean)
    RETURNS TABLE (processors int, share int, feed text, lower_bound text, upper_bound text, token bigint)
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        until constant timestamptz := clock_timestamp() + make_interval(secs => my_lease_s);
        alive int;
        fair int;
        missing int;
        most numeric;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('crossfeed.keep_feed_leases', 0));
        DELETE FROM crossfeed.feed_processor p
            WHERE p.processor <> me AND NOT crossfeed.is_alive(p.expires_at, p.lease_s);
        INSERT INTO crossfeed.feed_processor (processor, name, feeds, lease_s, expires_at)
            VALUES (me, my_name, CASE WHEN is_leaving THEN '{}' ELSE my_feeds END, my_lease_s, until)
            ON CONFLICT (processor) DO UPDATE SET expires_at = excluded.expires_at, feeds = excluded.feeds;
        SELECT count(*) INTO alive FROM crossfeed.feed_processor p WHERE p.feeds <> '{}';
        SELECT coalesce(ceil(round(sum(1 / r.readers), 6)), 0), coalesce(ceil(round(sum(1 / r.readers), 6)), 0)
                - count(*) FILTER (WHERE r.owner = me), max(r.readers) FILTER (WHERE r.owner = me)
            INTO fair, missing, most FROM crossfeed.feed_readers(my_feeds) r;
        IF missing = 0 AND EXISTS (
            SELECT FROM crossfeed.feed_readers(my_feeds) r WHERE r.readers < most
                AND NOT EXISTS (SELECT FROM crossfeed.feed_processor p WHERE p.processor = r.owner))
        THEN
            missing := 1;
        END IF;
        IF missing > 0 AND NOT is_leaving THEN
            UPDATE crossfeed.feed_range r SET owner = me, token = nextval('crossfeed.feed_token')
            WHERE (r.feed, r.lower_bound, r.upper_bound) IN (
                SELECT f.feed, f.lower_bound, f.upper_bound FROM crossfeed.feed_range f
                JOIN crossfeed.feed_readers(my_feeds) USING (feed, lower_bound, upper_bound)
                WHERE NOT EXISTS (SELECT FROM crossfeed.feed_processor p WHERE p.processor = f.owner)
                ORDER BY readers, f.feed, f.lower_bound LIMIT missing FOR UPDATE OF f SKIP LOCKED);
        END IF;
        RETURN QUERY
            SELECT alive, fair, r.feed, r.lower_bound, r.upper_bound, r.token
            FROM (SELECT) AS always LEFT JOIN crossfeed.feed_readers(my_feeds) r ON r.owner = me
            ORDER BY r.readers, r.feed, r.lower_bound;
    END $$
    """,
    """
    CREATE FUNCTION crossfeed.feed_readers(my_feeds text[])
    RETURNS TABLE (feed text, lower_bound text, upper_bound text, owner uuid, token bigint, readers numeric)
    LANGUAGE sql AS $$
        SELECT r.feed, r.lower_bound, r.upper_bound, r.owner, r.token, (
            SELECT greatest(count(*), 1) FROM crossfeed.feed_processor p WHERE r.feed = ANY (p.feeds))
        FROM crossfeed.feed_range r WHERE r.feed = ANY (my_feeds)
    $$
    """,
    # -- For a single pass: whoever has a range finds it another's, and takes it back when the pass has left.
    """
    CREATE FUNCTION crossfeed.take_feed_ranges(
        me uuid, my_name text, my_lease_s double precision, my_feeds text[]) RETURNS void
    LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM crossfeed.keep_feed_leases(me, my_name, my_lease_s, my_feeds, false);
        UPDATE crossfeed.feed_range r SET owner = me, token = nextval('crossfeed.feed_token')
            WHERE r.feed = ANY (my_feeds) AND r.owner IS DISTINCT FROM me;
    END $$
    """,
    # -- Ranges are added where none is known, never where one overlaps: that one goes on, or is being split by whoever
    # -- reads it, and its parts inherit its position.
    """
    CREATE FUNCTION crossfeed.add_feed_ranges(my_feed text, lowers text[], uppers text[]) RETURNS int
    LANGUAGE plpgsql AS $$
    DECLARE
        added int;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('crossfeed.add_feed_ranges', 0));
        INSERT INTO crossfeed.feed_range (feed, lower_bound, upper_bound)
            SELECT my_feed, lower, upper FROM unnest(lowers, uppers) AS listed(lower, upper)
            WHERE NOT EXISTS (
                SELECT FROM crossfeed.feed_range r
                WHERE r.feed = my_feed AND r.lower_bound < listed.upper COLLATE "C"
                    AND r.upper_bound > listed.lower COLLATE "C");
        GET DIAGNOSTICS added = ROW_COUNT;
        RETURN added;
    END $$
    """,
)
