"""Keeps in Postgres how far a round of reconcile passes is, and whose turn it is: one process at a time.

Whoever holds the turn has its token, and every transaction of a pass ends by saving the round under that token, which
renews the lease. A process that slept through its lease therefore finds its transaction rolled back. (What it may have
removed before is guarded by itself: see core.postgres.absence.)
"""

from __future__ import annotations

import dataclasses
import os
import socket
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import DBAPIError

from core.content import dump
from core.errors import ConcurrencyError, ConflictError
from core.postgres.failures import driver_error, translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class TurnLostError(ConcurrencyError):
    """Another process has taken over the reconcile pass; it goes on where this one was."""


class Step(StrEnum):
    """What a pass over one container does, in this order."""

    BEGIN = "begin"
    DOCUMENTS = "documents"
    TAIL = "tail"
    ROWS = "rows"
    DOUBTS = "doubts"


@dataclass(slots=True)
class Counts:
    """What a pass found in one container and did about it.

    Args:
        documents: looked at, tombstones included, Crossfeed's own documents not.
        unmapped: of a type that nobody mapped.
        unreadable: with a key that no row can have.
        recent: differing, but written within the lag window: the mirror's to apply.
        applied: differing from what Postgres holds, and given to the guarded write.
        orphans: documents that Postgres, the primary, has never had; left alone.
        ahead: documents newer than their rows in Postgres, the primary: it lost commits.
        rows: looked at.
        doubted: rows without a document, and documents older than their rows.
        found: of those, rows whose document was found after all.
        behind: of those, read from a replica that lags; the next pass looks again.
        kept: of those, changed meanwhile, never sent, or the relay's to send.
        removed: rows of documents that were deleted.
        healed: rows that were published again.

    """

    documents: int = 0
    unmapped: int = 0
    unreadable: int = 0
    recent: int = 0
    applied: int = 0
    orphans: int = 0
    ahead: int = 0
    rows: int = 0
    doubted: int = 0
    found: int = 0
    behind: int = 0
    kept: int = 0
    removed: int = 0
    healed: int = 0

    def add(self, other: Counts) -> None:
        """Add what another count says."""
        for item in dataclasses.fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True, slots=True)
class ContainerReport:
    """A container that is done. `refused`: too many rows had no document, so none was removed."""

    container: str
    refused: bool
    counts: Counts


@dataclass(slots=True)
class Round:
    """One pass over each of the containers `wanted`. The first of `todo` is under way, at `step` and `place`.

    `dry`: nothing is changed but this. `idle_s`: so many seconds ago somebody worked at it. `completed_s`: so many
    seconds ago a round over everything ended, None: never.
    """

    wanted: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)
    dry: bool = False
    epoch: int = 0
    step: Step = Step.BEGIN
    place: dict[str, Any] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    reports: list[ContainerReport] = field(default_factory=list)
    idle_s: float = 0.0
    completed_s: float | None = None


_TAKE = """
    UPDATE crossfeed.reconcile SET owner = %(owner)s, token = token + 1, lease_s = %(lease)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE NOT crossfeed.is_alive(expires_at, lease_s) RETURNING token
"""
_HOLDER = "SELECT owner, extract(epoch FROM expires_at - clock_timestamp())::int FROM crossfeed.reconcile"
_RENEW = """
    UPDATE crossfeed.reconcile SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE token = %(token)s
"""
_RELEASE = """
    UPDATE crossfeed.reconcile SET owner = NULL, token = token + 1, expires_at = '-infinity' WHERE token = %(token)s
"""
_LOAD = """
    SELECT wanted, todo, dry, epoch, step, place, counts, reports,
        extract(epoch FROM clock_timestamp() - moved_at)::float8,
        extract(epoch FROM clock_timestamp() - completed_at)::float8
    FROM crossfeed.reconcile
"""
_SAVE = """
    UPDATE crossfeed.reconcile SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        wanted = %(wanted)s, todo = %(todo)s, dry = %(dry)s, epoch = %(epoch)s, step = %(step)s,
        place = %(place)s::jsonb, counts = %(counts)s::jsonb, reports = %(reports)s::jsonb,
        moved_at = clock_timestamp()
    WHERE token = %(token)s
"""
_COMPLETE = "UPDATE crossfeed.reconcile SET completed_at = clock_timestamp() WHERE token = %(token)s"
_TABLES = ("crossfeed.reconcile_range", "crossfeed.reconcile_seen", "crossfeed.reconcile_doubt")
_GIVE_WAY = "SELECT set_config('lock_timeout', '500ms', true)"


class Turn:
    """The right to work at the round.

    Args:
        engine: the database.
        lease_s: for how long a silent process keeps it, in seconds.

    """

    def __init__(self, engine: AsyncEngine, lease_s: float) -> None:
        self.lease_s = lease_s
        self._engine = engine
        self._token = 0

    @property
    def token(self) -> int:
        """What this turn has and no other; 0 before the first."""
        return self._token

    async def take(self) -> bool:
        """Take the turn; return whether it was free.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        owner = f"{socket.gethostname()} process {os.getpid()}"
        with translated("taking the turn at the reconcile pass"):
            async with self._engine.begin() as connection:
                taken = await connection.exec_driver_sql(_TAKE, {"owner": owner, "lease": self.lease_s})
                token = taken.scalar_one_or_none()
        self._token = token or 0
        return token is not None

    async def refuse(self) -> ConflictError:
        """Return the error that names who has it."""
        with translated("reading whose turn it is"):
            async with self._engine.connect() as connection:
                owner, left_s = tuple((await connection.exec_driver_sql(_HOLDER)).one())
        return ConflictError(
            f"another reconcile pass is under way ({owner}); if that process is gone, its turn ends in {left_s} s"
        )

    async def release(self) -> None:
        """Let the next one have it at once."""
        with translated("handing back the turn at the reconcile pass"):
            async with self._engine.begin() as connection:
                await connection.exec_driver_sql(_RELEASE, {"token": self._token})

    async def renew(self, connection: AsyncConnection) -> None:
        """Keep the turn, in the caller's transaction; its last lock.

        Raises:
            TurnLostError: it is another's by now; the caller rolls back.

        """
        self._check(await connection.exec_driver_sql(_RENEW, {"token": self._token, "lease": self.lease_s}))

    async def load(self) -> Round:
        """Read the round."""
        with translated("reading how far the reconcile pass is"):
            async with self._engine.connect() as connection:
                row = (await connection.exec_driver_sql(_LOAD)).one()
        wanted, todo, dry, epoch, step, place, counts, reports, idle_s, completed_s = tuple(row)
        done = [ContainerReport(one["container"], one["refused"], Counts(**one["counts"])) for one in reports]
        return Round(wanted, todo, dry, epoch, Step(step), place, Counts(**counts), done, idle_s, completed_s)

    async def save(self, connection: AsyncConnection, at: Round) -> None:
        """Write the round, in the caller's transaction; its last lock.

        Raises:
            TurnLostError: the turn is another's by now; the caller rolls back.

        """
        facts = {
            "wanted": at.wanted,
            "todo": at.todo,
            "dry": at.dry,
            "epoch": at.epoch,
            "step": at.step.value,
            "place": dump(at.place),
            "counts": dump(dataclasses.asdict(at.counts)),
            "reports": dump([dataclasses.asdict(report) for report in at.reports]),
        }
        self._check(await connection.exec_driver_sql(_SAVE, {**facts, "token": self._token, "lease": self.lease_s}))

    async def begin(self, wanted: Sequence[str], *, dry: bool) -> Round:
        """Begin a round, in place of whatever was left of one.

        Raises:
            TurnLostError: the turn is another's by now.

        """
        at = Round(list(wanted), list(wanted), dry)
        with translated("beginning a reconcile pass"):
            async with self._engine.begin() as connection:
                await self.clear(connection)
                await self.save(connection, at)
        return at

    async def clear(self, connection: AsyncConnection) -> None:
        """Forget what is known of the container under way, in the caller's transaction."""
        await self.renew(connection)  # before the locks below: nobody else is to be waited for
        await connection.exec_driver_sql(_GIVE_WAY)
        try:
            async with connection.begin_nested():
                await connection.exec_driver_sql(f"TRUNCATE {', '.join(_TABLES)}")
        except DBAPIError as error:
            if not isinstance(driver_error(error), LockNotAvailable):
                raise
            # Somebody reads them for long, as a backup does.
            for table in _TABLES:
                await connection.exec_driver_sql(f"DELETE FROM {table}")

    async def complete(self, connection: AsyncConnection) -> None:
        """Remember that a round over everything has ended, in the caller's transaction."""
        self._check(await connection.exec_driver_sql(_COMPLETE, {"token": self._token}))

    def _check(self, result: Any) -> None:  # noqa: ANN401 - what SQLAlchemy returns
        if result.rowcount != 1:
            msg = "another process has taken over the reconcile pass"
            raise TurnLostError(msg)
