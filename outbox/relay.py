"""Carries what was committed in Postgres to Cosmos DB: one pass after the other, until it is told to stop.

What becomes of states in each phase (domain events flow in all of them):

    cosmos_only, dual_write_cosmos_read   idle. Leftover messages stay in the log: Cosmos DB decides now, so their state
                                          must not be sent; but they are not skipped either, because should Postgres be
                                          primary again, their documents' then current state is compared and sent.
    dual_write_postgres_read              state is sent, steady or draining.
    postgres_only                         the cursor advances and nothing is sent: Cosmos DB is not followed any more,
                                          and the step back finds what changed by validation. A cache is told still.

A state is always sent under its own stamp, whatever epoch its message is from: the guard at the target decides.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from core.cache.notices import Notices
from core.clock import boot_clock
from core.cosmos.canaries import SlotCanaries
from core.cosmos.event_sink import EventSink
from core.cosmos.guarded import GuardedWriter
from core.errors import CrossfeedError, TransientError
from core.waiting import pause
from outbox.backoff import patiently
from outbox.canaries import Canaries
from outbox.cursor import Carries
from outbox.events import Events
from outbox.health import RelayHealth
from outbox.leases import Leases
from outbox.line import Line
from outbox.lineage import Lineage
from outbox.others import is_waiting_elsewhere
from outbox.ports import Wiring
from outbox.quarantine import LetterQuarantine
from outbox.retention import maintain
from outbox.rounds import Rounds
from outbox.states import States
from outbox.stats import RelayStats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.lanes import WriterState
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings
    from outbox import ports
    from outbox.canaries import CanaryTarget
    from outbox.delivery import Sink
    from outbox.events import EventTarget
    from outbox.ports import Kind

log = structlog.get_logger()

GRACE_S = 20.0
"""How long a pass may go on after `stop` was set, in seconds; then it is given up, and repeated by the next relay."""

HAND_OVER_S = 2.0
"""How long letting the slots go may take, in seconds; they are free anyway when the lease has expired."""

MAINTAIN_S = 10.0
"""How often the partitions of the log are looked after, in seconds."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over all slots did: how many messages it delivered, and whether the next should follow at once."""

    messages: int
    more: bool


def open_relay(
    settings: Settings, mappings: Mappings, engine: AsyncEngine, store: CosmosStore, notices: Notices | None = None
) -> Relay:
    """Wire a relay as the settings say, with the way to a cache if any. It opens nothing and closes nothing."""
    stats = RelayStats()
    quarantine = LetterQuarantine(engine, mappings, stats)
    sink = GuardedWriter(
        store, mappings, quarantine, settings.relay_concurrency, ru_per_second=settings.relay_ru_per_second
    )
    events, lineage = EventSink(store, settings, lanes=sink.lanes), Lineage(store, settings)
    canaries = SlotCanaries(store, mappings)
    return Relay(
        settings, mappings, engine, sink, stats, events=events, lineage=lineage, notices=notices, canaries=canaries
    )


class Relay:
    """A relay: of all slots of one database, or of its share while others run.

    Args:
        settings: page size, concurrency, polling, leases, parking, the tombstones' TTL and the pinned phase.
        mappings: of everything that is captured.
        engine: the database whose log is read.
        sink: the guarded write to Cosmos DB.
        stats: where to count.
        clock: seconds that count suspend.
        events: where domain events go; without it the slots that carry them are left alone.
        lineage: finds out whether Postgres has forgotten what was sent; without it nobody does.
        notices: tells a cache what the log names; without it nobody does.
        canaries: where the documents of canaries go; without it none are written.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        settings: Settings,
        mappings: Mappings,
        engine: AsyncEngine,
        sink: Sink,
        stats: RelayStats | None = None,
        clock: Callable[[], float] = boot_clock,
        *,
        events: EventTarget | None = None,
        lineage: ports.Lineage | None = None,
        notices: Notices | None = None,
        canaries: CanaryTarget | None = None,
    ) -> None:
        notices = notices or Notices()
        self.stats = stats or RelayStats()
        self.leases = Leases(engine, settings, clock)
        self._settings = settings
        self._engine = engine
        self._sink = sink
        self._clock = clock
        kinds: dict[Carries, Kind] = {
            Carries.STATES: States(settings, mappings, engine, sink, self.stats, clock, notices),
        }
        if events is not None:
            kinds[Carries.EVENTS] = Events(settings, engine, events, self.stats, clock)
        self._kinds = kinds
        self._canaries = Canaries(settings, engine, self.leases, canaries)
        line = Line(engine, settings.postgres_pool_size, clock)
        wiring = Wiring(
            settings, engine, line, self.stats, clock, lineage, self._may_go_on, self._canaries.crossed, notices.is_on
        )
        self._rounds = Rounds(self.leases, kinds, wiring)
        self._waits_for: dict[Carries, str | None] = {}
        self._warned_of: dict[Carries, int] = {}
        self._is_stopping = False

    async def run(self, stop: asyncio.Event, grace_s: float = GRACE_S) -> None:
        """Relay until `stop` is set; the pass under way then has `grace_s` seconds to end, and the slots are let go.

        Infrastructure that fails is waited for, for ever.

        Raises:
            ConfigurationError: a message is of an entity type without a mapping, or the schema does not fit.
            HistoryLostError: Postgres has lost what was sent from it.

        """
        log.info("relay.started", page_size=self._settings.relay_page_size, relay=str(self.leases.holder_id))
        async with self._in_office():
            rounds = asyncio.ensure_future(self._rounds.run(stop))
            stopped = asyncio.ensure_future(stop.wait())
            beside = [asyncio.ensure_future(self._maintain(stop)), asyncio.ensure_future(self._canaries.run(stop))]
            try:
                await asyncio.wait((rounds, stopped), return_when=asyncio.FIRST_COMPLETED)
                self._is_stopping = stop.is_set()
                done, _ = await asyncio.wait((rounds,), timeout=grace_s)
                if done:
                    rounds.result()
                else:
                    log.warning("relay.pass_given_up", grace_s=grace_s)
            finally:
                for task in (rounds, stopped, *beside):
                    task.cancel()
                await asyncio.gather(rounds, stopped, *beside, return_exceptions=True)
                log.info("relay.stopped", messages=self.stats.messages, passes=self.stats.passes)

    async def drain(self, stop: asyncio.Event | None = None) -> int:
        """Relay everything that is committed now, waiting for the stores where they fail; return the messages.

        What is in slots of other relays is waited for: until they have delivered it, or their leases have expired.
        """
        stop = stop or asyncio.Event()
        before = self.stats.messages
        async with self._in_office():
            while await patiently(self._drain_once, stop, self._count_retry):
                await pause(self._settings.relay_lease_s / 20, stop)
        return self.stats.messages - before

    async def run_once(self) -> Pass:
        """Do one pass over all slots that are held, one page each. The slots stay held.

        Raises:
            TransientError: a store failed, or the lease is lost; nothing is lost, repeat.
            ConflictError: the phase was changed meanwhile; repeat.
            ConfigurationError: see `run`.

        """
        before = self.stats.messages
        more = await self._rounds.once(whole=False)
        return Pass(self.stats.messages - before, more)

    def health(self) -> RelayHealth:
        """Say how this relay is, without asking anybody."""
        now, rounds = self._clock(), self._rounds
        passed_at = rounds.passed_at
        oldest = min((one.oldest_at for one in rounds.streams if one.oldest_at is not None), default=now)
        errors = [rounds.last_error, *(one.last_error for one in rounds.streams)]
        waits_for = [reason for reason in self._waits_for.values() if reason is not None]
        return RelayHealth(
            slots=tuple(lease.slot for lease in self.leases.held),
            lease_left_s=max(0.0, self.leases.left_s),
            oldest_unsent_s=None if passed_at is None else now - oldest,
            pass_age_s=None if passed_at is None else now - passed_at,
            last_error=next((error for error in errors if error is not None), None),
            waits_for=waits_for[0] if waits_for else None,
            is_stopping=self._is_stopping,
        )

    def writer_state(self) -> WriterState | None:
        """Say how the guarded write is doing, None if the sink is one that does not know."""
        return self._sink.state() if isinstance(self._sink, GuardedWriter) else None

    @asynccontextmanager
    async def _in_office(self) -> AsyncIterator[None]:
        """Keep the leases for the time of the block, then let them go."""
        try:
            async with self.leases.kept():
                yield
        finally:
            try:
                async with asyncio.timeout(HAND_OVER_S):
                    await self.leases.hand_over()
            except (TransientError, TimeoutError) as error:
                log.warning("relay.slots_not_handed_over", error=type(error).__name__)

    async def _drain_once(self) -> bool:
        """Deliver what is in the slots that are held; return whether something waits in those of others."""
        await self._rounds.once(whole=True)
        return await is_waiting_elsewhere(self._engine, self.leases, self._kinds)

    async def _maintain(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await maintain(self._engine, self._settings)
            except CrossfeedError as error:
                log.warning("relay.maintenance_failed", error=type(error).__name__, reason=str(error))
            except Exception as error:  # noqa: BLE001 - it must go on, whatever one attempt met
                log.error("relay.maintenance_failed", error=type(error).__name__)  # noqa: TRY400 - may quote values
            await pause(MAINTAIN_S, stop)

    def _may_go_on(self, phase: PhaseRow, carries: Carries, left: bool) -> bool:
        """Whether to deliver in this phase; says once an epoch why messages are left."""
        pinned, reason = self._settings.phase, None
        if pinned is not None and pinned is not phase.phase:
            reason = f"the phase is {phase.phase.label}, this process is pinned to {pinned.label}"
        elif not self._kinds[carries].flows(phase):
            reason = f"{carries.value} are not sent in the phase {phase.phase.label}"
        self._waits_for[carries] = reason
        if reason is not None and left and self._warned_of.get(carries) != phase.epoch:
            self._warned_of[carries] = phase.epoch
            log.warning("relay.messages_left", reason=reason, carries=carries.value, epoch=phase.epoch)
        return reason is None

    def _count_retry(self) -> None:
        self.stats.retries += 1
