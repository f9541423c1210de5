"""The one table of dead letters, for both directions: what could not be applied, with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from core.content import content_hash
from core.errors import DocumentRefusedError
from core.postgres.names import KEY_DIGEST, text_array
from core.stamp import position_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.identity import Identity

REFUSED = "refused"
"""The kind of a letter whose document one of the stores cannot hold."""

EVENT = "event"
"""The kind of a letter that holds a domain event, by value; its reference is the event's id."""


class Direction(StrEnum):
    """Where the document was going."""

    TO_COSMOS = "to_cosmos"
    TO_POSTGRES = "to_postgres"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One document that was put aside. There is one letter per direction, kind and identity; it counts its attempts."""

    direction: Direction
    kind: str
    identity: Identity
    reason: str
    document: Document | None = None


# A letter for the same reason again is the same content again: the caller need not heal it twice. A refused state older
# than the letter's, redelivered, changes nothing: what is between the two would settle the letter of the newer.
_RECORD = f"""
    WITH known AS (
        SELECT reason FROM crossfeed.dead_letter
        WHERE direction = %(direction)s AND kind = %(kind)s AND entity = %(entity)s
            AND {KEY_DIGEST} = md5(%(partition_key)s || %(id)s)::uuid
            AND partition_key = %(partition_key)s AND id = %(id)s
    ), written AS (
        INSERT INTO crossfeed.dead_letter AS l (direction, kind, entity, partition_key, id, reason, document, ts, lsn)
        VALUES (%(direction)s, %(kind)s, %(entity)s, %(partition_key)s, %(id)s, %(reason)s, %(document)s::json,
            %(ts)s::bigint, %(lsn)s::bigint)
        ON CONFLICT (direction, kind, entity, {KEY_DIGEST}, reference) DO UPDATE
            SET reason = excluded.reason, document = excluded.document, attempts = l.attempts + 1,
                last_at = clock_timestamp(), ts = excluded.ts, lsn = excluded.lsn
            WHERE l.kind <> 'refused' OR coalesce(
                l.lsn <= excluded.lsn OR (l.ts, l.lsn) <= (excluded.ts, excluded.lsn), true)
    )
    SELECT NOT EXISTS (SELECT FROM known WHERE reason = %(reason)s)
"""

_SETTLE = """
    DELETE FROM crossfeed.dead_letter l
    USING unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS done(entity, partition_key, id)
    WHERE l.direction = %(direction)s AND l.kind = 'refused' AND l.entity = done.entity
        AND md5(l.partition_key || l.id)::uuid = md5(done.partition_key || done.id)::uuid
        AND l.partition_key = done.partition_key AND l.id = done.id
"""


def quarantine_reason(document: Document) -> str:
    """Return the reason of a quarantine; the same content has the same reason, so it is healed once."""
    try:
        content = content_hash(document)
    except DocumentRefusedError:
        content = f"etag {document.get('_etag')}"
    return f"Cosmos DB was written while Postgres is primary (content {content})"


async def record(connection: AsyncConnection, letter: DeadLetter) -> bool:
    """Write a letter in the caller's transaction; return whether this reason is new for this document."""
    identity = letter.identity
    position = position_of(letter.document) if letter.document is not None else None
    parameters = {
        "direction": letter.direction.value,
        "kind": letter.kind,
        "entity": identity.entity,
        "partition_key": storable(identity.partition_key),
        "id": storable(identity.id),
        "reason": storable(letter.reason),
        "document": json_text(letter.document) if letter.document is not None else None,
        "ts": position.ts if position is not None else None,
        "lsn": position.lsn if position is not None else None,
    }
    return bool((await connection.exec_driver_sql(_RECORD, parameters)).scalar_one())


async def settle(connection: AsyncConnection, direction: Direction, identities: Sequence[Identity]) -> None:
    """Forget the refusals of documents of which a newer state was applied, whatever their positions."""
    if identities:
        await connection.exec_driver_sql(_SETTLE, {"direction": direction.value, **identity_columns(identities)})


def identity_columns(identities: Iterable[Identity]) -> dict[str, str]:
    """Return identities as the parameters `entities`, `keys` and `ids` of a statement that unnests them."""
    known = list(identities)
    return {
        "entities": text_array(identity.entity for identity in known),
        "keys": text_array(identity.partition_key for identity in known),
        "ids": text_array(identity.id for identity in known),
    }


def json_text(document: Document) -> str:
    """Spell what is put aside for a JSON column: escapes alone, and what is no JSON number (NaN, 1e999) as a text."""
    try:
        return json.dumps(document, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(document), parse_constant=str))


def storable(text: str) -> str:
    """Return `text` with what no text column takes spelled as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
