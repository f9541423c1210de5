"""Domain events of revision 0001: how they get into the log, and what the mirror remembers of those it took."""

from __future__ import annotations

EVENT_TABLES = (
    # -- Of each aggregate the events that its document carried when it was mirrored last: they are in the log already.
    # -- A tombstone's are forgotten when Cosmos DB has let go of it: no feed will show it again.
    """
    CREATE TABLE crossfeed.event_taken (
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        event_ids     text[] NOT NULL,
        deleted       boolean NOT NULL,
        at            timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (fillfactor = 70)
    """,
    "CREATE UNIQUE INDEX event_taken_identity ON crossfeed.event_taken (entity, (md5(partition_key || id)::uuid))",
)

EVENT_FUNCTIONS = (
    # -- Puts events of one aggregate into the log, in their order. Who calls it holds the lock on the aggregate's row
    # -- and names its version; without a row (null) the tombstone is locked instead. So their order is the commit
    # -- order. The fence on the log refuses them where it refuses states.
    """
    CREATE FUNCTION crossfeed.record_events(
        of_entity text, of_key text, of_id text, row_version bigint, event_ids text[], events json[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        reached bigint := row_version;
    BEGIN
        IF row_version IS NULL THEN
            SELECT t.version INTO reached FROM crossfeed.tombstone t
            WHERE t.entity = of_entity AND md5(t.partition_key || t.id)::uuid = md5(of_key || of_id)::uuid
                AND t.partition_key = of_key AND t.id = of_id
            FOR UPDATE;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'crossfeed: an event of an aggregate that was never there' USING ERRCODE = 'CF004',
                    HINT = 'Add the aggregate first: its events are ordered by the lock on its row.';
            END IF;
        END IF;
        INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, traceparent, event_id,
            event)
        SELECT crossfeed.event_slot_of(of_entity, of_key, of_id), of_entity, of_key, of_id, p.epoch, reached,
            row_version IS NULL,
            coalesce(e.event ->> 'traceparent', nullif(current_setting('crossfeed.traceparent', true), '')),
            e.event_id, e.event
        FROM crossfeed.phase p, unnest(event_ids, events) WITH ORDINALITY AS e(event_id, event, place)
        ORDER BY e.place;
    END $$
    """,
)
