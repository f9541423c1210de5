"""Holds a fair share of the slots for one relay, and says until when it may act for them.

    heartbeat   every third of a lease: one statement, one row written. It renews, buries relays whose lease has
                expired, and takes free slots up to ceil(slots / relays) of each kind. (crossfeed.keep_leases)
    look        every twentieth of a lease: reads whether relays came or went or a slot is free; then a heartbeat.
    surplus     what is more than a fair share is let go by whoever runs the passes, after the pass under way.

Times of the leases are Postgres' own; this process only measures how long ago it *sent* the last heartbeat that was
answered, on a clock that counts suspend, and stops acting a tenth of a lease before the end. So a relay that was
stopped for long finds out by itself before it sends anything more. What it had sent just before is what the guards
at the target are for, and its cursor does not move: the token is another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from core.errors import TransientError
from core.postgres.failures import translated
from outbox.backoff import pause
from outbox.clock import boot_clock
from outbox.cursor import Carries, Cursor, SlotGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

log = structlog.get_logger()

MARGIN = 0.1
"""The share of a lease before its end at which a relay stops acting for its slots."""


_BEAT_S = 1.0
"""How long a heartbeat may take in any case, in seconds."""


class LeaseLostError(TransientError):
    """A slot is, or may be by now, another relay's; whatever was under way for it is dropped, and done by that one."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One slot that is held, with the cursor that it was taken with."""

    slot: int
    carries: Carries
    token: int
    cursor: Cursor
    server: str


_KEEP = "SELECT * FROM crossfeed.keep_leases(%(me)s, %(name)s, %(lease)s)"

_LOOK = """
    SELECT (SELECT count(*) FROM crossfeed.relay r WHERE r.relay = %(me)s OR crossfeed.is_alive(r)),
        (SELECT coalesce(array_agg(DISTINCT s.carries), '{}') FROM crossfeed.slot s
            WHERE NOT EXISTS (SELECT FROM crossfeed.relay r WHERE r.relay = s.owner))
"""

_RELEASE = """
    UPDATE crossfeed.slot s SET owner = NULL, token = s.token + 1
    FROM unnest(%(slots)s::smallint[], %(tokens)s::bigint[]) AS mine(slot, token)
    WHERE s.slot = mine.slot AND s.token = mine.token
"""

# What was released has no owner; what could not be for its lock is free all the same once the relay has no row.
_LEAVE = "DELETE FROM crossfeed.relay WHERE relay = %(me)s"


class Leases:
    """The leases of one relay.

    Args:
        engine: the database whose slots they are.
        settings: `relay_lease_s`.
        clock: seconds that count suspend.
        name: of this relay, for people; the host and process by default.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        clock: Callable[[], float] = boot_clock,
        name: str | None = None,
    ) -> None:
        self.relay_id = uuid.uuid4()
        self.changed = asyncio.Event()
        """Set when slots were taken or lost, or there is a surplus; cleared by whoever acts on it."""
        self._engine = engine
        self._lease_s = settings.relay_lease_s
        self._clock = clock
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._asking = asyncio.Lock()  # an answer must not come after that to a later question
        self._held: dict[int, Lease] = {}
        self._relays = 0
        self._share = 0
        self._sent_at = float("-inf")

    @property
    def held(self) -> tuple[Lease, ...]:
        """What is held, by slot; whether it may be acted for is another question, see `check`."""
        return tuple(self._held.values())

    @property
    def left_s(self) -> float:
        """Seconds until this relay stops acting for its slots; zero or less when it has."""
        return self._sent_at + self._lease_s * (1 - MARGIN) - self._clock()

    @property
    def surplus(self) -> tuple[Lease, ...]:
        """What is held beyond a fair share, and has to be let go after the pass under way."""
        counts: Counter[Carries] = Counter()
        extra = []
        for lease in self._held.values():
            counts[lease.carries] += 1
            if counts[lease.carries] > self._share:
                extra.append(lease)
        return tuple(extra)

    def check(self) -> None:
        """Return if this relay may act for its slots now.

        Raises:
            LeaseLostError: the last heartbeat that was answered is too long ago.

        """
        if self.left_s <= 0:
            msg = f"no heartbeat was answered for {self._clock() - self._sent_at:.1f} s"
            raise LeaseLostError(msg)

    def guard(self, group: SlotGroup) -> Callable[[], None]:
        """Return a `check` that also fails once the group lost one of its slots."""

        def check() -> None:
            self.check()
            for slot, token in zip(group.slots, group.tokens, strict=True):
                lease = self._held.get(slot)
                if lease is None or lease.token != token:
                    msg = f"slot {slot} is another relay's, or was set back"
                    raise LeaseLostError(msg)

        return check

    async def renew(self) -> None:
        """Send one heartbeat.

        Raises:
            TransientError: it was not answered; what is held is held until it ends.

        """
        async with self._asking:
            await self._renew()

    async def _renew(self) -> None:
        sent_at = self._clock()
        parameters = {"me": self.relay_id, "name": self._name, "lease": self._lease_s}
        with translated("renewing the leases"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                rows = [tuple(row) for row in await connection.exec_driver_sql(_KEEP, parameters)]
        self._relays, self._share = rows[0][:2]
        held = {
            slot: Lease(slot, Carries(carries), token, Cursor.parse(seen, target, position), server)
            for _, _, server, slot, carries, token, seen, target, position in rows
            if slot is not None
        }
        self._sent_at = sent_at
        before = {slot: lease.token for slot, lease in self._held.items()}
        after = {slot: lease.token for slot, lease in held.items()}
        self._held = held
        if before != after:
            log.info("relay.slots", held=len(held), taken=len(after.items() - before.items()), relays=self._relays)
        if before != after or self.surplus:
            self.changed.set()

    async def renew_if_due(self) -> None:
        """Send a heartbeat if a third of the lease has passed since the last one, or slots may be had.

        Raises:
            TransientError: see `renew`; or Postgres did not answer.

        """
        async with self._asking:
            if self._clock() - self._sent_at >= self._lease_s / 3 or await self._may_take():
                await self._renew()

    async def release(self, leases: Iterable[Lease]) -> None:
        """Let slots go; nothing is sent for them any more, and their cursors have been stored.

        Raises:
            TransientError: Postgres did not answer.

        """
        going = tuple(leases)
        async with self._asking:
            for lease in going:
                self._held.pop(lease.slot, None)
            with translated("releasing slots"):
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql(
                        _RELEASE,
                        {"slots": [lease.slot for lease in going], "tokens": [lease.token for lease in going]},
                    )

    async def hand_over(self) -> None:
        """Let everything go and be no relay any more; others take the slots at their next look.

        Raises:
            TransientError: Postgres did not answer; the slots are free when the lease has expired.

        """
        await self.release(self.held)
        self._sent_at = float("-inf")
        with translated("leaving the relays"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql(_LEAVE, {"me": self.relay_id})

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
            except (TransientError, TimeoutError) as error:
                log.warning("relay.heartbeat_failed", error=type(error).__name__, left_s=round(self.left_s, 1))
            await pause(self._lease_s / 20, stop)

    async def _may_take(self) -> bool:
        """Whether relays came or went since the last heartbeat, or a slot is free while the share is not full."""
        with translated("looking for free slots"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                result = await connection.exec_driver_sql(_LOOK, {"me": self.relay_id})
                relays, free = tuple(result.one())
        if relays != self._relays:
            return True
        counts = Counter(lease.carries for lease in self._held.values())
        return any(counts[Carries(kind)] < self._share for kind in free)


def grouped(leases: Sequence[Lease]) -> list[SlotGroup]:
    """Put slots of one kind that stand at the same cursor together."""
    found: dict[tuple[Carries, Cursor, str], list[Lease]] = {}
    for lease in sorted(leases, key=lambda lease: lease.slot):
        found.setdefault((lease.carries, lease.cursor, lease.server), []).append(lease)
    return [
        SlotGroup(tuple(one.slot for one in of), cursor, carries, tuple(one.token for one in of), server)
        for (carries, cursor, server), of in found.items()
    ]
