"""Writes the canaries of slots into the log and, when the relay is past one, the document that shows that it crossed.

See core.postgres.canaries for what they are. A stream tells of those that it is past; their documents are written here,
beside the streams, so that nothing waits for a canary. Of each slot only the newest counts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import structlog

from core.errors import CrossfeedError, PrimaryMovedError
from core.postgres.canaries import CANARY, forget
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from core.waiting import pause
from outbox.cursor import Carries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings
    from outbox.leases import Leases

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often it is looked whether one is due, in seconds, at most."""
FORGET_S: Final = 60.0
"""How often those are forgotten that others have left, where canaries are switched off, in seconds."""
AT_ONCE: Final = 8
"""How many documents are written at the same time."""
WRITE_S: Final = 10.0
"""How long writing one may take, in seconds."""
_MAX_DIGITS: Final = 5
"""Of a slot's number."""


class Canary(NamedTuple):
    """A canary that came out of the log: its number there, and its slot."""

    seq: int
    slot: int


class _Arrived(NamedTuple):
    canary: Canary
    carries: Carries
    epoch: int


class CanaryTarget(Protocol):
    """Where the documents of canaries go (core.cosmos.canaries.SlotCanaries)."""

    async def write(self, slot: int, epoch: int, *, of_events: bool) -> None:
        """Write the document of a slot's canary; repeating it is harmless.

        Raises:
            CrossfeedError: it may not have been written.

        """
        ...


# Nobody else's slots, and none that this process leaves alone because it is pinned to another phase. Sooner when a slot
# was taken: whoever held it before may have died with what arrived; but not at once, or slots that change hands all the
# time, because everything is slow, would make it slower.
# What lies in the future was written before a clock was put back. The fence on the log refuses what comes too late.
_DUE = """
    SELECT p.epoch, array_agg(s.slot ORDER BY s.slot), array_agg(s.token ORDER BY s.slot)
    FROM crossfeed.phase p, crossfeed.slot s
    JOIN unnest(%(slots)s::smallint[], %(tokens)s::bigint[]) AS held(slot, token) USING (slot, token)
    WHERE p.state = 'steady' AND (p.phase = 2 OR p.phase = 3 AND s.carries = 'events')
        AND p.phase = coalesce(%(pinned)s::smallint, p.phase) AND NOT EXISTS (
            SELECT FROM crossfeed.canary c
            WHERE c.direction = 'to_cosmos' AND c.container = '' AND c.part = s.slot::text AND c.epoch = p.epoch
                AND c.at BETWEEN clock_timestamp() - make_interval(secs => %(every_s)s * CASE
                    WHEN s.slot = ANY (%(taken)s::smallint[]) THEN 0.25 ELSE 1 END) AND clock_timestamp())
    GROUP BY p.epoch
"""
# In the order of slots, as all who lock several rows.
_WRITE = f"""
    WITH sent AS (
        INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
        SELECT s.slot, '{CANARY}', '[]', s.slot::text, p.epoch, 0, false
        FROM crossfeed.phase p, crossfeed.slot s
        JOIN unnest(%(slots)s::smallint[], %(tokens)s::bigint[]) AS held(slot, token) USING (slot, token)
        WHERE p.epoch = %(epoch)s AND p.state = 'steady'
        ORDER BY s.slot
        RETURNING slot, seq, epoch, at
    )
    INSERT INTO crossfeed.canary AS c (direction, container, part, epoch, written, unseen_since, crossed_at, at)
    SELECT 'to_cosmos', '', slot::text, epoch, seq::text, at, at, at FROM sent ORDER BY slot
    ON CONFLICT (direction, container, part) DO UPDATE SET epoch = excluded.epoch, written = excluded.written,
        seen = CASE WHEN c.epoch = excluded.epoch THEN c.seen END,
        unseen_since = CASE WHEN c.epoch = excluded.epoch THEN coalesce(c.unseen_since, excluded.unseen_since)
            ELSE excluded.unseen_since END,
        crossed_at = CASE WHEN c.epoch = excluded.epoch THEN least(c.crossed_at, excluded.at) ELSE excluded.at END,
        lag_s = CASE WHEN c.epoch = excluded.epoch THEN c.lag_s END,
        at = excluded.at
"""
# By their place in the log, whoever wrote them. One that was written meanwhile is under way since then, at most.
_CROSSED = """
    UPDATE crossfeed.canary c SET seen = found.seq::text, crossed_at = greatest(c.crossed_at, found.at),
        lag_s = greatest(0, extract(epoch FROM clock_timestamp() - found.at))::float8,
        unseen_since = CASE WHEN c.written <> found.seq::text THEN greatest(c.unseen_since, found.at) END
    FROM (
        SELECT k.direction, k.container, k.part, o.seq, o.at FROM crossfeed.canary k
        JOIN unnest(%(slots)s::text[], %(seqs)s::bigint[]) AS arrived(part, seq) USING (part)
        JOIN crossfeed.outbox o ON o.seq = arrived.seq AND o.epoch = k.epoch
        WHERE k.direction = 'to_cosmos' AND k.container = '' AND o.seq > coalesce(k.seen, '0')::bigint
        ORDER BY length(k.part), k.part FOR NO KEY UPDATE OF k
    ) AS found
    WHERE (c.direction, c.container, c.part) = (found.direction, found.container, found.part)
"""


def parted(rows: Sequence[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], tuple[Canary, ...]]:
    """Part rows of the log (seq, entity, partition key, id, …) into everybody's and canaries.

    Who may write to the log may write nonsense: that is no canary, and nobody's message either.
    """
    others = [row for row in rows if row[1] != CANARY]
    if len(others) == len(rows):
        return others, ()
    found = [row for row in rows if row[1] == CANARY]
    known = [row for row in found if len(row[3]) <= _MAX_DIGITS and row[3].isascii() and row[3].isdecimal()]
    return others, tuple(Canary(row[0], int(row[3])) for row in known)


class Canaries:
    """The canaries of the slots that a relay holds.

    Args:
        settings: `canary_every_s`; 0: none are written, and those that there are are forgotten; and the pinned phase.
        engine: the database.
        leases: the relay's.
        target: where their documents go; without it canaries are passed over.

    """

    def __init__(self, settings: Settings, engine: AsyncEngine, leases: Leases, target: CanaryTarget | None) -> None:
        self._every_s = settings.canary_every_s
        self._pinned = None if settings.phase is None else settings.phase.value
        self._engine = engine
        self._leases = leases
        self._target = target
        self._arrived: dict[int, _Arrived] = {}
        self._begun: dict[int, int] = {}
        """The tokens of the slots that were held when canaries were last written."""
        self._has_arrived = asyncio.Event()

    def crossed(self, carries: Carries, epoch: int, canaries: Iterable[Canary]) -> None:
        """Hear that everything before these canaries in their slots has crossed, or is parked; returns at once."""
        for canary in canaries:
            self._note(_Arrived(canary, carries, epoch))

    def _note(self, found: _Arrived) -> None:
        known = self._arrived.get(found.canary.slot)
        if known is None or known.canary.seq < found.canary.seq:
            self._arrived[found.canary.slot] = found
        self._has_arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write canaries, and the documents of those that crossed, until it is cancelled; whatever fails is logged."""
        if self._target is not None:
            await asyncio.gather(self._write_regularly(stop), self._deliver_always(self._target))

    async def _write_regularly(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if self._every_s:
                await _logged(self.write, "canary.not_written")
                await pause(min(LOOK_S, self._every_s / 4), stop)
            else:
                await _logged(self._forget, "canary.not_forgotten")
                await pause(FORGET_S, stop)

    async def _deliver_always(self, target: CanaryTarget) -> None:
        while True:
            await self._has_arrived.wait()
            self._has_arrived.clear()
            arrived, self._arrived = self._arrived, {}
            await _logged(partial(self._deliver, target, arrived), "canary.not_recorded")

    async def write(self) -> None:
        """Write the canaries that are due.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        held = {one.slot: one.token for one in self._leases.held}
        if not held or self._leases.left_s <= 0:
            return
        asked = {
            "slots": list(held),
            "tokens": list(held.values()),
            "taken": [slot for slot, token in held.items() if self._begun.get(slot) != token],
            "every_s": self._every_s,
            "pinned": self._pinned,
        }
        with suppress(PrimaryMovedError), translated("writing canaries"):  # a switch may begin after the look
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                due = (await connection.exec_driver_sql(_DUE, asked)).all()
                for epoch, slots, tokens in map(tuple, due):
                    facts = {"epoch": epoch, "slots": list(slots), "tokens": list(tokens)}
                    await connection.exec_driver_sql(_WRITE, facts)
                    self._begun = held

    async def _deliver(self, target: CanaryTarget, arrived: dict[int, _Arrived]) -> None:
        permits = asyncio.Semaphore(AT_ONCE)
        delivered: list[Canary] = []
        failed: dict[int, str] = {}

        async def one(found: _Arrived) -> None:
            slot = found.canary.slot
            async with permits:
                try:
                    async with asyncio.timeout(WRITE_S):
                        await target.write(slot, found.epoch, of_events=found.carries is Carries.EVENTS)
                except (CrossfeedError, TimeoutError) as error:
                    failed[slot] = f"{type(error).__name__}: {error}"
                    self._note(found)
                else:
                    delivered.append(found.canary)

        await asyncio.gather(*map(one, arrived.values()))
        if failed:
            log.warning("canary.not_delivered", slots=sorted(failed), reason=failed[min(failed)])
        if delivered:
            facts = {"slots": [str(one.slot) for one in delivered], "seqs": [one.seq for one in delivered]}
            with translated("recording canaries"):
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql(_CROSSED, facts)
        if failed:
            await asyncio.sleep(LOOK_S)

    async def _forget(self) -> None:
        await forget(self._engine, Direction.TO_COSMOS)


async def _logged(step: Callable[[], Awaitable[None]], event: str) -> None:
    try:
        await step()
    except CrossfeedError as error:
        log.warning(event, error=type(error).__name__, reason=str(error))
    except Exception as error:  # noqa: BLE001 - it must go on, whatever one attempt met
        log.error(event, error=type(error).__name__)  # noqa: TRY400 - may quote values
