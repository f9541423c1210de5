"""Keeps the leases of one process alive in Postgres, and says until when it may act for what it holds.

    heartbeat   every third of a lease: one statement, so that a process that is stopped never holds locks in between.
                It renews, buries holders whose lease has expired, and takes what is free up to a fair share.
    look        every twentieth of a lease: reads whether holders came or went or something is free; then a heartbeat.
    surplus     what is more than a fair share is let go by whoever acts for it, when that is at a good place.

Times of the leases are Postgres' own; this process only measures how long ago it *sent* the last heartbeat that was
answered, on a clock that counts suspend, and stops acting a tenth of a lease before the end. So a process that was
stopped for long finds out by itself before it does anything more. For what it did just before there are tokens: one
grows whenever what it stands for changes hands, and nothing is recorded with an old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import structlog

from core.clock import boot_clock
from core.errors import TransientError
from core.postgres.failures import translated
from core.waiting import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

log = structlog.get_logger()

MARGIN = 0.1
"""The share of a lease before its end at which a process stops acting for what it holds."""

_BEAT_S = 1.0
"""How long a heartbeat may take in any case, in seconds."""


class LeaseLostError(TransientError):
    """A lease is, or may be by now, another process's; what was under way for it is dropped, and done by that one."""


class Held(Protocol):
    """What one lease stands for."""

    @property
    def key(self) -> Hashable:
        """Tell it from all others."""
        ...

    @property
    def token(self) -> int:
        """Grow whenever it changes hands."""
        ...


L = TypeVar("L", bound=Held)


class LeaseKeeper(ABC, Generic[L]):
    """The leases of one process, of one kind.

    Args:
        engine: the database that they are kept in.
        lease_s: seconds that a silent process keeps them.
        clock: seconds that count suspend.
        name: of this process, for people; host and process id by default.

    """

    keep: ClassVar[str]
    """The heartbeat, one statement: its parameters are `me`, `name`, `lease` and those of `parameters`."""
    look: ClassVar[str]
    """Reads whether a heartbeat would win or lose anything."""
    leave: ClassVar[str]
    """Deletes the process, `me`. What it could not release for a lock is free all the same."""
    who: ClassVar[str]
    """What kind of process it is, for the log."""

    def __init__(
        self, engine: AsyncEngine, lease_s: float, clock: Callable[[], float] = boot_clock, name: str | None = None
    ) -> None:
        self.holder_id = uuid.uuid4()
        self.changed = asyncio.Event()
        """Set when something was taken or lost, or there is a surplus; cleared by whoever acts on it."""
        self._engine = engine
        self._lease_s = lease_s
        self._clock = clock
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._asking = asyncio.Lock()  # an answer must not come after that to a later question
        self._held: dict[Hashable, L] = {}
        self._holders = 0
        self._share = 0
        self._sent_at = float("-inf")

    @abstractmethod
    def parse(self, rows: Sequence[tuple[Any, ...]]) -> tuple[int, int, list[L]]:
        """Return how many processes there are, the fair share, and what is held, of a heartbeat's rows."""

    @abstractmethod
    def may_take(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Return whether a heartbeat would win or lose anything, of a look's rows."""

    @abstractmethod
    async def let_go(self, connection: AsyncConnection, leases: Sequence[L]) -> None:
        """Make leases free that still have their token; on an AUTOCOMMIT connection."""

    @property
    @abstractmethod
    def surplus(self) -> tuple[L, ...]:
        """What is held beyond a fair share, and has to be let go when whoever acts for it is at a good place."""

    def parameters(self) -> Mapping[str, Any]:
        """Return what else the statements need."""
        return {}

    @property
    def held(self) -> tuple[L, ...]:
        """What is held; whether it may be acted for is another question, see `check`."""
        return tuple(self._held.values())

    @property
    def left_s(self) -> float:
        """Seconds until this process stops acting for what it holds; zero or less when it has."""
        return self._sent_at + self._lease_s * (1 - MARGIN) - self._clock()

    def check(self) -> None:
        """Return if this process may act for what it holds now.

        Raises:
            LeaseLostError: the last heartbeat that was answered is too long ago.

        """
        if self.left_s <= 0:
            msg = f"no heartbeat was answered for {self._clock() - self._sent_at:.1f} s"
            raise LeaseLostError(msg)

    @property
    def holders(self) -> int:
        """How many processes there were at the last heartbeat, this one included."""
        return self._holders

    def is_held(self, key: Hashable, token: int) -> bool:
        """Return whether the last heartbeat's answer said that this is held with this token."""
        lease = self._held.get(key)
        return lease is not None and lease.token == token

    async def renew(self) -> None:
        """Send one heartbeat.

        Raises:
            TransientError: it was not answered; what is held is held until it ends.

        """
        async with self._asking:
            await self._renew()

    async def _renew(self) -> None:
        sent_at = self._clock()
        parameters = {"me": self.holder_id, "name": self._name, "lease": self._lease_s, **self.parameters()}
        rows = await self._ask(self.keep, parameters, "renewing the leases")
        self._holders, self._share, held = self.parse(rows)
        self._sent_at = sent_at
        before = {key: lease.token for key, lease in self._held.items()}
        self._held = {lease.key: lease for lease in held}
        after = {key: lease.token for key, lease in self._held.items()}
        if before != after:
            taken = len(after.items() - before.items())
            log.info("leases.changed", of=self.who, held=len(held), taken=taken, holders=self._holders)
        if before != after or self.surplus:
            self.changed.set()

    async def renew_if_due(self) -> None:
        """Send a heartbeat if a third of the lease has passed since the last one, or something may be had.

        Raises:
            TransientError: see `renew`; or Postgres did not answer.

        """
        async with self._asking:
            if self._clock() - self._sent_at >= self._lease_s / 3 or await self._may_take():
                await self._renew()

    async def release(self, leases: Iterable[L]) -> None:
        """Let some go; nothing is done for them any more, and how far they are has been stored.

        Raises:
            TransientError: Postgres did not answer.

        """
        going = tuple(leases)
        async with self._asking:
            for lease in going:
                if self.is_held(lease.key, lease.token):
                    del self._held[lease.key]
            with translated("releasing leases"):
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await self.let_go(connection, going)

    async def hand_over(self) -> None:
        """Let everything go and be no holder any more; others take it at their next look.

        Raises:
            TransientError: Postgres did not answer; it is free when the lease has expired.

        """
        await self.release(self.held)
        self._sent_at = float("-inf")
        with translated("leaving"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql(self.leave, {"me": self.holder_id})

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Send heartbeats in the background for as long as the block runs."""
        stop = asyncio.Event()
        beating = asyncio.ensure_future(self._beat(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait((beating,), timeout=_BEAT_S)
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                # A connection that hangs must not be the end of the lease.
                async with asyncio.timeout(max(self._lease_s / 3, _BEAT_S)):
                    await self.renew_if_due()
            except Exception as error:  # noqa: BLE001 - without heartbeats all would stop for ever, and nothing say why
                log.warning(
                    "leases.heartbeat_failed", of=self.who, error=type(error).__name__, left_s=round(self.left_s, 1)
                )
            await pause(self._lease_s / 20, stop)

    async def _may_take(self) -> bool:
        """Whether holders came or went since the last heartbeat, or something is free while the share is not full."""
        return self.may_take(await self._ask(self.look, {"me": self.holder_id, **self.parameters()}, "looking around"))

    async def _ask(self, sql: str, parameters: dict[str, Any], what: str) -> list[tuple[Any, ...]]:
        with translated(what):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]
