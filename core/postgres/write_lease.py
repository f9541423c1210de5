"""The phase lease of a process that writes to Cosmos DB, which has no other way to refuse a write after a switch.

A write is sent only under a lease, and acknowledged only if that very lease is still good when its answer is handled.
Postgres grants and renews leases only while Cosmos DB is the primary and nothing drains; a switch waits until all of
them were handed back or have run out. The lease is counted from before the request for it was sent, on a clock that
counts suspend, with a margin: its holder stops before Postgres believes that it has.

    writing() ---- no lease ----> renew_writer ---- refused ----> PrimaryMovedError
        |                              | granted
        | a good lease  <--------------'   a task looks at the phase every `poll_s` and renews after a third of it
        v
    the write is sent, answered ------ lease gone? -------------> OutcomeUnknownError

A lease that ran out, was refused or is handed back never comes back: the next one has an id of its own, so that no
belated request about the old one can touch it. It is handed back when the task sees a drain and the writes in flight
have been answered, so that a switch need not wait for it to run out; or when nothing was written for its length.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from core.clock import boot_clock
from core.coalesced import Coalesced
from core.envelope import Origin
from core.errors import CrossfeedError, OutcomeUnknownError, PrimaryMovedError, StoreUnavailableError
from core.phases import Phase, PhaseState
from core.postgres.failures import translated
from core.postgres.leases import MARGIN
from core.postgres.phases import READ_PHASE, phase_of
from core.waiting import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

log = structlog.get_logger()

_RENEW: Final = (
    "SELECT phase, epoch, state, granted FROM crossfeed.renew_writer(%(me)s::uuid, %(name)s::text, %(lease)s::float8)"
)
_RELEASE: Final = "SELECT crossfeed.release_writer(%(me)s::uuid)"
_ANSWER_S: Final = 1.0
"""How long Postgres is given for an answer in any case, in seconds."""
_POLLS: Final = 6
"""How often a lease is looked at in its length at least."""


@dataclass(slots=True, eq=False)
class _Lease:
    """One lease from its granting to its end."""

    me: uuid.UUID
    epoch: int
    sent_at: float
    used_at: float
    in_flight: int = 0
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class WriteLease:
    """The leases of one process, one at a time; implements core.cosmos.write_gate.WriteGate.

    A process that only reads has none: the first write asks for it.

    Args:
        engine: the database that knows the phase.
        lease_s: seconds that a silent process may go on writing, less a margin; what a switch waits at most.
        poll_s: seconds between two looks at the phase.
        clock: seconds that count suspend.
        name: of this process, for people; host and process id by default.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        lease_s: float,
        *,
        poll_s: float = 0.2,
        clock: Callable[[], float] = boot_clock,
        name: str | None = None,
    ) -> None:
        self._engine = engine
        self._lease_s = lease_s
        self._poll_s = min(poll_s, lease_s / _POLLS)
        self._clock = clock
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._lease: _Lease | None = None
        self._ask = Coalesced(self._renew_or_take)
        self._keeping: dict[_Lease, asyncio.Task[None]] = {}

    @property
    def left_s(self) -> float:
        """Seconds until this process stops writing unless the lease is renewed; zero or less without one."""
        return 0.0 if self._lease is None else self._left_s(self._lease)

    @asynccontextmanager
    async def writing(self, epoch: int) -> AsyncIterator[None]:
        """See WriteGate."""
        lease = await self._lease_for(epoch)
        # No await between the look at the lease and the count: nobody hands it back in between.
        lease.in_flight += 1
        lease.answered.clear()
        try:
            yield
            if self._left_s(lease) <= 0:
                msg = (
                    f"a write was answered {-self._left_s(lease):.1f} s after this process' right to write had ended;"
                    " it may have come too late to count"
                )
                raise OutcomeUnknownError(msg)
        finally:
            lease.in_flight -= 1
            lease.used_at = self._clock()
            if not lease.in_flight:
                lease.answered.set()

    async def aclose(self) -> None:
        """Hand the lease back once the writes in flight have been answered, or have no lease any more; take no other.

        Postgres is not waited for longer than for one answer: the lease runs out by itself.
        """
        keeping = dict(self._keeping)
        for lease in keeping:
            self._end(lease)
        if keeping:
            _, late = await asyncio.wait(keeping.values(), timeout=max(self._lease_s, _ANSWER_S))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -- asking

    async def _lease_for(self, epoch: int) -> _Lease:
        """Return a lease that is good now, in this epoch.

        Raises:
            PrimaryMovedError: there is none to be had, or the epoch is another by now.
            StoreUnavailableError: Postgres did not answer.

        """
        lease = self._good(epoch) or await self._ask()
        if lease.epoch != epoch:
            msg = f"this unit of work is of epoch {epoch}, the recorded epoch is {lease.epoch} by now: begin again"
            raise PrimaryMovedError(msg)
        if self._left_s(lease) <= 0:
            msg = f"Postgres answers too slowly for a lease of {self._lease_s} s: nothing may be written"
            raise StoreUnavailableError(msg)
        if lease.ending.is_set():  # between its granting to somebody else and now; it may be handed back already
            msg = "the right to write was given back meanwhile: begin again"
            raise PrimaryMovedError(msg)
        return lease

    def _good(self, epoch: int) -> _Lease | None:
        """Return the lease unless it ran out, or knows less than the unit of work that asks."""
        lease = self._lease
        return lease if lease is not None and self._left_s(lease) > 0 and lease.epoch >= epoch else None

    async def _renew_or_take(self) -> _Lease:
        """Renew the lease, or take a new one where it ran out.

        Raises:
            PrimaryMovedError: Cosmos DB is not the primary, or a switch drains it.
            StoreUnavailableError: Postgres did not answer.

        """
        lease = self._lease
        if lease is not None and self._left_s(lease) > 0 and await self._renew(lease):
            return lease
        return await self._take()

    async def _take(self) -> _Lease:
        me, sent_at = uuid.uuid4(), self._clock()
        lease = _Lease(me, await self._granted(me), sent_at, used_at=sent_at)
        if self._lease is not None:
            self._end(self._lease)
        self._lease = lease
        self._keeping[lease] = asyncio.create_task(self._keep(lease), name="crossfeed write lease")
        log.info("write_lease.taken", epoch=lease.epoch)
        return lease

    async def _renew(self, lease: _Lease) -> bool:
        """Return whether the answer came before the lease ran out: one that did stays so, whatever Postgres says."""
        sent_at = self._clock()
        try:
            epoch = await self._granted(lease.me)
        except PrimaryMovedError:
            self._end(lease)
            raise
        if self._left_s(lease) <= 0:
            self._end(lease)
            return False
        lease.epoch, lease.sent_at = max(lease.epoch, epoch), max(lease.sent_at, sent_at)  # of two renewals at once
        return True

    async def _granted(self, me: uuid.UUID) -> int:
        """Return the epoch for which Postgres grants a lease."""
        parameters = {"me": me, "name": self._name, "lease": self._lease_s}
        [(phase, epoch, state, granted)] = await self._run(_RENEW, parameters, "asking for the right to write")
        if not granted:
            raise PrimaryMovedError(_why_not(Phase(phase), PhaseState(state)))
        return int(epoch)

    # -- keeping

    async def _keep(self, lease: _Lease) -> None:
        """Look at the phase and renew, until the lease ends; then hand it back."""
        while not lease.ending.is_set() and self._left_s(lease) > 0:
            await pause(self._poll_s, lease.ending)
            try:
                await self._look(lease)
            except PrimaryMovedError as refused:
                log.info("write_lease.refused", why=str(refused))
            except Exception as error:  # noqa: BLE001 - the lease runs out by itself; and the next look may do better
                log.warning("write_lease.look_failed", error=type(error).__name__, left_s=round(self._left_s(lease), 1))
        self._end(lease)
        await self._hand_back(lease)
        del self._keeping[lease]

    async def _look(self, lease: _Lease) -> None:
        if lease.ending.is_set():
            return
        if not lease.in_flight and self._clock() - lease.used_at >= self._lease_s:
            self._end(lease)
            return
        if self._clock() - lease.sent_at < self._lease_s / 3:
            row = phase_of(await self._run(READ_PHASE, {}, "looking at the phase"))
            if row.state is PhaseState.DRAINING or row.primary is not Origin.COSMOS:
                self._end(lease)
                return
            if row.epoch == lease.epoch:
                return
        if not lease.ending.is_set():
            await self._renew(lease)

    def _end(self, lease: _Lease) -> None:
        """Send nothing under this lease any more."""
        lease.ending.set()
        if self._lease is lease:
            self._lease = None

    async def _hand_back(self, lease: _Lease) -> None:
        """Tell Postgres as soon as nothing is in flight; a lease that cannot be handed back runs out."""
        try:
            if lease.in_flight:
                async with asyncio.timeout(max(self._left_s(lease), 0)):
                    await lease.answered.wait()
            await self._run(_RELEASE, {"me": lease.me}, "handing the right to write back")
        except (TimeoutError, CrossfeedError) as error:
            log.warning("write_lease.runs_out", error=type(error).__name__, in_flight=lease.in_flight)
        else:
            log.info("write_lease.handed_back", epoch=lease.epoch)

    def _left_s(self, lease: _Lease) -> float:
        return lease.sent_at + self._lease_s * (1 - MARGIN) - self._clock()

    async def _run(self, sql: str, parameters: dict[str, Any], what: str) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own.

        Raises:
            StoreUnavailableError: Postgres did not answer, or not in time.

        """
        try:
            async with asyncio.timeout(max(self._lease_s / 3, _ANSWER_S)):
                with translated(what):
                    async with self._engine.connect() as connection:
                        await connection.execution_options(isolation_level="AUTOCOMMIT")
                        return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]
        except (TimeoutError, PoolTimeoutError) as error:
            msg = f"{what}: Postgres did not answer in time"
            raise StoreUnavailableError(msg) from error


def _why_not(phase: Phase, state: PhaseState) -> str:
    if state is PhaseState.DRAINING:
        return f"a switch is draining the writers of phase {phase.label}"
    return f"Postgres is the primary now: the recorded phase is {phase.label}"
