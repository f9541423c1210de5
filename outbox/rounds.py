"""Runs a stream for each group of slots that a relay holds, and puts groups together that have caught up.

Slots that were taken over from different relays stand at different places. A round is the time in which nothing about
that changes: each group follows the log in a task of its own, so that one far behind holds up none that is fresh, and a
group that has caught up goes on polling. It ends, each group at the end of its page, when slots come or go, or when
all have caught up and there is more than one of a kind: then these are read together, in one snapshot, and stand at
the same place afterwards. So an undisturbed relay has one group of states and one of events, and its round never ends.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from core.errors import ConflictError, CrossfeedError, StoreUnavailableError, TransientError
from core.postgres.failures import translated
from core.postgres.leases import LeaseLostError
from core.waiting import pause
from outbox.backoff import patiently
from outbox.cursor import ServerChangedError
from outbox.leases import Lease, grouped
from outbox.lineage import LineageMovedError
from outbox.log_reader import read_batch
from outbox.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from outbox.cursor import Carries
    from outbox.leases import Leases
    from outbox.ports import Kind, Wiring

log = structlog.get_logger()

T = TypeVar("T")

PAUSE_SHARE = 0.25
"""How long to pause between two polls, as a share of the time for which there was nothing, within what is set."""

_STALE = (LeaseLostError, ServerChangedError, LineageMovedError)
"""After these, leases and cursors are read and compared anew."""


class Rounds:
    """One round after the other.

    Args:
        leases: the slots that are held.
        kinds: what is done with each kind of slots; slots of other kinds are held and left alone.
        wiring: what streams share.

    """

    def __init__(self, leases: Leases, kinds: Mapping[Carries, Kind], wiring: Wiring) -> None:
        self.streams: tuple[Stream, ...] = ()
        self.last_error: str | None = None
        """The class of what keeps a round from beginning, None while all is well."""
        self._leases = leases
        self._kinds = kinds
        self._wiring = wiring
        self._places: dict[int, Lease] = {}
        self._is_stale = True
        self._idle_at: float | None = None

    @property
    def passed_at(self) -> float | None:
        """When the group that has waited longest last did a page, by the clock; None before all have done one."""
        times = [stream.passed_at for stream in self.streams] or [self._idle_at]
        known = [time for time in times if time is not None]
        return min(known) if len(known) == len(times) else None

    async def run(self, stop: asyncio.Event) -> None:
        """Do rounds until `stop` is set; then every cursor is stored. Whatever infrastructure fails is waited for.

        Raises:
            ConfigurationError: a message is of an entity type without a mapping.
            HistoryLostError: Postgres has lost what was sent from it.

        """
        try:
            while not stop.is_set():
                if await self._patiently(self._begin, stop, self) is None:
                    continue
                self.last_error = None
                if not self.streams:
                    await pause(self._wiring.settings.relay_lease_s / 20, stop)
                    continue
                await self._round(stop)
                if not stop.is_set():
                    await self._patiently(self._align, stop, self)
                await self._end()
        finally:
            await self._wiring.line.close()

    async def once(self, *, whole: bool) -> bool:
        """Do one page of every group, or, if `whole`, all pages; store the cursors. Return whether there is more.

        Raises: as outbox.stream.Stream.page.

        """
        await self._leases.renew_if_due()
        await self._begin()
        try:
            more = False
            for stream in self.streams:
                if whole:
                    await stream.catch_up()
                else:
                    more |= await stream.page()
                await stream.flush()
        except _STALE:
            self._is_stale = True
            raise
        finally:
            await self._stop_streams()
            await self._wiring.line.close()
        return more

    async def _begin(self) -> bool:
        """Take stock of what is held, and wire a stream for each group."""
        self._leases.changed.clear()
        if self._is_stale or self._leases.left_s <= 0:
            await self._leases.renew()
        if self._is_stale:
            self._places = {}
            for kind in self._kinds.values():
                kind.start_over()
        held = {lease.slot: lease for lease in self._leases.held if lease.carries in self._kinds}
        new = [lease for slot, lease in held.items() if not _is_same(self._places.get(slot), lease)]
        if new and self._wiring.lineage is not None:
            with translated("comparing the markers with the log"):
                async with self._wiring.engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    server = await self._wiring.lineage.check(connection, [lease.slot for lease in new])
            if any(lease.server != server for lease in new):
                self._is_stale = True
                msg = "another server answered than the one on which the leases were taken"
                raise ServerChangedError(msg)
        self._places = {slot: self._places[slot] for slot in held if slot in self._places}
        self._places |= {lease.slot: lease for lease in new}
        self._is_stale = False
        before = self.passed_at
        self.streams = tuple(
            Stream(group, self._kinds[group.carries], self._wiring, self._leases.guard(group))
            for group in grouped(tuple(self._places.values()))
        )
        for stream in self.streams:
            stream.passed_at = before
        self._idle_at = None if self.streams else self._wiring.clock()
        return True

    async def _round(self, stop: asyncio.Event) -> None:
        over = asyncio.Event()
        following = [asyncio.ensure_future(self._follow(stream, over)) for stream in self.streams]
        watching = [asyncio.ensure_future(event.wait()) for event in (stop, self._leases.changed, over)]
        try:
            await asyncio.wait((*following, *watching), return_when=asyncio.FIRST_COMPLETED)
            over.set()
            await asyncio.gather(*following)
        finally:
            for task in (*following, *watching):
                task.cancel()
            await asyncio.gather(*following, *watching, return_exceptions=True)
            await self._stop_streams()

    async def _follow(self, stream: Stream, over: asyncio.Event) -> None:
        """Follow the log until the round is over, then store the cursor."""
        shortest = self._wiring.settings.relay_poll_min_ms / 1000
        longest = max(shortest, self._wiring.settings.relay_poll_max_ms / 1000)
        found_at = self._wiring.clock()

        async def step() -> int:
            try:
                return await stream.poll(over.is_set)
            except _STALE:
                self._is_stale = True
                over.set()
                raise

        while not over.is_set():
            messages = await self._patiently(step, over, stream)
            if messages is None:
                continue
            if self._may_align():
                over.set()
            now = self._wiring.clock()
            found_at = now if messages else found_at
            await pause(min(longest, max(shortest, (now - found_at) * PAUSE_SHARE)), over)
        if not self._is_stale:
            try:
                await self._told(stream.settle, stream)
            except (TransientError, ConflictError) as error:  # what was not stored is sent again
                self._is_stale = True
                log.warning("relay.cursor_not_stored", error=type(error).__name__, reason=str(error))

    def _may_align(self) -> bool:
        kinds = {stream.group.carries for stream in self.streams}
        return len(kinds) < len(self.streams) and all(stream.is_caught_up and stream.flows for stream in self.streams)

    async def _align(self) -> bool:
        """Read all groups of a kind in one snapshot, and deliver what each has there: then they stand at one place."""
        if self._is_stale or self._leases.changed.is_set() or not self._may_align():
            return False
        of_kind: dict[Carries, list[Stream]] = defaultdict(list)
        for stream in self.streams:
            of_kind[stream.group.carries].append(stream)
        try:
            for streams in of_kind.values():
                if len(streams) > 1:
                    await self._align_kind(streams)
        except _STALE:
            self._is_stale = True
            return False
        finally:
            await self._stop_streams()
        return True

    async def _align_kind(self, streams: Sequence[Stream]) -> None:
        page_size, is_watched = self._wiring.settings.relay_page_size, self._wiring.is_watched
        with translated("reading the outbox"):
            async with self._wiring.engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ")
                batches = [
                    await read_batch(
                        connection, replace(stream.group, cursor=stream.cursor), page_size, is_watched=is_watched
                    )
                    for stream in streams
                ]
        for stream, batch in zip(streams, batches, strict=True):
            await stream.deliver(batch)
            while stream.cursor.target is not None and await stream.page():
                pass
            await stream.flush()

    async def _end(self) -> None:
        """Let go what others should have; what cannot be let go now is tried again after the next round."""
        surplus = self._leases.surplus
        if surplus and not self._is_stale:
            try:
                await self._leases.release(surplus)
            except TransientError as error:
                self._is_stale = True
                log.warning("relay.slots_not_released", error=type(error).__name__)

    async def _stop_streams(self) -> None:
        for stream in self.streams:
            await stream.abandon()
            if not stream.is_recorded:  # from the stored cursor on, or what failed would be passed over
                self._is_stale = True
            for slot in stream.group.slots:
                self._places[slot] = replace(self._places[slot], cursor=stream.cursor)

    async def _patiently(self, step: Callable[[], Awaitable[T]], stop: asyncio.Event, who: Rounds | Stream) -> T | None:
        """Repeat a step until it succeeds; a fault of the program is logged, without values, and waited for as well.

        Ending the process would not help: whoever starts it again meets the same message, only later and less visibly.
        """

        async def once() -> T:
            return await self._told(step, who)

        return await patiently(once, stop, self._count_retry)

    @staticmethod
    async def _told(step: Callable[[], Awaitable[T]], who: Rounds | Stream) -> T:
        """Do a step once; a fault of the program counts as one of infrastructure."""
        try:
            return await step()
        except CrossfeedError as error:
            who.last_error = type(error).__name__
            raise
        except Exception as error:
            who.last_error = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            log.error(  # noqa: TRY400 - a traceback may quote values
                "relay.unexpected",
                error=type(error).__name__,
                where=[f"{frame.name}:{frame.lineno}" for frame in frames],
            )
            msg = f"an unexpected {type(error).__name__}"
            raise StoreUnavailableError(msg) from error

    def _count_retry(self) -> None:
        self._wiring.stats.retries += 1


def _is_same(place: Lease | None, lease: Lease) -> bool:
    return place is not None and (place.token, place.server) == (lease.token, lease.server)
