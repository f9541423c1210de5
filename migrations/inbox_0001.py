"""The tables of revision 0001 that say which handler has had which domain event, and what waits to be tried again."""

from __future__ import annotations

INBOX_TABLES = (
    # -- The handlers that have run, and from when on the new ones among them take events (null: from the beginning).
    """
    CREATE TABLE crossfeed.consumer (
        handler text PRIMARY KEY,
        since   timestamptz,
        at      timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # -- One row per event and handler that is done with: handled, or a dead letter. `sequence` is the event's place in
    # -- the log, `ts` its document's time.
    """
    CREATE TABLE crossfeed.inbox (
        handler  text NOT NULL,
        subject  text NOT NULL,
        event_id text NOT NULL,
        sequence bigint NOT NULL,
        ts       bigint NOT NULL,
        at       timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # -- Subjects and ids together may be longer than what an index entry holds.
    "CREATE UNIQUE INDEX inbox_event ON crossfeed.inbox (handler, (md5(md5(subject) || event_id)::uuid))",
    "CREATE INDEX inbox_at ON crossfeed.inbox (at)",
    # -- What the rows that were purged had in common: every event of the aggregate up to here is done with.
    """
    CREATE TABLE crossfeed.inbox_mark (
        handler  text NOT NULL,
        subject  text NOT NULL,
        sequence bigint NOT NULL,
        ts       bigint NOT NULL
    ) WITH (fillfactor = 80)
    """,
    "CREATE UNIQUE INDEX inbox_mark_aggregate ON crossfeed.inbox_mark (handler, (md5(subject)::uuid))",
    # -- The chains of events that failed and of those behind them, by value; the lowest place is the head.
    "CREATE SEQUENCE crossfeed.inbox_place AS bigint",
    """
    CREATE TABLE crossfeed.inbox_parked (
        place    bigint NOT NULL DEFAULT nextval('crossfeed.inbox_place') PRIMARY KEY,
        handler  text NOT NULL,
        subject  text NOT NULL,
        event_id text NOT NULL,
        sequence bigint NOT NULL,
        ts       bigint NOT NULL,
        event    json NOT NULL,
        reason   text NOT NULL,
        attempts bigint NOT NULL,
        first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        retry_at timestamptz NOT NULL
    ) WITH (fillfactor = 50)
    """,
    "ALTER SEQUENCE crossfeed.inbox_place OWNED BY crossfeed.inbox_parked.place",
    "CREATE UNIQUE INDEX inbox_parked_event ON crossfeed.inbox_parked (handler, (md5(md5(subject) || event_id)::uuid))",
    "CREATE INDEX inbox_parked_chain ON crossfeed.inbox_parked (handler, (md5(subject)::uuid), place)",
    "CREATE INDEX inbox_parked_due ON crossfeed.inbox_parked (retry_at)",
)
