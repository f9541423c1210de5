"""Keeps the place of one group of slots in the log: at once in memory, now and then in Postgres, with what failed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from core.phases import PhaseState
from core.postgres.failures import translated
from core.postgres.leases import LeaseLostError
from outbox.cursor import advance
from outbox.parking import ParkingPolicy, hold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from outbox.cursor import Cursor, SlotGroup
    from outbox.pages import Page
    from outbox.ports import Kind, Report, Wiring

FLUSH_S = 0.2
"""How long, in seconds, the stored cursor may be behind what has been delivered, where storing it is quick."""

LONGEST_FLUSH_S = 5.0
FLUSH_SHARE = 0.05
"""At most this share of the time is spent on storing: while an old snapshot is held, the dead versions of the slots'
rows cannot be removed and every update takes longer than the one before."""


class Place:
    """Where a group stands.

    Args:
        group: as it is stored.
        kind: what is done with its messages.
        wiring: what streams share.
        check: raises LeaseLostError when the group must not be acted for any more.

    """

    def __init__(self, group: SlotGroup, kind: Kind, wiring: Wiring, check: Callable[[], None]) -> None:
        self.cursor = group.cursor
        self.parkings = 0
        """How often failures have been recorded."""
        self.reports: list[Report] = []
        """What is to be recorded with the cursor."""
        self._group = group
        self._kind = kind
        self._wiring = wiring
        self._check = check
        self._policy = ParkingPolicy.of(wiring.settings)
        self._dirty_since: float | None = None
        self._flush_s = FLUSH_S
        self._turn = asyncio.Lock()
        self._storing: asyncio.Task[None] | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether nothing that failed is still to be stored with the cursor."""
        return all(report.is_clean for report in self.reports)

    def may_be_parked(self, page: Page) -> bool:
        """Whether something may be parked or dead of what a page names."""
        return page.batch.has_letters or page.parkings != self.parkings

    def move(self, page: Page, report: Report) -> None:
        """Move past a page that was delivered, or whose failures are in the report, in memory."""
        batch = page.batch
        moved = batch.next != self.cursor
        self.cursor = batch.next
        if page.messages and (self.may_be_parked(page) or not report.is_clean):
            self.reports.append(report)
        else:
            self._kind.forget([report])
        if self._dirty_since is None and (
            page.messages
            or batch.canaries  # or what is full of them would never be dropped
            or (moved and (batch.left or batch.more or batch.phase.state is PhaseState.DRAINING))
        ):
            self._dirty_since = self._wiring.clock()

    async def record_failures(self) -> None:
        """Store the place if anything has failed: what comes next must find it parked. Raises as `flush`."""
        if not self.is_recorded:
            await self.flush()

    async def flush_when_due(self, *, is_draining: bool) -> None:
        """Store the place if it has moved for long enough; others need not wait for it, but for a drain.

        Raises: as `flush`, also for a time before.

        """
        if self._storing is not None and self._storing.done():
            done, self._storing = self._storing, None
            done.result()
        if self._dirty_since is None:
            return
        if is_draining:
            await self.flush()
        elif self._storing is None and self._wiring.clock() - self._dirty_since >= self._flush_s:
            self._storing = asyncio.ensure_future(self.flush())

    async def flush(self) -> None:
        """Store the place, if it has moved past anything.

        Raises:
            LeaseLostError: a slot is another relay's; nothing was stored.
            TransientError: a store did not answer.

        """
        async with self._turn:
            if self._dirty_since is None:
                return
            dirty_since, reports = self._dirty_since, self.reports
            self._dirty_since, self.reports = None, []
            try:
                await self._store(self.cursor, reports)
            except BaseException:
                self._dirty_since, self.reports = dirty_since, reports + self.reports
                raise
            self._kind.forget(reports)
            self.parkings += any(not report.is_clean for report in reports)

    async def abandon(self) -> None:
        """Break off a flush that nobody waits for."""
        storing, self._storing = self._storing, None
        if storing is not None:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)

    async def _store(self, cursor: Cursor, reports: Sequence[Report]) -> None:
        self._check()
        began_at = self._wiring.clock()
        lineage = self._wiring.lineage
        if lineage is not None:
            await lineage.mark()
            self._check()
        with translated("storing the cursor"):
            if reports:
                async with self._wiring.engine.begin() as connection:
                    await self._hold(connection)
                    await self._kind.record(connection, reports)
                    await self._advance(connection, cursor)
            else:
                async with self._wiring.engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await self._advance(connection, cursor)
        self._flush_s = min(LONGEST_FLUSH_S, max(FLUSH_S, (self._wiring.clock() - began_at) / FLUSH_SHARE))

    async def _hold(self, connection: AsyncConnection) -> None:
        if not await hold(connection, dict(zip(self._group.slots, self._group.tokens, strict=True)), self._policy):
            self._lost()

    async def _advance(self, connection: AsyncConnection, cursor: Cursor) -> None:
        if not await advance(connection, self._group, cursor):
            self._lost()

    def _lost(self) -> None:
        msg = f"slots of {self._group.slots} are another relay's, were set back, or the server is another"
        raise LeaseLostError(msg)
