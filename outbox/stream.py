"""Delivers the messages of one group of slots, page after page, and keeps the place where it stands.

    read a page -> collapse and load -> send, guarded -> move the cursor in memory -> now and then store it

While one page is sent, the next one is loaded and the one after it is read. The place in memory runs ahead of the
stored cursor by FLUSH_S in general; what failed is parked in the transaction that stores the cursor, before the next
page is looked at. A relay that dies at any instruction therefore only sends something again, which the guard at the
target makes harmless, and a message costs next to no write in Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from core.phases import PhaseState
from core.postgres.failures import translated
from outbox.cursor import Cursor, SlotGroup, advance
from outbox.leases import LeaseLostError
from outbox.log_reader import Batch, read_batch
from outbox.parking import ParkingPolicy, hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from outbox.ports import Kind, Report, Wiring

FLUSH_S = 0.2
"""How long, in seconds, the stored cursor may be behind what has been delivered, where storing it is quick."""

LONGEST_FLUSH_S = 5.0
FLUSH_SHARE = 0.05
"""At most this share of the time is spent on storing: while an old snapshot is held, the dead versions of the slots'
rows cannot be removed and every update takes longer than the one before."""

RETRY_S = 1.0
"""How often parked documents are looked for, in seconds."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page on its way. `parkings`: how often failures had been recorded when it was read."""

    batch: Batch
    loaded: Any
    read_at: float
    parkings: int


class Stream:
    """One group of slots.

    Args:
        group: as it is stored.
        kind: what is done with its messages.
        wiring: what streams share.
        check: raises LeaseLostError when the group must not be acted for any more.

    """

    def __init__(self, group: SlotGroup, kind: Kind, wiring: Wiring, check: Callable[[], None]) -> None:
        self.group = group
        self.cursor = group.cursor
        self.is_caught_up = False
        self.messages = 0
        self.passed_at: float | None = None
        """When a page was last done, by the clock."""
        self.last_error: str | None = None
        """The class of what it waits for, None while all is well."""
        self.oldest_at: float | None = None
        """When the oldest message was written that was read and not delivered, by the clock; None: there is none."""
        self._kind = kind
        self._wiring = wiring
        self._check = check
        self._policy = ParkingPolicy.of(wiring.settings)
        self._reports: list[Report] = []
        self._dirty_since: float | None = None
        self._flush_s = FLUSH_S
        self._parkings = 0
        self.flows = False
        """Whether the phase lets it go on, as far as it knows."""
        self._retry_at = wiring.clock()

    async def page(self) -> bool:
        """Deliver one page; return whether the next should follow at once.

        Raises:
            TransientError: a store failed, or the lease is lost; nothing is lost, repeat.
            ConflictError: the phase was changed meanwhile; repeat.
            ConfigurationError: a message is of an entity type without a mapping.
            HistoryLostError: Postgres has lost what was sent from it.

        """
        await self._record_failures()
        more = await self._finish(await self._prepare(), backlog=False)
        await self._retry()
        return more

    async def catch_up(self, is_over: Callable[[], bool] = lambda: False) -> int:
        """Deliver page after page until no more is there, or, between two pages, until `is_over`; return the messages.

        Raises: as `page`.

        """
        await self._record_failures()
        before = self.messages
        more = await self._finish(await self._prepare(), backlog=not self.is_caught_up)
        await self._retry()
        if more:
            self.is_caught_up = False
            async with self._ahead() as pages:
                while more and not is_over():
                    more = await self._finish(await (await pages.get()), backlog=True)
                    await self._retry()
        return self.messages - before

    async def deliver(self, batch: Batch) -> None:
        """Deliver a page that was read by others, at this stream's cursor. Raises as `page`."""
        await self._finish(await self._load(batch, self._wiring.clock(), self._parkings), backlog=False)

    async def flush(self) -> None:
        """Store the cursor, if it has moved past anything.

        Raises:
            LeaseLostError: a slot is another relay's; nothing was stored.
            TransientError: a store did not answer.

        """
        if self._dirty_since is None:
            return
        self._check()
        began_at = self._wiring.clock()
        lineage = self._wiring.lineage
        if lineage is not None:
            await lineage.mark()
            self._check()
        with translated("storing the cursor"):
            if self._reports:
                async with self._wiring.engine.begin() as connection:
                    await self._hold(connection)
                    await self._kind.record(connection, self._reports)
                    await self._advance(connection)
            else:
                async with self._wiring.engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await self._advance(connection)
        self._kind.forget(self._reports)
        self._parkings += any(not report.is_clean for report in self._reports)
        self._reports = []
        self._dirty_since = None
        self._flush_s = min(LONGEST_FLUSH_S, max(FLUSH_S, (self._wiring.clock() - began_at) / FLUSH_SHARE))

    async def _record_failures(self) -> None:
        """Do first what could not be done when a page had ended: what comes next must find its failures parked."""
        if not all(report.is_clean for report in self._reports):
            await self.flush()

    async def _prepare(self) -> Page:
        read_at = self._wiring.clock()
        with translated("reading the outbox"):
            async with self._wiring.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                parkings = self._parkings
                batch = await self._read(connection, self.cursor)
                return Page(batch, await self._kind.load(connection, batch), read_at, parkings)

    async def _read(self, connection: AsyncConnection, cursor: Cursor) -> Batch:
        self._wiring.stats.passes += 1
        return await read_batch(connection, replace(self.group, cursor=cursor), self._wiring.settings.relay_page_size)

    async def _load(self, batch: Batch, read_at: float, parkings: int) -> Page:
        with translated("loading a page"):
            async with self._wiring.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                return Page(batch, await self._kind.load(connection, batch), read_at, parkings)

    @contextlib.asynccontextmanager
    async def _ahead(self) -> AsyncIterator[asyncio.Queue[asyncio.Future[Page]]]:
        """Read and load the pages that follow while one is sent; what is not wanted any more is cancelled."""
        pages: asyncio.Queue[asyncio.Future[Page]] = asyncio.Queue(maxsize=1)
        begun: list[asyncio.Future[Page]] = []

        async def read_on(cursor: Cursor) -> None:
            while True:
                read_at, parkings = self._wiring.clock(), self._parkings
                try:
                    with translated("reading the outbox"):
                        async with self._wiring.engine.connect() as connection:
                            await connection.execution_options(isolation_level="AUTOCOMMIT")
                            batch = await self._read(connection, cursor)
                except Exception as error:  # noqa: BLE001 - raised where the page is waited for
                    failed: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
                    failed.set_exception(error)
                    begun.append(failed)
                    await pages.put(failed)
                    return
                page = asyncio.ensure_future(self._load(batch, read_at, parkings))
                begun[:] = [*(one for one in begun if not one.done()), page]
                await pages.put(page)
                if not batch.more:
                    return
                cursor = batch.next

        reading = asyncio.ensure_future(read_on(self.cursor))
        try:
            yield pages
        finally:
            waiting = [pages.get_nowait() for _ in range(pages.qsize())]
            unwanted: list[asyncio.Future[Any]] = [reading, *begun, *waiting]
            for task in unwanted:
                task.cancel()
            await asyncio.gather(*unwanted, return_exceptions=True)

    async def _finish(self, page: Page, *, backlog: bool) -> bool:
        """Send a page and move past it; return whether the next should follow at once."""
        batch, wiring = page.batch, self._wiring
        messages = len(batch.messages) + len(batch.events)
        left = batch.left
        self.flows = wiring.may_go_on(batch.phase, self.group.carries, left)
        if not self.flows:
            self._is_at_the_end()
            self._passed()
            return False
        if messages:
            first = batch.messages[0] if batch.messages else batch.events[0]
            self.oldest_at = page.read_at - first.age_s
        if wiring.lineage is not None and batch.newest is not None:
            wiring.lineage.note(self.group.slots, self.group.tokens, batch.newest)
        parked = batch.has_letters or page.parkings != self._parkings
        report = await self._kind.send(batch, page.loaded, page.read_at, self._check, backlog=backlog, parked=parked)
        wiring.stats.messages += messages
        self.messages += messages
        moved = batch.next != self.cursor
        self.cursor = batch.next
        if messages and (parked or not report.is_clean):
            self._reports.append(report)
        else:
            self._kind.forget([report])
        if self._dirty_since is None and (
            messages or (moved and (left or batch.more or batch.phase.state is PhaseState.DRAINING))
        ):
            self._dirty_since = wiring.clock()
        if not batch.more:
            self._is_at_the_end()
        if not report.is_clean or self._is_flush_due(batch):
            await self.flush()
        self._passed()
        return batch.more

    def _passed(self) -> None:
        self.passed_at = self._wiring.clock()
        self.last_error = None

    def _is_at_the_end(self) -> None:
        self.is_caught_up = True
        self.oldest_at = None

    def _is_flush_due(self, batch: Batch) -> bool:
        if self._dirty_since is None:
            return False
        return batch.phase.state is PhaseState.DRAINING or self._wiring.clock() - self._dirty_since >= self._flush_s

    async def _retry(self) -> None:
        now = self._wiring.clock()
        if not self.flows or now < self._retry_at:
            return
        self._retry_at = now + RETRY_S
        while await self._kind.retry(self.group, self._check):
            if self._wiring.clock() >= now + RETRY_S:  # however much is parked, what is fresh has its turn as well
                break
        self._retry_at = self._wiring.clock() + RETRY_S

    async def _hold(self, connection: AsyncConnection) -> None:
        if not await hold(connection, dict(zip(self.group.slots, self.group.tokens, strict=True)), self._policy):
            self._lost()

    async def _advance(self, connection: AsyncConnection) -> None:
        if not await advance(connection, self.group, self.cursor):
            self._lost()

    def _lost(self) -> None:
        msg = f"slots of {self.group.slots} are another relay's, were set back, or the server is another"
        raise LeaseLostError(msg)
