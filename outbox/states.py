"""Carries states: loads what a page of references names, sends it, and parks what fails for a reason of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from core.cache.notices import Notices
from core.cosmos.publish import Outcome, Postponed, Refused, Superseded, Unchanged, Written
from core.phases import Phase
from core.postgres.failures import translated
from core.postgres.leases import LeaseLostError
from core.postgres.phases import read_phase
from outbox.ahead import judge_superseded
from outbox.current_state import Loaded, load
from outbox.cursor import Carries, SlotGroup
from outbox.delivery import Delivery
from outbox.lifting import lift_all
from outbox.log_reader import sends
from outbox.noticed import changes_of
from outbox.parking import (
    Failure,
    ParkingPolicy,
    due_states,
    hold,
    park_states,
    resolve_states,
    settle,
)
from outbox.traced import TracedStates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.identity import Identity
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings
    from outbox.delivery import Sink
    from outbox.log_reader import Batch
    from outbox.stats import RelayStats

log = structlog.get_logger()

RETRIES = 200
"""How many parked documents are tried again at a time."""


@dataclass(frozen=True, slots=True)
class StateReport:
    """What became of a page: what failed, and who arrived."""

    failures: tuple[Failure, ...] = ()
    arrived: tuple[Identity, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing of it has to be recorded before the next page."""
        return not self.failures


@dataclass(slots=True)
class States:
    """What to do with the slots that carry states.

    Args:
        settings: page size, attempts, and how long tombstones live.
        mappings: of everything that is captured.
        engine: the database.
        sink: the guarded write to Cosmos DB.
        stats: where to count.
        clock: seconds that count suspend.
        notices: told of what a page names while it is sent; in `postgres_only`, where nothing is, as well.

    """

    settings: Settings
    mappings: Mappings
    engine: AsyncEngine
    sink: Sink
    stats: RelayStats
    clock: Callable[[], float]
    notices: Notices = field(default_factory=Notices)
    carries: Carries = field(default=Carries.STATES, init=False)
    _delivery: Delivery = field(init=False)
    _policy: ParkingPolicy = field(init=False)

    def __post_init__(self) -> None:
        self._delivery = Delivery(self.sink, self.settings.tombstone_ttl_s / 2, self.clock)
        self._policy = ParkingPolicy.of(self.settings)

    def flows(self, phase: PhaseRow) -> bool:
        """Whether the cursor moves in this phase."""
        return sends(phase) or phase.phase is Phase.POSTGRES_ONLY

    def may_overlap(self, loaded: Loaded) -> bool:
        """Whether no row has to be lifted: a page loaded before that would hold a state older than what is sent."""
        return not loaded.buried

    async def load(self, connection: AsyncConnection, batch: Batch) -> Loaded:
        """Load the current state of everything that a batch names. See outbox.current_state.load."""
        if not batch.messages:
            return Loaded(batch.phase.epoch)
        identities = dict.fromkeys(message.identity for message in batch.messages)
        return await load(connection, self.mappings, identities, batch.phase, self.settings.tombstone_ttl_s)

    async def send(  # noqa: PLR0913 - the facts of a page
        self,
        batch: Batch,
        loaded: Loaded,
        read_at: float,
        check: Callable[[], None],
        *,
        backlog: bool,
        parked: bool,
    ) -> StateReport:
        """Send a page that was read and loaded at `read_at`.

        Raises:
            TransientError: infrastructure failed, the page is too old, or `check` said no; repeat the page.
            ConflictError: the phase was changed meanwhile; read again.
            HistoryLostError: Cosmos DB holds what Postgres has lost.

        """
        if not batch.messages:
            return StateReport()
        changes = changes_of(batch.messages, loaded) if self.notices.is_on else ()
        # Beside the delivery: neither waits for the other store, and a page that ended was told.
        async with self.notices.meanwhile(changes):
            if not sends(batch.phase):
                return StateReport()
            return await self._send(batch, loaded, read_at, check, backlog=backlog)

    async def _send(
        self, batch: Batch, loaded: Loaded, read_at: float, check: Callable[[], None], *, backlog: bool
    ) -> StateReport:
        ages: dict[Identity, float] = {}
        for message in batch.messages:
            ages.setdefault(message.identity, message.age_s)  # the oldest of each
        traced = TracedStates(batch.messages)
        lifted = await lift_all(self.engine, batch.phase, loaded, self._policy)
        self.stats.lifted += lifted
        traced.name_in(loaded.publish)

        clock, count = self.clock, self._count

        def delivered(identity: Identity, outcome: Outcome) -> None:
            count(outcome, ages[identity] + clock() - read_at)
            traced.ended(identity, outcome)

        outcomes = await self._delivery.send(loaded.publish, read_at, check, delivered, backlog=backlog)
        await self._judge(outcomes, batch.phase)
        self.stats.absent += len(ages) - len(outcomes) - len(loaded.refused)
        for identity, refused in loaded.refused.items():
            traced.ended(identity, refused)
        failures = tuple(_failures(outcomes, loaded.refused, traced))
        failed = {failure.identity for failure in failures}
        return StateReport(failures, tuple([one for one in outcomes if one not in failed] if failed else outcomes))

    async def record(self, connection: AsyncConnection, reports: Sequence[StateReport]) -> None:
        """Park what failed and settle what arrived, in a transaction that holds the slots: a later page counts."""
        last: dict[Identity, Failure | None] = {}
        for report in reports:
            last |= dict.fromkeys(report.arrived) | {failure.identity: failure for failure in report.failures}
        failures = [failure for failure in last.values() if failure is not None]
        await settle(connection, [identity for identity, failure in last.items() if failure is None])
        self._bury(await park_states(connection, failures, self._policy), failures)

    def forget(self, reports: Iterable[StateReport]) -> None:
        """Drop what is remembered of pages that the stored cursor is past."""
        for report in reports:
            self._delivery.forget(report.arrived)
            self._delivery.forget(failure.identity for failure in report.failures)

    def start_over(self) -> None:
        """Drop everything that is remembered: a replay has to send it again."""
        self._delivery.forget_all()

    async def retry(self, group: SlotGroup, check: Callable[[], None]) -> bool:
        """Try parked documents of a group again; return whether there may be more.

        Raises:
            TransientError, ConflictError: see `send`; they stay parked as they were.

        """
        with translated("reading what is parked"):
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                due = await due_states(connection, group.slots, RETRIES, self._policy)
                phase = await read_phase(connection)
                if not due or not sends(phase):
                    return False
                read_at = self.clock()
                identities = [item.identity for item in due]
                loaded = await load(connection, self.mappings, identities, phase, self.settings.tombstone_ttl_s)
        traced = TracedStates(due)
        lifted = await lift_all(self.engine, phase, loaded, self._policy)
        self.stats.lifted += lifted
        traced.name_in(loaded.publish)

        def delivered(identity: Identity, outcome: Outcome) -> None:
            self._count(outcome, None)
            traced.ended(identity, outcome)

        outcomes = await self._delivery.send(loaded.publish, read_at, check, delivered, backlog=True)
        await self._judge(outcomes, phase)
        for identity, refused in loaded.refused.items():
            traced.ended(identity, refused)
        failures = _failures(outcomes, loaded.refused, traced)
        with translated("recording what was parked"):
            async with self.engine.begin() as connection:
                if not await hold(connection, dict(zip(group.slots, group.tokens, strict=True)), self._policy):
                    msg = "a slot of what was parked is another relay's"
                    raise LeaseLostError(msg)
                dead = await resolve_states(connection, due, failures, self._policy)
        self._bury(dead, failures)
        self._delivery.forget(identities)
        return len(due) == RETRIES

    async def _judge(self, outcomes: Mapping[Identity, Outcome], phase: PhaseRow) -> None:
        if Superseded in set(map(type, outcomes.values())):
            found = {one: outcome.found for one, outcome in outcomes.items() if isinstance(outcome, Superseded)}
            await judge_superseded(self.engine, self.mappings, found, phase)

    def _bury(self, dead: Sequence[Identity], failures: Iterable[Failure]) -> None:
        self.stats.dead_lettered += len(dead)
        reasons = {failure.identity: failure.reason for failure in failures}
        for identity in dead:
            log.warning(
                "relay.dead_lettered", entity=identity.entity, document_id=identity.id, reason=reasons[identity]
            )

    def _count(self, outcome: Outcome, lag_s: float | None) -> None:
        stats = self.stats
        match outcome:
            case Written():
                stats.published += 1
            case Unchanged():
                stats.unchanged += 1
            case Superseded():
                stats.superseded += 1
            case Refused() | Postponed():
                return
        if lag_s is not None:
            stats.last_lag_s = lag_s
            stats.lags.add(lag_s)


def _failures(
    outcomes: dict[Identity, Outcome], refused: dict[Identity, Refused], traced: TracedStates
) -> list[Failure]:
    """Return what has to be parked, in the order of identities, so that two transactions cannot wait for each other."""
    failed: list[Failure] = []
    if not refused and {Refused, Postponed}.isdisjoint(map(type, outcomes.values())):
        return failed
    for identity, outcome in (refused | outcomes).items():
        of = traced.newest(identity)
        if isinstance(outcome, Refused):
            failed.append(Failure(identity, outcome.reason, counts=True, traceparent=of))
        elif isinstance(outcome, Postponed):
            wait_s = outcome.retry_after_s or 0.0
            failed.append(Failure(identity, outcome.reason, counts=False, retry_after_s=wait_s, traceparent=of))
    return sorted(failed, key=lambda failure: failure.identity)
