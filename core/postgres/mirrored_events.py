"""Takes the events that documents carry while Cosmos DB is primary into the log, each once, as they are mirrored.

A document carries an event until its delivery was seen, and the feed may show a document any number of times. So
Postgres remembers, per aggregate, the events of the document that was mirrored last; nothing once that carries none.
That is enough, and bounded: the guard never goes back to an older document, a newer one is made of this one (If-Match),
and what it does not carry any more was delivered. (What a foreign writer restores from an old copy is taken again, and
found by its id where it was delivered.) The identity's lock is held, so the order in the log is the order of the
aggregate's commits.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import structlog

from core.envelope import claimed_version
from core.events import carried_by, is_envelope_of
from core.postgres import dead_letters
from core.postgres.dead_letters import EVENT, DeadLetter, Direction, identity_columns
from core.postgres.names import KEY_DIGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.postgres.authority import Change
    from core.postgres.pipeline import Sends

log = structlog.get_logger()

_TAKE = f"""
    WITH carried AS MATERIALIZED (
        SELECT c.*, t.event_ids AS known FROM unnest(%(keys)s::text[], %(ids)s::text[], %(versions)s::bigint[],
                %(deleted)s::boolean[], %(event_ids)s::text[], %(events)s::text[], %(parents)s::text[])
            WITH ORDINALITY AS c(partition_key, id, version, deleted, event_id, event, parent, place)
        LEFT JOIN crossfeed.event_taken t ON t.entity = %(entity)s
            AND md5(t.partition_key || t.id)::uuid = md5(c.partition_key || c.id)::uuid
            AND t.partition_key = c.partition_key AND t.id = c.id
    ), remembered AS (
        INSERT INTO crossfeed.event_taken (entity, partition_key, id, event_ids, deleted)
        SELECT %(entity)s, partition_key, id, array_agg(event_id ORDER BY place), bool_or(deleted)
        FROM carried GROUP BY 2, 3
        ON CONFLICT (entity, {KEY_DIGEST}) DO UPDATE
            SET event_ids = excluded.event_ids, deleted = excluded.deleted, at = clock_timestamp()
    ), logged AS (
        INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, traceparent, event_id,
            event)
        SELECT crossfeed.event_slot_of(%(entity)s, partition_key, id), %(entity)s, partition_key, id, %(epoch)s,
            version, deleted, parent, event_id, event::json
        FROM carried WHERE known IS NULL OR event_id <> ALL (known) ORDER BY place
        RETURNING seq
    )
    SELECT count(*) FROM logged
"""

_FORGET = """
    DELETE FROM crossfeed.event_taken t USING unnest(%(keys)s::text[], %(ids)s::text[]) AS bare(partition_key, id)
    WHERE t.entity = %(entity)s AND md5(t.partition_key || t.id)::uuid = md5(bare.partition_key || bare.id)::uuid
        AND t.partition_key = bare.partition_key AND t.id = bare.id
"""


async def take_events(
    connection: AsyncConnection, mapping: EntityMapping[Any], changes: Sequence[Change], epoch: int
) -> int:
    """Put the events of documents into the log; the state of a document may be refused, its events are not.

    What a document carries and is no event of its aggregate becomes a dead letter.

    Args:
        connection: in the mirror's transaction, with the mirror setting on and the identities locked.
        mapping: of the container.
        changes: documents that were decided to be current; of those that carry nothing there is nothing to take.
        epoch: the recorded one.

    Returns:
        How many were new.

    """
    found: list[tuple[Change, Document]] = []
    for change in changes:
        events = _usable(change.identity, carried_by(change.document))
        found += [(change, event) for event in events.values()]
        await _put_aside(connection, change, events)
    if not found:
        return 0
    result = await connection.exec_driver_sql(
        _TAKE,
        {
            "entity": mapping.name,
            "epoch": epoch,
            "keys": [change.identity.partition_key for change, _ in found],
            "ids": [change.identity.id for change, _ in found],
            "versions": [claimed_version(change.document) for change, _ in found],
            "deleted": [change.deleted for change, _ in found],
            "event_ids": [event["id"] for _, event in found],
            "events": [json.dumps(event) for _, event in found],
            "parents": [_parent(event) for _, event in found],
        },
    )
    return int(result.scalar_one())


async def forget_events(connection: Sends, mapping: EntityMapping[Any], changes: Sequence[Change]) -> None:
    """Remember nothing of documents that carry no event any more; arguments as those of `take_events`."""
    bare = [change.identity for change in changes if not _usable(change.identity, carried_by(change.document))]
    if bare:
        await connection.exec_driver_sql(_FORGET, {"entity": mapping.name, **identity_columns(bare)})


def _usable(identity: Identity, events: list[Any]) -> dict[str, Document]:
    """Return the events of this aggregate by their ids, each once, in their order."""
    usable: dict[str, Document] = {}
    for event in events:
        if is_envelope_of(event, identity) and _is_text(event["id"]) and _is_json(event):
            usable.setdefault(event["id"], event)
    return usable


async def _put_aside(connection: AsyncConnection, change: Change, usable: dict[str, Document]) -> None:
    """Keep what a foreign writer put in the place of events; a document that was copied brings another's along."""
    events = carried_by(change.document)
    odd = [event for event in events if not (isinstance(event, dict) and _id_of(event) in usable)]
    if odd:
        reason = "the document carries what is no event of its aggregate"
        letter = DeadLetter(Direction.TO_POSTGRES, EVENT, change.identity, reason, {"events": odd})
        await dead_letters.record(connection, letter)
        log.warning("mirror.odd_events", entity=change.identity.entity, document_id=change.identity.id, events=len(odd))


def _parent(event: Document) -> str | None:
    parent = event.get("traceparent")
    return parent if isinstance(parent, str) and _is_text(parent) else None


def _id_of(event: Document) -> str | None:
    id_ = event.get("id")
    return id_ if isinstance(id_, str) else None


def _is_json(event: Document) -> bool:
    """Whether it can be spelled for a JSON column, which takes no NaN and no infinity."""
    try:
        json.dumps(event, allow_nan=False)
    except ValueError:
        return False
    return True


def _is_text(text: str) -> bool:
    """Whether a text column can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
