"""Delivers the messages of one group of slots, page after page, and keeps the place where it stands.

    read a page -> collapse and load -> send, guarded -> move the cursor in memory -> now and then store it

While one page of a backlog is sent, the next one is loaded and the one after it is read (outbox.pages). What is fresh
comes in small pages, and none of them waits for the answers to another (outbox.flights). The place in memory runs
ahead of the stored cursor (outbox.place); what failed is parked in the transaction that stores the cursor,
before another page of the same document is sent. A relay that dies at any instruction therefore only sends something
again, which the guard at the target makes harmless, and a message costs next to no write in Postgres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.phases import PhaseState
from outbox.flights import AT_ONCE, Flights
from outbox.pages import Page, Pages
from outbox.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.cursor import Cursor, SlotGroup
    from outbox.log_reader import Batch
    from outbox.ports import Kind, Report, Wiring

FRESH = 100
"""A page of at most so many messages, with none behind it, is sent beside those under way."""

RETRY_S = 1.0
"""How often parked documents are looked for, in seconds, while there are any."""


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
        self.is_caught_up = False
        self.messages = 0
        self.passed_at: float | None = None
        """When a page was last done, by the clock."""
        self.last_error: str | None = None
        """The class of what it waits for, None while all is well."""
        self.oldest_at: float | None = None
        """When the oldest message was written that was read and not delivered, by the clock; None: there is none."""
        self._place = Place(group, kind, wiring, check)
        self._kind = kind
        self._wiring = wiring
        self._check = check
        self._pages = Pages(group, kind, wiring, lambda: self._place.parkings)
        self._flights = Flights(self._send_fresh)
        self.flows = False
        """Whether the phase lets it go on, as far as it knows."""
        self._retry_at = wiring.clock()
        self._has_parked = True
        self._is_careful = False
        """Whether something has failed and nothing has succeeded since: then every page is waited for."""

    @property
    def cursor(self) -> Cursor:
        """Everything before it has been delivered, or is parked."""
        return self._place.cursor

    @property
    def is_recorded(self) -> bool:
        """Whether everything before the cursor that failed is parked or dead; if not, that is known here alone."""
        return self._place.is_recorded

    async def page(self) -> bool:
        """Deliver one page; return whether the next should follow at once.

        Raises:
            TransientError: a store failed, or the lease is lost; nothing is lost, repeat.
            ConflictError: the phase was changed meanwhile; repeat.
            ConfigurationError: a message is of an entity type without a mapping.
            HistoryLostError: Postgres has lost what was sent from it.

        """
        await self._place.record_failures()
        more = await self._finish(await self._pages.next(self._place.cursor), backlog=False)
        await self._retry()
        return more

    async def catch_up(self, is_over: Callable[[], bool] = lambda: False) -> int:
        """Deliver page after page until no more is there, or, between two pages, until `is_over`; return the messages.

        Raises: as `page`.

        """
        await self._place.record_failures()
        return await self._catch_up(await self._pages.next(self._place.cursor), is_over)

    async def poll(self, is_over: Callable[[], bool]) -> int:
        """Begin to deliver what there is if it is little, else `catch_up`; return the messages.

        Raises: as `page`, and what has become of pages that were begun before: all that are under way are read again.

        """
        try:
            await self._land(AT_ONCE - 1)
            await self._place.record_failures()
            if self._is_retry_due():
                await self._land(0)
                await self._retry()
            under_way = self._flights.last
            page = await self._pages.next(under_way.batch.next if under_way is not None else self._place.cursor)
            if under_way is not None and not page.messages and not page.batch.more:
                return 0  # canaries are read again, then without waiting for anything
            is_little = 0 < page.messages <= FRESH and not page.batch.more and not self._is_careful
            if not (is_little and self._kind.may_overlap(page.loaded) and self._may_go_on(page.batch)):
                await self._land(0)
                await self._place.record_failures()
                return await self._catch_up(page, is_over)
            self._note(page.batch)
            self._flights.begin(page)
        except Exception:
            self._is_careful = True
            await self._flights.give_up()
            raise
        self.is_caught_up = True
        self.oldest_at = self._flights.oldest_at
        return page.messages

    async def deliver(self, batch: Batch) -> None:
        """Deliver a page that was read by others, at this stream's cursor. Raises as `page`."""
        await self._finish(await self._pages.load(batch), backlog=False)

    async def settle(self) -> None:
        """Wait for what is under way, then store the cursor. Raises as `page`."""
        try:
            await self._land(0)
        except Exception:
            await self._flights.give_up()
            raise
        await self._place.flush()

    async def flush(self) -> None:
        """Store the cursor, if it has moved past anything. Raises as `page`."""
        await self._place.flush()

    async def abandon(self) -> None:
        """Break off whatever is under way: it will be read again."""
        await self._flights.cancel()
        await self._place.abandon()

    async def _catch_up(self, page: Page, is_over: Callable[[], bool]) -> int:
        before = self.messages
        more = await self._finish(page, backlog=not self.is_caught_up)
        await self._retry()
        if more:
            self.is_caught_up = False
            async with self._pages.ahead(self._place.cursor) as pages:
                while more and not is_over():
                    more = await self._finish(await (await pages.get()), backlog=True)
                    await self._retry()
        return self.messages - before

    async def _finish(self, page: Page, *, backlog: bool) -> bool:
        """Send a page and move past it; return whether the next should follow at once."""
        batch = page.batch
        if not self._may_go_on(batch):
            self._is_at_the_end()
            self._passed()
            return False
        if page.messages:
            self.oldest_at = page.oldest_at
        self._note(batch)
        report = await self._send(page, backlog=backlog)
        self._move(page, report)
        if not batch.more:
            self._is_at_the_end()
        await self._place.record_failures()
        await self._place.flush_when_due(is_draining=batch.phase.state is PhaseState.DRAINING)
        self._passed()
        return batch.more

    async def _land(self, at_most: int) -> None:
        """Move past the small pages that were delivered, waiting for them while more than `at_most` are under way."""
        while (landed := await self._flights.landed(at_most)) is not None:
            flight, report = landed
            self._move(flight.page, report)
            self.oldest_at = self._flights.oldest_at
            try:
                await self._place.record_failures()
                flight.settled.set()
            except BaseException:
                flight.lose()
                raise
            await self._place.flush_when_due(is_draining=flight.page.batch.phase.state is PhaseState.DRAINING)
            self._passed()

    def _move(self, page: Page, report: Report) -> None:
        self._wiring.stats.messages += page.messages
        self.messages += page.messages
        self._place.move(page, report)
        self._wiring.on_canaries(self.group.carries, page.batch.phase.epoch, page.batch.canaries)

    async def _send_fresh(self, page: Page) -> Report:
        return await self._send(page, backlog=False)

    async def _send(self, page: Page, *, backlog: bool) -> Report:
        return await self._kind.send(
            page.batch, page.loaded, page.read_at, self._check, backlog=backlog, parked=self._place.may_be_parked(page)
        )

    def _may_go_on(self, batch: Batch) -> bool:
        self._has_parked = batch.has_parked
        self.flows = self._wiring.may_go_on(batch.phase, self.group.carries, batch.left)
        return self.flows

    def _note(self, batch: Batch) -> None:
        if self._wiring.lineage is not None and batch.newest is not None:
            self._wiring.lineage.note(self.group.slots, self.group.tokens, batch.newest)

    def _passed(self) -> None:
        self.passed_at = self._wiring.clock()
        self.last_error = None
        self._is_careful = False

    def _is_at_the_end(self) -> None:
        self.is_caught_up = True
        self.oldest_at = None

    def _is_retry_due(self) -> bool:
        return self.flows and self._has_parked and self._wiring.clock() >= self._retry_at

    async def _retry(self) -> None:
        if not self._is_retry_due():
            return
        now = self._wiring.clock()
        self._retry_at = now + RETRY_S
        while await self._kind.retry(self.group, self._check):
            if self._wiring.clock() >= now + RETRY_S:  # however much is parked, what is fresh has its turn as well
                break
        self._retry_at = self._wiring.clock() + RETRY_S
