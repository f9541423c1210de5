"""Records domain events in Postgres: into the log, after the lock on their aggregate's row, so in commit order.

    record(session, AccountRenamed(...), of=ACCOUNTS.identity_of("acc-1", "acc-1"), mapping=ACCOUNTS)
    await async_session.run_sync(record, AccountRenamed(...), of=..., mapping=ACCOUNTS)

for any SQLAlchemy session or connection; a unit of work has `record` of its own. Other programs lock the row
(`SELECT crossfeed_version … FOR NO KEY UPDATE`) and call the function `crossfeed.record_events`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.content import dump
from core.events import EventMaker
from core.postgres.failures import translated
from core.postgres.held import key_record
from core.postgres.names import records, same_identity, table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.content import Document
    from core.events import Event
    from core.identity import Identity
    from core.mapping import EntityMapping

_MAKER = EventMaker()


def record(
    session: Session | sa.Connection,
    event: Event,
    *,
    of: Identity,
    mapping: EntityMapping[Any],
    maker: EventMaker = _MAKER,
) -> None:
    """Record an event in the session's transaction. What the session has not flushed yet is flushed first.

    The row stays locked until the end of the transaction; other writers of the same aggregate wait.

    Args:
        session: a session or a connection; of an asynchronous one by way of its `run_sync`.
        event: what has happened.
        of: its aggregate, which has a row or a tombstone.
        mapping: the aggregate's mapping.
        maker: makes the envelope.

    Raises:
        NotFoundError: the aggregate was never there.
        DocumentRefusedError: one of the stores cannot hold the event.
        PrimaryMovedError: Postgres does not take writes now.
        ConcurrencyError: a deadlock was broken, or a serializable transaction came too late.
        StoreUnavailableError: Postgres did not answer.

    """
    envelope = maker.envelope(event, of)
    if isinstance(session, Session):
        session.flush()
    statement, parameters = recording(mapping, of, [envelope])
    with translated(f"record an event of {of}"):
        session.execute(statement, parameters)


def recording(
    mapping: EntityMapping[Any], identity: Identity, envelopes: Sequence[Document]
) -> tuple[sa.TextClause, dict[str, Any]]:
    """Return the statement that records events of one aggregate, and its parameters; it returns the transaction's id.

    The argument with the version is evaluated before the function is called, which is what takes the lock first.
    """
    row = f"""
        SELECT t.crossfeed_version FROM {table_name(mapping.table)} t
        JOIN {records(mapping, "keys")} AS k ON {same_identity(mapping, "t", "k")} FOR NO KEY UPDATE OF t
    """
    row = row.replace("%(keys)s::jsonb", "CAST(%(keys)s AS jsonb)").replace(":", "\\:").replace("%(keys)s", ":keys")
    statement = sa.text(f"""
        SELECT crossfeed.record_events(:entity, :partition_key, :id, ({row}), CAST(:event_ids AS text[]),
            CAST(CAST(:events AS text[]) AS json[])), CAST(pg_current_xact_id() AS text)
    """)
    parameters = {
        "keys": dump([key_record(mapping, identity)]),
        "entity": identity.entity,
        "partition_key": identity.partition_key,
        "id": identity.id,
        "event_ids": [str(envelope["id"]) for envelope in envelopes],
        "events": [json.dumps(envelope, ensure_ascii=False) for envelope in envelopes],
    }
    return statement, parameters
