"""Carries domain events: sends each aggregate's in order, and parks what one that fails holds up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from core.cosmos.event_sink import EventOutcome, Held
from core.cosmos.publish import Postponed, Refused, Unchanged, Written
from core.postgres.failures import translated
from core.postgres.leases import LeaseLostError
from outbox.cursor import Carries, SlotGroup
from outbox.parked_events import EventFailure, due_events, park_events, parked_aggregates, settle_events
from outbox.parking import ParkingPolicy, hold
from outbox.traced import record_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.event_documents import EventMessage
    from core.phases import PhaseRow
    from core.settings import Settings
    from outbox.log_reader import Batch
    from outbox.stats import RelayStats

log = structlog.get_logger()

RETRIES = 500
"""How many parked events are tried again at a time."""


class EventTarget(Protocol):
    """Where events go (core.cosmos.event_sink.EventSink)."""

    async def write(self, events: Sequence[EventMessage], *, check: Callable[[], None]) -> list[EventOutcome]:
        """Write events, those of one aggregate in the order given; repeating it is harmless.

        Raises:
            TransientError: infrastructure failed, or `check` did.

        """
        ...


@dataclass(frozen=True, slots=True)
class EventReport:
    """What became of a page: the first event that failed of each aggregate, what it holds up, and what arrived."""

    failures: tuple[EventFailure, ...] = ()
    held: tuple[EventMessage, ...] = ()
    arrived: tuple[EventMessage, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing of it has to be recorded before the next page."""
        return not self.failures and not self.held


@dataclass(slots=True)
class Events:
    """What to do with the slots that carry events.

    Args:
        settings: attempts and waits.
        engine: the database.
        target: where events go.
        stats: where to count.
        clock: seconds that count suspend.

    """

    settings: Settings
    engine: AsyncEngine
    target: EventTarget
    stats: RelayStats
    clock: Callable[[], float]
    carries: Carries = field(default=Carries.EVENTS, init=False)
    _policy: ParkingPolicy = field(init=False)

    def __post_init__(self) -> None:
        self._policy = ParkingPolicy.of(self.settings)

    def flows(self, phase: PhaseRow) -> bool:
        """Return True: whoever is primary, its events come through the log."""
        return True

    def may_overlap(self, loaded: None) -> bool:
        """Return True: an event never changes."""
        return True

    async def load(self, connection: AsyncConnection, batch: Batch) -> None:
        """Load nothing: a message holds its event."""

    async def send(  # noqa: PLR0913 - the facts of a page
        self,
        batch: Batch,
        loaded: None,
        read_at: float,
        check: Callable[[], None],
        *,
        backlog: bool,
        parked: bool,
    ) -> EventReport:
        """Send a page; what is of an aggregate with parked events is held behind them.

        Raises:
            TransientError: infrastructure failed, or `check` said no; repeat the page.

        """
        if not batch.events:
            return EventReport()
        blocked = set()
        if parked:
            with translated("reading which aggregates are parked"):
                async with self.engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    blocked = await parked_aggregates(connection, {event.identity for event in batch.events})
        free = [event for event in batch.events if event.identity not in blocked]
        report = await self._send(free, check)
        for event in report.arrived:
            self.stats.last_lag_s = event.age_s + self.clock() - read_at
            self.stats.lags.add(self.stats.last_lag_s)
        behind = tuple(event for event in batch.events if event.identity in blocked)
        return EventReport(report.failures, report.held + behind, report.arrived)

    async def record(self, connection: AsyncConnection, reports: Sequence[EventReport]) -> None:
        """Park what failed or is held, settle what arrived, in a transaction that holds the slots."""
        for report in reports:
            await self._record(connection, report)

    def forget(self, reports: Iterable[EventReport]) -> None:
        """Nothing is remembered: what is there already is found by its id."""

    def start_over(self) -> None:
        """Nothing is remembered."""

    async def retry(self, group: SlotGroup, check: Callable[[], None]) -> bool:
        """Try chains of parked events again whose head is due; return whether there may be more.

        Raises:
            TransientError: see `send`; they stay parked as they were.

        """
        with translated("reading what is parked"):
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                due = await due_events(connection, group.slots, RETRIES, self._policy)
        if not due:
            return False
        report = await self._send(due, check)
        with translated("recording what was parked"):
            async with self.engine.begin() as connection:
                if not await hold(connection, dict(zip(group.slots, group.tokens, strict=True)), self._policy):
                    msg = "a slot of what was parked is another relay's"
                    raise LeaseLostError(msg)
                await self._record(connection, report)
        return bool(report.arrived)

    async def _send(self, events: Sequence[EventMessage], check: Callable[[], None]) -> EventReport:
        if not events:
            return EventReport()
        check()
        began = time.time_ns()
        outcomes = await self.target.write(events, check=check)
        record_events(events, outcomes, began)
        failures, held, arrived = [], [], []
        for event, outcome in zip(events, outcomes, strict=True):
            match outcome:
                case Written() | Unchanged():
                    arrived.append(event)
                    self.stats.events += 1
                case Refused(reason=reason):
                    failures.append(EventFailure(event, reason, counts=True))
                case Postponed(reason=reason, retry_after_s=retry_after_s):
                    failures.append(EventFailure(event, reason, counts=False, retry_after_s=retry_after_s or 0.0))
                case Held():
                    held.append(event)
        return EventReport(tuple(failures), tuple(held), tuple(arrived))

    async def _record(self, connection: AsyncConnection, report: EventReport) -> None:
        await settle_events(connection, report.arrived)
        dead = await park_events(connection, report.failures, report.held, self._policy)
        self.stats.dead_lettered += len(dead)
        for event in dead:
            log.warning("relay.event_dead_lettered", entity=event.identity.entity, event_id=event.event_id)
