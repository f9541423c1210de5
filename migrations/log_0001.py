"""The log of revision 0001: the outbox and its partitions, slots with cursors and leases, what is parked."""

from __future__ import annotations

SLOTS = 16
"""For states as many as for events; those for events come after those for states."""

FIRST_PARTITION = 1_000_000
"""Sequence numbers of each of the first partitions; the relay makes the later ones."""

LOG_TABLES = (
    # -- CACHE 1: the sequence is the order.
    "CREATE SEQUENCE crossfeed.outbox_seq AS bigint CACHE 1",
    # -- Append-only; the relay never updates or deletes a row of it. A message is a reference to a document's state, or
    # -- a domain event by value. Columns are filled in order: a transaction has its id before its message has a number.
    """
    CREATE TABLE crossfeed.outbox (
        xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
        seq           bigint NOT NULL DEFAULT nextval('crossfeed.outbox_seq') PRIMARY KEY,
        slot          smallint NOT NULL,
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        epoch         bigint NOT NULL,
        version       bigint NOT NULL,
        deleted       boolean NOT NULL,
        traceparent   text,
        at            timestamptz NOT NULL DEFAULT clock_timestamp(),
        event_id      text,
        event         json
    ) PARTITION BY RANGE (seq)
    """,
    "ALTER SEQUENCE crossfeed.outbox_seq OWNED BY crossfeed.outbox.seq",
    # -- The delta of two snapshots is found by transaction id, a large one is paged by seq.
    "CREATE INDEX outbox_xid ON crossfeed.outbox (xid)",
    # -- A cursor of events that stands still must not walk through all the states that came since.
    "CREATE INDEX outbox_event_xid ON crossfeed.outbox (xid) WHERE event_id IS NOT NULL",
    # -- Where a message goes for which nobody made a partition in time.
    "CREATE TABLE crossfeed.outbox_default PARTITION OF crossfeed.outbox DEFAULT",
    # -- The ranges of the sequence in their order: each is a table, or `in_default`. Those dropped stay on record, with
    # -- the time of their newest message. `held_since`: it should be gone, but a cursor is not past it.
    """
    CREATE TABLE crossfeed.outbox_partition (
        from_seq   bigint PRIMARY KEY,
        until_seq  bigint NOT NULL CHECK (until_seq > from_seq),
        in_default boolean NOT NULL DEFAULT false,
        made_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
        held_since timestamptz,
        dropped_at timestamptz,
        newest_at  timestamptz
    )
    """,
    # -- A slot's cursor and its lease. The cursor moves only with the current token, which grows with every new owner.
    # -- A lease lasts while its owner has a row in crossfeed.relay, so a heartbeat writes one row whatever it holds.
    """
    CREATE TABLE crossfeed.slot (
        slot              smallint PRIMARY KEY,
        carries           text NOT NULL CHECK (carries IN ('states', 'events')),
        seen              pg_snapshot NOT NULL,
        target            pg_snapshot,
        position          bigint NOT NULL DEFAULT 0,
        at                timestamptz NOT NULL DEFAULT clock_timestamp(),
        owner             uuid,
        token             bigint NOT NULL DEFAULT 0,
        system_identifier bigint,
        timeline          integer
    ) WITH (fillfactor = 50)
    """,
    # -- The relays that are alive: crossfeed.keep_leases deletes those that have expired, which frees their slots.
    """
    CREATE TABLE crossfeed.relay (
        relay      uuid PRIMARY KEY,
        name       text NOT NULL,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        lease_s    double precision NOT NULL DEFAULT 10,
        expires_at timestamptz NOT NULL
    ) WITH (fillfactor = 50)
    """,
    # -- What is tried again later while the others flow on: a state (one row a document) or an event, by value.
    """
    CREATE TABLE crossfeed.parked (
        number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        slot          smallint NOT NULL,
        entity        text NOT NULL,
        partition_key text NOT NULL,
        id            text NOT NULL,
        seq           bigint,
        event_id      text,
        event         json,
        traceparent   text,
        reason        text NOT NULL,
        attempts      bigint NOT NULL,
        first_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        retry_at      timestamptz NOT NULL,
        CHECK ((event_id IS NULL) = (event IS NULL) AND (event_id IS NULL) = (seq IS NULL))
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE UNIQUE INDEX parked_state ON crossfeed.parked (entity, (md5(partition_key || id)::uuid))
        WHERE event_id IS NULL
    """,
    # -- The chain of an aggregate, its head first.
    """
    CREATE UNIQUE INDEX parked_event ON crossfeed.parked (entity, (md5(partition_key || id)::uuid), seq)
        WHERE event_id IS NOT NULL
    """,
    "CREATE INDEX parked_due ON crossfeed.parked (slot, retry_at)",
)

LOG_ROWS = (
    f"SELECT crossfeed.cut_slots({SLOTS})",
    f"SELECT crossfeed.make_partitions({FIRST_PARTITION}, 2)",
)
