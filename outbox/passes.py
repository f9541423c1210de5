"""Does one pass: reads a batch of the log, sends the current state of what it names, moves the cursor past it.

    read a batch -> collapse it per identity -> load rows and tombstones -> write, guarded and concurrently -> advance

The cursor is moved once, in one transaction with the dead letters, after everything else: a pass that dies at any
instruction is simply done again, and the guard at the target makes the repetition harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from core.cosmos.publish import Outcome, Refused, Superseded, Unchanged, Written
from core.errors import TransientError
from core.phases import Phase, PhaseState
from core.postgres import dead_letters
from core.postgres.dead_letters import REFUSED, DeadLetter, Direction
from core.postgres.failures import translated
from outbox.current_state import Loaded, load
from outbox.cursor import SlotGroup, advance, load_groups
from outbox.delivery import Delivery, Sink
from outbox.lifting import lift
from outbox.log_reader import Batch, read_batch, sends

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings
    from outbox.stats import RelayStats

log = structlog.get_logger()


class CursorMovedError(TransientError):
    """Another relay has moved the cursor; what was sent was sent twice, which is harmless. Start from where it is."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over all slots did: how many messages it delivered, and whether the next should follow at once."""

    messages: int
    more: bool


class Passes:
    """One pass after the other over all slots. Arguments as for outbox.relay.Relay."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        settings: Settings,
        mappings: Mappings,
        engine: AsyncEngine,
        sink: Sink,
        stats: RelayStats,
        clock: Callable[[], float],
    ) -> None:
        self.stats = stats
        self._settings = settings
        self._mappings = mappings
        self._engine = engine
        self._clock = clock
        self._delivery = Delivery(sink, settings.relay_concurrency, settings.tombstone_ttl_s / 2, clock)
        self._groups: list[SlotGroup] | None = None
        self._warned_of_epoch = 0

    async def run_once(self) -> Pass:
        """See outbox.relay.Relay.run_once."""
        done = [await self._pass(group) for group in await self._load_groups()]
        return Pass(sum(one.messages for one in done), more=any(one.more for one in done))

    async def _load_groups(self) -> list[SlotGroup]:
        if self._groups is None:
            with translated("reading the cursors"):
                async with self._engine.connect() as connection:
                    self._groups = await load_groups(connection)
        return list(self._groups)

    async def _pass(self, group: SlotGroup) -> Pass:
        try:
            return await self._deliver(group)
        except BaseException:
            self._groups = None  # read them again: after a lost connection it may be another server
            raise

    async def _deliver(self, group: SlotGroup) -> Pass:
        self.stats.passes += 1
        read_at = self._clock()
        with translated("reading the outbox"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                batch = await read_batch(connection, group, self._settings.relay_page_size)
                if not self._may_advance(batch):
                    return Pass(0, more=False)
                ages = _collapse(batch)
                loaded = Loaded(batch.phase.epoch)
                if ages:
                    loaded = await load(connection, self._mappings, ages, batch.phase)
        await self._lift(batch, loaded)
        outcomes: dict[Identity, Outcome] = dict(loaded.refused)

        def delivered(identity: Identity, outcome: Outcome) -> None:
            self._count_delivery(outcome, ages[identity], self._clock() - read_at)

        outcomes |= await self._delivery.send(loaded.publish, read_at, delivered)
        if batch.messages or batch.more or _must_advance_idle(batch):
            await self._advance(batch, outcomes)
        self.stats.messages += len(batch.messages)
        self.stats.dead_lettered += sum(isinstance(outcome, Refused) for outcome in outcomes.values())
        self.stats.absent += len(ages) - len(outcomes)
        return Pass(len(batch.messages), more=batch.more)

    def _may_advance(self, batch: Batch) -> bool:
        pinned = self._settings.phase
        if pinned is not None and pinned is not batch.phase.phase:
            self._warn_once(batch, "relay.pinned_to_another_phase", pinned=pinned.label)
            return False
        if sends(batch.phase) or batch.phase.phase is Phase.POSTGRES_ONLY:
            return True
        if batch.left:
            self._warn_once(batch, "relay.leftover_messages")
        return False

    def _warn_once(self, batch: Batch, event: str, **facts: str) -> None:
        if self._warned_of_epoch != batch.phase.epoch:
            self._warned_of_epoch = batch.phase.epoch
            log.warning(event, phase=batch.phase.phase.label, epoch=batch.phase.epoch, **facts)

    async def _lift(self, batch: Batch, loaded: Loaded) -> None:
        for mapping, buried in loaded.buried.items():
            with translated(f"lifting rows of {mapping.name}"):
                async with self._engine.begin() as connection:
                    lifted = await lift(connection, mapping, buried, batch.phase, loaded)
            self.stats.lifted += lifted
            log.info("relay.lifted", entity=mapping.name, rows=lifted, locked=len(buried) - lifted)

    async def _advance(self, batch: Batch, outcomes: dict[Identity, Outcome]) -> None:
        """Move the cursor past the batch, in one transaction with its dead letters."""
        with translated("advancing the cursor"):
            async with self._engine.begin() as connection:
                await _file_letters(connection, batch, outcomes)
                if not await advance(connection, batch.group, batch.next):
                    msg = "another relay has moved the cursor"
                    raise CursorMovedError(msg)
        self._delivery.forget()
        if self._groups is not None:
            self._groups[self._groups.index(batch.group)] = SlotGroup(batch.group.slots, batch.next)

    def _count_delivery(self, outcome: Outcome, ages: list[float], since_s: float) -> None:
        stats = self.stats
        match outcome:
            case Written():
                stats.published += 1
            case Unchanged():
                stats.unchanged += 1
            case Superseded():
                stats.superseded += 1
            case Refused():
                return
        for age_s in ages:
            stats.last_lag_s = age_s + since_s
            stats.lags.add(age_s + since_s)


def _must_advance_idle(batch: Batch) -> bool:
    """Whether a batch without messages to send is worth a write: something was left unsent, or a switch waits for it.

    Otherwise silence costs nothing: where no message is, an old cursor reads as little as a new one.
    """
    moved = batch.next.seen != batch.group.cursor.seen
    return moved and (batch.left or batch.phase.state is PhaseState.DRAINING)


def _collapse(batch: Batch) -> dict[Identity, list[float]]:
    """Return each identity once, the one with the newest message last, with the ages of its messages in seconds."""
    ages: dict[Identity, list[float]] = {}
    for message in batch.messages:
        known = ages.pop(message.identity, [])
        ages[message.identity] = [*known, message.age_s]
    return ages


async def _file_letters(connection: AsyncConnection, batch: Batch, outcomes: dict[Identity, Outcome]) -> None:
    """Record what was refused, and forget the refusals of what has arrived since."""
    arrived: dict[str, list[Identity]] = {}
    for identity, outcome in sorted(outcomes.items()):
        if isinstance(outcome, Refused):
            letter = DeadLetter(Direction.TO_COSMOS, REFUSED, identity, outcome.reason)
            await dead_letters.record(connection, letter)
            log.warning("relay.dead_lettered", entity=identity.entity, document_id=identity.id, reason=outcome.reason)
        elif batch.has_letters:
            arrived.setdefault(identity.entity, []).append(identity)
    for identities in arrived.values():
        await dead_letters.settle(connection, Direction.TO_COSMOS, identities)
