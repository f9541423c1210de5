"""Finds dead letters for whoever has to decide about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from core.identity import Identity
from core.postgres.dead_letters import Direction, storable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant; None is any.

    `reason` is part of the text. `since` is when it was last refused at the earliest, or how long ago that was.
    """

    numbers: Sequence[int] | None = None
    direction: Direction | None = None
    kind: str | None = None
    entity: str | None = None
    id: str | None = None
    reason: str | None = None
    since: datetime | timedelta | None = None


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter without its document, which may be large and is payload.

    `reference` is an event's id, else empty. Attempts are counted since the first time.
    """

    number: int
    direction: Direction
    kind: str
    identity: Identity
    reference: str
    reason: str
    attempts: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """How many letters are meant, as of the moment `at` on the database's clock."""

    count: int
    at: datetime


_MEANT = """
    (%(numbers)s::bigint[] IS NULL OR number = ANY(%(numbers)s::bigint[]))
    AND (%(direction)s::text IS NULL OR direction = %(direction)s::text)
    AND (%(kind)s::text IS NULL OR kind = %(kind)s::text)
    AND (%(entity)s::text IS NULL OR entity = %(entity)s::text)
    AND (%(id)s::text IS NULL OR id = %(id)s::text)
    AND (%(reason)s::text IS NULL OR strpos(lower(reason), lower(%(reason)s::text)) > 0)
    AND (%(since)s::timestamptz IS NULL OR last_at >= %(since)s::timestamptz)
    AND (%(within)s::interval IS NULL OR last_at >= statement_timestamp() - %(within)s::interval)
"""

_COUNT = f"SELECT count(*), clock_timestamp() FROM crossfeed.dead_letter WHERE {_MEANT}"

_COLUMNS = "number, direction, kind, entity, partition_key, id, reference, reason, attempts, first_at, last_at"

# In the order in which they died; what died again since `until` is not what was asked for.
_FIND = f"""
    SELECT {_COLUMNS} FROM crossfeed.dead_letter
    WHERE number > %(after)s AND last_at <= %(until)s AND {_MEANT} ORDER BY number LIMIT %(limit)s
"""

_DOCUMENT = "SELECT document::text FROM crossfeed.dead_letter WHERE number = %(number)s"

_DISCARD = """
    DELETE FROM crossfeed.dead_letter l
    USING unnest(%(numbers)s::bigint[], %(last_at)s::timestamptz[]) AS seen(number, last_at)
    WHERE l.number = seen.number AND l.last_at = seen.last_at RETURNING l.number
"""


async def count(connection: AsyncConnection, selection: Selection) -> Found:
    """Count the letters that are meant."""
    return Found(*tuple((await connection.exec_driver_sql(_COUNT, _parameters(selection))).one()))


async def find(
    connection: AsyncConnection, selection: Selection, until: datetime, *, after: int = 0, limit: int
) -> list[StoredLetter]:
    """Return a page of letters in the order of their numbers.

    Args:
        connection: any.
        selection: which.
        until: when they were counted; a letter that was written or renewed later is left out.
        after: the last number of the page before.
        limit: how many at most.

    """
    parameters = {**_parameters(selection), "after": after, "until": until, "limit": limit}
    result = await connection.exec_driver_sql(_FIND, parameters)
    return [
        StoredLetter(number, Direction(direction), kind, Identity(entity, partition_key, id_), *rest)
        for number, direction, kind, entity, partition_key, id_, *rest in map(tuple, result)
    ]


async def read_document(connection: AsyncConnection, number: int) -> str | None:
    """Return the JSON text that a letter holds, to the character; None where it holds none."""
    result = await connection.exec_driver_sql(_DOCUMENT, {"number": number})
    text: str | None = result.scalar_one_or_none()
    return text


async def discard(connection: AsyncConnection, letters: Sequence[StoredLetter]) -> set[int]:
    """Delete letters in the caller's transaction; return the numbers of those that were there as they were seen.

    One that was renewed in the meantime is another incident, and stays.
    """
    result = await connection.exec_driver_sql(_DISCARD, as_seen(letters))
    return {number for (number,) in result}


def as_seen(letters: Sequence[StoredLetter]) -> dict[str, object]:
    """Return the parameters `numbers` and `last_at` of a statement that takes letters only as they were seen."""
    return {"numbers": [letter.number for letter in letters], "last_at": [letter.last_at for letter in letters]}


def _parameters(selection: Selection) -> dict[str, object]:
    is_span = isinstance(selection.since, timedelta)
    named = {name: storable(value) if isinstance(value, str) else value for name, value in asdict(selection).items()}
    return {
        **named,
        "numbers": list(selection.numbers) if selection.numbers is not None else None,
        "since": None if is_span else selection.since,
        "within": selection.since if is_span else None,
    }
