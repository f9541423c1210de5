"""Looks by key at what a reconcile pass doubts: twice, a lag window apart, before it is believed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.cosmos.patience import patiently_read
from core.errors import DocumentRefusedError
from core.identity import Identity, check_id
from core.postgres.absence import Missed, sees_less
from core.postgres.engine import fetch
from core.postgres.failures import translated
from core.stamp import Position, Stamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.documents import Looked

CHUNK = 200
"""How many doubts are looked at together."""

AT_ONCE = 16
"""How many point reads are under way at the same time."""

# A look that is yet to come was before the clock stepped back, nobody knows how long ago.
_UNREAD = "read_at IS NULL OR read_at > clock_timestamp() ORDER BY number"
_DUE = "read_at <= clock_timestamp() - make_interval(secs => %(lag)s) ORDER BY read_at NULLS FIRST, number"
_SELECT = """
    SELECT number, kind = 'absent', entity, partition_key, id, epoch, version, etag, ts, lsn, document_etag, noticed_at
    FROM crossfeed.reconcile_doubt WHERE {which} LIMIT %(limit)s
"""
_NEXT = "SELECT extract(epoch FROM min(read_at) - clock_timestamp())::float8 FROM crossfeed.reconcile_doubt"
_READ = "UPDATE crossfeed.reconcile_doubt SET read_at = clock_timestamp() WHERE number = ANY(%(numbers)s)"
_DROP = "DELETE FROM crossfeed.reconcile_doubt WHERE number = ANY(%(numbers)s)"


class Looks(Protocol):
    """Reads one document by its key, in a session that has seen what the feed has shown."""

    async def look(self, identity: Identity) -> Looked:
        """Return the document, and how far the replica was that answered.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...

    async def catch_up(self, container: str) -> object:
        """Let no look at this container from now on be older than this call.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row without a document, or with an older one, whose `_etag` is `document_etag`."""

    number: int
    is_absent: bool
    missed: Missed
    document_etag: str | None


@dataclass(slots=True)
class Sight:
    """What a look at some doubts came to: what is `gone` (or still old), and the `others`.

    `found` are documents of those with another `_etag` than the row was taken from. `present` counts those whose
    document is there after all, `behind` those of which a replica that lags was asked, `unaskable` those whose id no
    document can have, so that none could be gone: a request for it is one for something else.
    """

    gone: list[Doubt]
    others: list[Doubt]
    found: list[Document]
    present: int = 0
    behind: int = 0
    unaskable: int = 0


async def unread_doubts(engine: AsyncEngine) -> list[Doubt]:
    """Return doubts that nobody looked at yet, a chunk."""
    return await _select(engine, _UNREAD, 0)


async def due_doubts(engine: AsyncEngine, lag_s: float) -> list[Doubt]:
    """Return doubts that were looked at once, at least `lag_s` seconds ago, a chunk."""
    return await _select(engine, _DUE, lag_s)


async def due_in(engine: AsyncEngine, lag_s: float) -> float | None:
    """Return in how many seconds the next second look is due, None if there is none."""
    with translated("reading what is doubted"):
        async with engine.connect() as connection:
            read_s: float | None = (await connection.exec_driver_sql(_NEXT)).scalar_one()
    return None if read_s is None else max(0.0, read_s + lag_s)


async def mark_read(connection: AsyncConnection, doubts: Sequence[Doubt]) -> None:
    """Write down that they were looked at by now, in the caller's transaction."""
    await connection.exec_driver_sql(_READ, {"numbers": [doubt.number for doubt in doubts]})


async def drop(connection: AsyncConnection, doubts: Sequence[Doubt]) -> None:
    """Be done with doubts, in the caller's transaction."""
    await connection.exec_driver_sql(_DROP, {"numbers": [doubt.number for doubt in doubts]})


async def look(documents: Looks, doubts: Sequence[Doubt], now: float) -> Sight:
    """Read the documents of doubts by their keys.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer; nothing is decided.

    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(doubt: Doubt) -> Looked:
        async with turns:
            return await patiently_read(lambda: documents.look(doubt.missed.identity))

    asked = [doubt for doubt in doubts if can_be_asked(doubt.missed.identity)]
    answers = await asyncio.gather(*(one(doubt) for doubt in asked), return_exceptions=True)
    unaskable = [doubt for doubt in doubts if not can_be_asked(doubt.missed.identity)]
    sight = Sight([], unaskable, [], unaskable=len(unaskable))
    for doubt, looked in zip(asked, answers, strict=True):
        if isinstance(looked, BaseException):
            raise looked
        etag = None if looked.document is None else str(looked.document.get("_etag", ""))
        if _is_confirmed(doubt, looked, etag, now):
            sight.gone.append(doubt)
            continue
        sight.others.append(doubt)
        if looked.document is None:
            sight.behind += 1
            continue
        sight.present += 1
        if etag != doubt.missed.etag:
            sight.found.append(looked.document)
    return sight


def can_be_asked(identity: Identity) -> bool:
    """Whether Cosmos DB can have a document with this id, and its client can ask for it."""
    try:
        check_id(identity.id)
    except DocumentRefusedError:
        return False
    return True


def _is_confirmed(doubt: Doubt, looked: Looked, etag: str | None, now: float) -> bool:
    if not doubt.is_absent:
        return etag == doubt.document_etag
    return looked.document is None and not sees_less(looked.lsn, doubt.missed.taken, now)


async def _select(engine: AsyncEngine, which: str, lag_s: float) -> list[Doubt]:
    with translated("reading what is doubted"):
        async with engine.connect() as connection:
            rows = await fetch(connection, _SELECT.format(which=which), {"lag": lag_s, "limit": CHUNK})
    return [_doubt(*row) for row in rows]


def _doubt(  # noqa: PLR0913, PLR0917 - the columns of the statement
    number: int,
    is_absent: bool,
    entity: str,
    partition_key: str,
    id_: str,
    epoch: int,
    version: int,
    etag: str | None,
    ts: int | None,
    lsn: int | None,
    document_etag: str | None,
    noticed_at: datetime,
) -> Doubt:
    taken = None if ts is None or lsn is None else Position(ts, lsn)
    missed = Missed(Identity(entity, partition_key, id_), Stamp(epoch, version), etag, taken, noticed_at)
    return Doubt(number, is_absent, missed, document_etag)
