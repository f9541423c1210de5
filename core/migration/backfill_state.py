"""Keeps in Postgres how far a backfill is, and whose turn it is: one process for each direction.

Whoever has the turn has its token, and every piece of work ends by moving its place under that token, which renews the
lease: in the very transaction that wrote the piece, where it was written to Postgres. A process that slept through its
lease finds that transaction rolled back; what it sent to Cosmos DB is guarded by itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core.content import dump
from core.errors import ConcurrencyError, ConflictError
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import CursorResult
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Place = Mapping[str, Any]
"""Up to where a part is done; JSON."""


class TurnLostError(ConcurrencyError):
    """Another process goes on with this backfill."""


class Target(StrEnum):
    """The store that is filled."""

    POSTGRES = "postgres"
    COSMOS = "cosmos"


@dataclass(slots=True)
class Counts:
    """What a backfill did, over all processes that worked at it.

    Args:
        read: documents, or rows and tombstones, that were looked at.
        sent: of those, given to the target, which may have had them.
        refused: dead letters by now.
        parked: kept out by another document's state; tried again by the mirror.

    """

    read: int = 0
    sent: int = 0
    refused: int = 0
    parked: int = 0

    def add(self, other: Counts) -> None:
        """Add what another count says."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source (a container or an entity type) that is done in its own order.

    `range` is the feed range where it is one; `place` is None at the beginning.
    """

    source: str
    name: str
    range: Place | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A backfill that is under way: of which sources, since when (seconds since 1970), and what was done so far."""

    wanted: list[str]
    begun_at: float
    counts: Counts


_TAKE = """
    UPDATE crossfeed.backfill SET owner = %(owner)s, token = token + 1, lease_s = %(lease)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE target = %(target)s AND NOT crossfeed.is_alive(expires_at, lease_s) RETURNING token
"""
_HOLDER = """
    SELECT owner, extract(epoch FROM expires_at - clock_timestamp())::int FROM crossfeed.backfill
    WHERE target = %(target)s
"""
_RELEASE = """
    UPDATE crossfeed.backfill SET owner = NULL, token = token + 1, expires_at = '-infinity'
    WHERE target = %(target)s AND token = %(token)s
"""
_RENEW = """
    UPDATE crossfeed.backfill SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE target = %(target)s AND token = %(token)s
"""
# A run of before the primary moved is over: what it has passed was not written by this one.
_LOAD = """
    SELECT wanted, extract(epoch FROM begun_at)::float8, counts FROM crossfeed.backfill
    WHERE target = %(target)s AND begun_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM crossfeed.phase p, crossfeed.phase_history h
        WHERE (h.phase >= 2) <> (p.phase >= 2) AND h.epoch >= begun_epoch)
"""
_BEGIN = """
    UPDATE crossfeed.backfill SET wanted = %(wanted)s, counts = '{}', begun_at = clock_timestamp(),
        begun_epoch = (SELECT epoch FROM crossfeed.phase), moved_at = clock_timestamp()
    WHERE target = %(target)s AND token = %(token)s RETURNING extract(epoch FROM begun_at)::float8
"""
_FORGET = "DELETE FROM crossfeed.backfill_part WHERE target = %(target)s"
_PUT = """
    INSERT INTO crossfeed.backfill_part (target, source, part, range, place)
    SELECT %(target)s, p.source, p.part, p.range, p.place
    FROM jsonb_to_recordset(%(parts)s::jsonb) AS p(source text, part text, range jsonb, place jsonb)
"""
_NEXT = """
    SELECT source, part, range, place FROM crossfeed.backfill_part
    WHERE target = %(target)s AND NOT done ORDER BY source, part LIMIT 1
"""
_MOVE = """
    UPDATE crossfeed.backfill_part SET place = %(place)s::jsonb, done = %(done)s
    WHERE target = %(target)s AND source = %(source)s AND part = %(part)s
"""
_DROP = "DELETE FROM crossfeed.backfill_part WHERE target = %(target)s AND source = %(source)s AND part = %(part)s"
_COUNT = """
    UPDATE crossfeed.backfill SET counts = %(counts)s::jsonb, moved_at = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE target = %(target)s AND token = %(token)s
"""
_END = "UPDATE crossfeed.backfill SET begun_at = NULL WHERE target = %(target)s AND token = %(token)s"


class Turn:
    """The right to work at the backfill of one direction.

    Args:
        engine: the database.
        target: the store that is filled.
        lease_s: for how long a silent process keeps the turn, in seconds.

    """

    def __init__(self, engine: AsyncEngine, target: Target, lease_s: float) -> None:
        self.lease_s = lease_s
        self._engine = engine
        self._facts: dict[str, Any] = {"target": target.value, "token": 0, "lease": lease_s}

    async def take(self) -> None:
        """Take the turn.

        Raises:
            ConflictError: another process has it; the message names it.
            StoreUnavailableError: Postgres did not answer.

        """
        owner = f"{socket.gethostname()} process {os.getpid()}"
        with translated("taking the turn at the backfill"):
            async with self._engine.begin() as connection:
                taken = await connection.exec_driver_sql(_TAKE, {**self._facts, "owner": owner})
                token = taken.scalar_one_or_none()
                if token is None:
                    holder, left_s = tuple((await connection.exec_driver_sql(_HOLDER, self._facts)).one())
                    msg = f"this backfill is under way ({holder}); if that process is gone, its turn ends in {left_s} s"
                    raise ConflictError(msg)
        self._facts["token"] = token

    async def release(self) -> None:
        """Let the next one have it at once."""
        with translated("handing back the turn at the backfill"):
            async with self._engine.begin() as connection:
                await connection.exec_driver_sql(_RELEASE, self._facts)

    async def renew(self) -> None:
        """Keep the turn through a rest; see `keep`."""
        with translated("keeping the turn at the backfill"):
            async with self._engine.begin() as connection:
                await self.keep(connection)

    async def keep(self, connection: AsyncConnection) -> None:
        """Keep the turn, in the caller's transaction; its last lock.

        Raises:
            TurnLostError: it is another's by now; the caller rolls back.

        """
        await self._own(connection, _RENEW, self._facts)

    async def load(self) -> Run | None:
        """Return the run that is under way, if there is one."""
        with translated("reading how far the backfill is"):
            async with self._engine.connect() as connection:
                row = (await connection.exec_driver_sql(_LOAD, self._facts)).one_or_none()
        if row is None:
            return None
        wanted, begun_at, counts = tuple(row)
        return Run(wanted, begun_at, Counts(**counts))

    async def begin(self, wanted: Sequence[str], parts: Sequence[Part]) -> Run:
        """Begin a run, in place of whatever was left of one."""
        with translated("beginning a backfill"):
            async with self._engine.begin() as connection:
                begun = await self._own(connection, _BEGIN, {**self._facts, "wanted": list(wanted)})
                begun_at = begun.scalar_one()
                await connection.exec_driver_sql(_FORGET, self._facts)
                await self._put(connection, parts)
        return Run(list(wanted), begun_at, Counts())

    async def next_part(self) -> Part | None:
        """Return a part that is not done yet, None if all are."""
        with translated("reading how far the backfill is"):
            async with self._engine.connect() as connection:
                row = (await connection.exec_driver_sql(_NEXT, self._facts)).one_or_none()
        return None if row is None else Part(*tuple(row))

    async def move(
        self, connection: AsyncConnection, part: Part, place: Place | None, counts: Counts, *, done: bool
    ) -> None:
        """Write down how far a part is, in the caller's transaction; its last locks.

        Raises:
            TurnLostError: the turn is another's by now; the caller rolls back.

        """
        facts = {**self._facts, "source": part.source, "part": part.name, "done": done}
        facts["place"] = None if place is None else dump(dict(place))
        await connection.exec_driver_sql(_MOVE, facts)
        await self._count(connection, counts)

    async def split(self, connection: AsyncConnection, part: Part, into: Sequence[Part], counts: Counts) -> None:
        """Put several parts in the place of one; otherwise as `move`."""
        await connection.exec_driver_sql(_DROP, {**self._facts, "source": part.source, "part": part.name})
        await self._put(connection, into)
        await self._count(connection, counts)

    async def end(self) -> None:
        """End the run: everything is done."""
        with translated("ending the backfill"):
            async with self._engine.begin() as connection:
                await self._own(connection, _END, self._facts)
                await connection.exec_driver_sql(_FORGET, self._facts)

    async def _put(self, connection: AsyncConnection, parts: Sequence[Part]) -> None:
        rows = [{"source": one.source, "part": one.name, "range": one.range, "place": one.place} for one in parts]
        await connection.exec_driver_sql(_PUT, {**self._facts, "parts": dump(rows)})

    async def _count(self, connection: AsyncConnection, counts: Counts) -> None:
        await self._own(connection, _COUNT, {**self._facts, "counts": dump(asdict(counts))})

    async def _own(self, connection: AsyncConnection, sql: str, facts: dict[str, Any]) -> CursorResult[Any]:
        done = await connection.exec_driver_sql(sql, facts)
        if done.rowcount != 1:
            msg = "another process goes on with this backfill"
            raise TurnLostError(msg)
        return done
