"""Keeps small pages under way at the same time, so that a fresh message does not wait for the answers to earlier ones.

Two orders stay. A page that names a document, or an aggregate, of a page under way is sent after that one has ended
(and, if anything of it failed, has been recorded). And pages land in the order in which they were read: only then may
the cursor move past them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from core.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.identity import Identity
    from outbox.pages import Page
    from outbox.ports import Report

AT_ONCE: Final = 8
"""How many pages may be under way; then no more are read."""


class OvertakenError(TransientError):
    """An earlier page with the same document was not delivered, so this one was not sent."""


@dataclass(slots=True, eq=False)
class Flight:
    """One page under way. `settled` is set once it is known whether a page that names the same document may follow."""

    page: Page
    identities: frozenset[Identity]
    behind: tuple[Flight, ...]
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    is_lost: bool = False
    task: asyncio.Task[Report] = field(init=False)

    async def may_be_followed(self) -> None:
        """Wait until a page that names the same document may be sent.

        Raises:
            OvertakenError: it must not be.

        """
        await self.settled.wait()
        if self.is_lost:
            msg = "an earlier page with the same document was not delivered"
            raise OvertakenError(msg)

    def lose(self) -> None:
        """Let nothing that names the same document be sent any more: the page will be read again."""
        self.is_lost = True
        self.settled.set()


class Flights:
    """The pages of one stream that are under way, in the order of the log.

    Args:
        send: sends a page.

    """

    def __init__(self, send: Callable[[Page], Awaitable[Report]]) -> None:
        self._send = send
        self._flights: deque[Flight] = deque()

    @property
    def last(self) -> Page | None:
        """The page that began last, None if none is under way."""
        return self._flights[-1].page if self._flights else None

    @property
    def oldest_at(self) -> float | None:
        """When the oldest message that is under way was written, by the clock; None if none is."""
        return min((flight.page.oldest_at for flight in self._flights), default=None)

    def begin(self, page: Page) -> None:
        """Send a page as soon as those have ended that name a document of it."""
        identities = frozenset(message.identity for message in page.batch.messages).union(
            event.identity for event in page.batch.events
        )
        behind = tuple(flight for flight in self._flights if not flight.identities.isdisjoint(identities))
        flight = Flight(page, identities, behind)
        flight.task = asyncio.ensure_future(self._fly(flight))
        self._flights.append(flight)

    async def landed(self, at_most: int = AT_ONCE - 1) -> tuple[Flight, Report] | None:
        """Return the next page that was delivered, waiting for it while more than `at_most` are under way; else None.

        Raises:
            Exception: what its sending raised; it is still among those under way, see `give_up`.

        """
        if not self._flights or (len(self._flights) <= at_most and not self._flights[0].task.done()):
            return None
        report = await asyncio.shield(self._flights[0].task)
        return self._flights.popleft(), report

    async def give_up(self) -> None:
        """Wait until all that was begun has ended, and forget it: it will be read again."""
        for flight in self._flights:
            flight.lose()
        if self._flights:
            await asyncio.wait([flight.task for flight in self._flights])
        self._forget()

    async def cancel(self) -> None:
        """Break off whatever is under way, and forget it."""
        for flight in self._flights:
            flight.task.cancel()
        await asyncio.gather(*(flight.task for flight in self._flights), return_exceptions=True)
        self._forget()

    def _forget(self) -> None:
        for flight in self._flights:
            if not flight.task.cancelled():
                flight.task.exception()  # known, or found again when the page is repeated
        self._flights.clear()

    async def _fly(self, flight: Flight) -> Report:
        try:
            for earlier in flight.behind:
                await earlier.may_be_followed()
            flight.behind = ()
            report = await self._send(flight.page)
        except BaseException:
            flight.lose()
            raise
        if report.is_clean:
            flight.settled.set()
        return report
