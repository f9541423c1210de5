"""Keeps what the relay finds in its way and Postgres never took, and tells a relay that slept through a flip so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from core.clock import boot_clock
from core.envelope import Origin, Ours, author_of
from core.errors import PrimaryMovedError
from core.postgres import dead_letters
from core.postgres.authority import LATE_WRITE, ROGUE_WRITE
from core.postgres.dead_letters import DeadLetter, Direction, quarantine_reason
from core.postgres.failures import translated
from core.postgres.held import read_held
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.publish import Publish
    from core.mappings import Mappings
    from core.stamp import Stamp
    from outbox.stats import RelayStats

log = structlog.get_logger()

FRESH_S = 1.0
"""How long an answer of Postgres about the phase is good enough to create a document, in seconds."""

# Whoever takes over from a process that was stopped in the middle of it has the same letter to write, and would wait.
_GIVE_UP = "SELECT set_config('idle_in_transaction_session_timeout', '10s', true)"


class LetterQuarantine:
    """The port `core.cosmos.publish.Quarantine` by dead letters: the mirror's letter of the same write is the same.

    Args:
        engine: the database whose states are sent.
        mappings: of everything that is sent.
        stats: where to count.
        clock: seconds that count suspend.

    """

    def __init__(
        self, engine: AsyncEngine, mappings: Mappings, stats: RelayStats, clock: Callable[[], float] = boot_clock
    ) -> None:
        self._engine = engine
        self._mappings = mappings
        self._stats = stats
        self._clock = clock
        self._asking = asyncio.Lock()
        self._open_epoch = 0
        self._asked_at = 0.0

    async def untaken(self, item: Publish, found: Document) -> Stamp | None:
        """Keep a document in a transaction of its own; one incident is one letter, however often it is kept.

        A relay that slept while others sent newer states must not put its own in the place of a foreign document.

        Raises:
            PrimaryMovedError: the state that is to replace it is not the primary's any more; no letter was written.
            StoreUnavailableError: Postgres did not take it.

        """
        identity = item.identity
        kind = LATE_WRITE if isinstance(author_of(found), Ours) else ROGUE_WRITE
        letter = DeadLetter(Direction.TO_POSTGRES, kind, identity, quarantine_reason(found), found)
        with translated(f"quarantining {identity.entity} {identity.id!r}"):
            async with self._engine.begin() as connection:
                await connection.exec_driver_sql(_GIVE_UP)
                await _check_epoch(connection, item)
                [held] = await read_held(connection, self._mappings.named(identity.entity), [identity])
                if held.stamp is not None and held.stamp > item.stamp:
                    return held.stamp
                is_new = await dead_letters.record(connection, letter)
        if is_new:
            self._stats.quarantined += 1
            log.warning("relay.quarantined", kind=kind, entity=identity.entity, document_id=identity.id)
        return None

    async def confirm(self, item: Publish) -> None:
        """Ask Postgres, unless it gave the same answer less than FRESH_S ago; many that ask at once ask once.

        Raises:
            PrimaryMovedError: the state is not the primary's any more.
            StoreUnavailableError: Postgres did not answer.

        """
        async with self._asking:
            asked_at = self._clock()
            if item.loaded_in == self._open_epoch and asked_at - self._asked_at < FRESH_S:
                return
            with translated("asking whether Postgres is primary"):
                async with self._engine.connect() as connection:
                    await _check_epoch(connection, item)
            self._open_epoch, self._asked_at = item.loaded_in, asked_at


async def _check_epoch(connection: AsyncConnection, item: Publish) -> None:
    now = await read_phase(connection)
    if now.primary is not Origin.POSTGRES or now.epoch != item.loaded_in:
        msg = (
            f"a state of {item.identity.entity} {item.identity.id!r} was loaded in epoch {item.loaded_in};"
            f" it is {now.phase.label}, epoch {now.epoch} now"
        )
        raise PrimaryMovedError(msg)
