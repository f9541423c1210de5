"""Keeps the documents that Postgres refused because of another document's state, until they are tried again.

A unique value is handed from one document to another, a child comes before its parent: what the mirror reads in one
order was written in another. Such a document is parked: one row, no copy of it, because what counts when it is tried
again is its current state. Every write to these rows is made under the identity's lock (core.postgres.guarded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from core.identity import Identity
from core.postgres.backoff import BACKOFF, DUE
from core.postgres.dead_letters import identity_columns
from core.postgres.engine import fetch
from core.postgres.names import KEY_DIGEST, number_array
from core.stamp import Position

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.postgres.authority import Change
    from core.postgres.pipeline import Sends
    from core.settings import Settings


@dataclass(frozen=True, slots=True)
class MirrorPatience:
    """How often and how soon a parked document is tried again.

    Args:
        attempts: after so many it is a dead letter.
        first_s: the longest first wait in seconds; it doubles with every attempt.
        longest_s: the longest wait of all in seconds.

    """

    attempts: int = 20
    first_s: float = 0.5
    longest_s: float = 300.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings say."""
        return cls(settings.mirror_park_attempts, settings.mirror_park_first_s, settings.mirror_park_max_s)


@dataclass(frozen=True, slots=True)
class ParkedChange:
    """A parked document: etag and position of the state that was refused, and whether it is time to try again."""

    identity: Identity
    etag: str
    position: Position
    is_due: bool


@dataclass(frozen=True, slots=True)
class ParkedInMirror:
    """What is parked on the way to Postgres: how many documents, and the age of the oldest in seconds (None: none).

    `overdue_s` is for how long the one whose turn it is has been waiting for it: somebody should have tried it.
    """

    documents: int
    oldest_s: float | None
    overdue_s: float | None


_IS_SAME = """
    p.entity = d.entity AND md5(p.partition_key || p.id)::uuid = md5(d.partition_key || d.id)::uuid
        AND p.partition_key = d.partition_key AND p.id = d.id
"""
_CHANGES = """
    unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(etags)s::text[], %(ts)s::bigint[],
        %(lsns)s::bigint[], %(reasons)s::text[]) AS d(entity, partition_key, id, etag, ts, lsn, reason)
"""

# A newer state takes the place of an older one and does not count as an attempt: a document that is written every
# second is given up no sooner than any other. An older one, redelivered, changes nothing.
_PARK = f"""
    INSERT INTO crossfeed.mirror_parked AS p (entity, partition_key, id, etag, ts, lsn, reason, retry_at)
    SELECT d.entity, d.partition_key, d.id, d.etag, d.ts, d.lsn, d.reason,
        clock_timestamp() + {BACKOFF.format(attempts=1, age="interval '0'")}
    FROM {_CHANGES}
    ON CONFLICT (entity, {KEY_DIGEST}) DO UPDATE SET etag = excluded.etag, ts = excluded.ts, lsn = excluded.lsn,
        reason = excluded.reason, last_at = clock_timestamp(), retry_at = least(p.retry_at, excluded.retry_at)
        WHERE (excluded.ts, excluded.lsn) >= (p.ts, p.lsn)
"""

_COUNT = f"""
    UPDATE crossfeed.mirror_parked p SET attempts = p.attempts + 1, etag = d.etag, ts = d.ts, lsn = d.lsn,
        reason = d.reason, last_at = clock_timestamp(),
        retry_at = clock_timestamp() + {BACKOFF.format(attempts="(p.attempts + 1)", age="interval '0'")}
    FROM {_CHANGES} WHERE {_IS_SAME}
    RETURNING p.entity, p.partition_key, p.id, p.attempts
"""

_POSTPONE = f"""
    UPDATE crossfeed.mirror_parked p SET
        retry_at = clock_timestamp() + {BACKOFF.format(attempts="p.attempts", age="interval '0'")}
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS d(entity, partition_key, id)
    WHERE {_IS_SAME}
"""

_UNPARK = f"""
    DELETE FROM crossfeed.mirror_parked p
    USING unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS d(entity, partition_key, id)
    WHERE {_IS_SAME}
"""

# What is not as new as a letter or as what is parked says nothing about either. A clock that stepped back makes what is
# newer look older; its `_lsn` does not.
_IS_NO_NEWER = "(p.lsn <= d.lsn OR (p.ts, p.lsn) <= (d.ts, d.lsn))"

_GIVE_UP = f"""
    DELETE FROM crossfeed.mirror_parked p
    USING unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(ts)s::bigint[], %(lsns)s::bigint[])
        AS d(entity, partition_key, id, ts, lsn)
    WHERE {_IS_SAME} AND {_IS_NO_NEWER}
"""

_SETTLE = f"""
    WITH done AS (
        SELECT * FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(ts)s::bigint[],
            %(lsns)s::bigint[]) AS d(entity, partition_key, id, ts, lsn)
    ), letters AS (
        DELETE FROM crossfeed.dead_letter p USING done d WHERE {_IS_SAME} AND p.direction = 'to_postgres'
            AND p.kind = 'refused' AND (p.ts IS NULL OR {_IS_NO_NEWER})
    ), unparked AS (
        DELETE FROM crossfeed.mirror_parked p USING done d
        WHERE {_IS_SAME} AND {_IS_NO_NEWER}
    )
    SELECT EXISTS (SELECT FROM crossfeed.mirror_parked)
"""

_ANY_DUE = f"SELECT EXISTS (SELECT FROM crossfeed.mirror_parked p WHERE {DUE})"

# One at a time: two that read the same documents by key would only wait for each other.
_ALONE = "SELECT pg_try_advisory_xact_lock(hashtextextended('crossfeed.mirror_parked', 0))"

# With those whose time has come the next ones are tried: values that go around in a ring move all at once or never.
_CANDIDATES = """
    SELECT p.entity, p.partition_key, p.id FROM crossfeed.mirror_parked p
    WHERE p.entity = ANY(%(known)s::text[]) ORDER BY p.retry_at LIMIT %(limit)s
"""

_READ = f"""
    SELECT p.entity, p.partition_key, p.id, p.etag, p.ts, p.lsn, {DUE} FROM crossfeed.mirror_parked p
    JOIN unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS d(entity, partition_key, id) ON {_IS_SAME}
    ORDER BY p.retry_at
"""

_STATUS = """
    SELECT count(*), extract(epoch FROM clock_timestamp() - min(first_at))::float8,
        greatest(extract(epoch FROM clock_timestamp() - min(retry_at)), 0)::float8
    FROM crossfeed.mirror_parked
"""


async def parked_in_mirror(connection: AsyncConnection) -> ParkedInMirror:
    """Return what is parked on the way to Postgres, for status and readiness."""
    [found] = await fetch(connection, _STATUS, {})
    return ParkedInMirror(*found)


async def park(connection: AsyncConnection, refused: Iterable[tuple[Change, str]], patience: MirrorPatience) -> None:
    """Put changes aside, each with its reason, in the transaction in which they were refused."""
    await connection.exec_driver_sql(_PARK, _with_reasons(refused) | _waits(patience))


async def count_attempts(
    connection: AsyncConnection, refused: Iterable[tuple[Change, str]], patience: MirrorPatience
) -> set[Identity]:
    """Note that parked documents were refused again, as they are now; return those that have no attempt left."""
    rows = await fetch(connection, _COUNT, _with_reasons(refused) | _waits(patience))
    return {Identity(*row[:3]) for row in rows if row[3] >= patience.attempts}


async def postpone(connection: AsyncConnection, identities: Sequence[Identity], patience: MirrorPatience) -> None:
    """Try documents again later, without an attempt: it was the infrastructure's fault."""
    await connection.exec_driver_sql(_POSTPONE, identity_columns(identities) | _waits(patience))


async def unpark(connection: AsyncConnection, identities: Sequence[Identity]) -> None:
    """Forget documents: they arrived, are gone, or were given up."""
    await connection.exec_driver_sql(_UNPARK, identity_columns(identities))


async def give_up(connection: AsyncConnection, changes: Sequence[Change]) -> None:
    """Forget what is parked of documents of which this state became a dead letter; what is newer stays parked."""
    await connection.exec_driver_sql(_GIVE_UP, _positioned(changes))


async def settle(connection: Sends, changes: Sequence[Change]) -> None:
    """Forget the refusals, and what is parked, of documents of which this state or a newer one was written."""
    if not changes:
        return
    await connection.exec_driver_sql(_SETTLE, _positioned(changes))


async def is_any_due(connection: AsyncConnection, patience: MirrorPatience) -> bool:
    """Whether it is time to try anything again."""
    [(due,)] = await fetch(connection, _ANY_DUE, {"longest_s": patience.longest_s})
    return bool(due)


async def candidates(connection: AsyncConnection, entities: Sequence[str], limit: int) -> list[Identity]:
    """Return what is to be tried next, those that wait longest first; nothing if another process is at it.

    Args:
        connection: in a transaction, which keeps the others away until it ends.
        entities: the types that the process knows.
        limit: how many at most.

    """
    [(alone,)] = await fetch(connection, _ALONE, {})
    if not alone:
        return []
    rows = await fetch(connection, _CANDIDATES, {"known": list(entities), "limit": limit})
    return [Identity(*row) for row in rows]


async def read_parked(
    connection: AsyncConnection, identities: Sequence[Identity], patience: MirrorPatience
) -> list[ParkedChange]:
    """Return what is still parked of identities that are locked by now."""
    rows = await fetch(connection, _READ, {**identity_columns(identities), "longest_s": patience.longest_s})
    return [
        ParkedChange(Identity(entity, key, id_), etag, Position(ts, lsn), is_due)
        for entity, key, id_, etag, ts, lsn, is_due in rows
    ]


def _positioned(changes: Sequence[Change]) -> dict[str, str]:
    return {
        **identity_columns(change.identity for change in changes),
        "ts": number_array(change.position.ts for change in changes),
        "lsns": number_array(change.position.lsn for change in changes),
    }


def _waits(patience: MirrorPatience) -> dict[str, float]:
    return {"first_s": patience.first_s, "longest_s": patience.longest_s}


def _with_reasons(refused: Iterable[tuple[Change, str]]) -> dict[str, Any]:
    known = list(refused)
    return {
        **identity_columns(change.identity for change, _ in known),
        "etags": [change.etag for change, _ in known],
        "ts": [change.position.ts for change, _ in known],
        "lsns": [change.position.lsn for change, _ in known],
        "reasons": [reason for _, reason in known],
    }
