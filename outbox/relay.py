"""Carries what was committed in Postgres to Cosmos DB: one pass after the other, until it is told to stop.

What a pass does in each phase:

    cosmos_only, dual_write_cosmos_read   idle. Leftover messages stay in the log: Cosmos DB decides now, so their state
                                          must not be sent; but they are not skipped either, because should Postgres be
                                          primary again, their documents' then current state is compared and sent.
    dual_write_postgres_read              state is sent, steady or draining.
    postgres_only                         the cursor advances and nothing is sent: Cosmos DB is not followed any more,
                                          and the step back finds what changed by validation.

A state is always sent under its own stamp, whatever epoch its message is from: the guard at the target decides.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING

import structlog

from core.cosmos.guarded import GuardedWriter
from core.errors import CrossfeedError, StoreUnavailableError
from outbox.backoff import patiently, pause
from outbox.clock import boot_clock
from outbox.passes import Pass, Passes
from outbox.quarantine import LetterQuarantine
from outbox.stats import RelayStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings
    from outbox.delivery import Sink

log = structlog.get_logger()

GRACE_S = 20.0
"""How long a pass may go on after `stop` was set, in seconds; then it is given up, and repeated by the next relay."""


def open_relay(settings: Settings, mappings: Mappings, engine: AsyncEngine, store: CosmosStore) -> Relay:
    """Wire a relay as the settings say. It opens nothing and closes nothing."""
    stats = RelayStats()
    sink = GuardedWriter(
        store, mappings, LetterQuarantine(engine, mappings, stats), settings.tombstone_ttl_s, settings.relay_concurrency
    )
    return Relay(settings, mappings, engine, sink, stats)


class Relay:
    """The relay of all slots of one database.

    Args:
        settings: page size, concurrency, polling, the tombstones' TTL and the pinned phase.
        mappings: of everything that is captured.
        engine: the database whose log is read.
        sink: the guarded write to Cosmos DB.
        stats: where to count.
        clock: seconds that count suspend.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        settings: Settings,
        mappings: Mappings,
        engine: AsyncEngine,
        sink: Sink,
        stats: RelayStats | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.stats = stats or RelayStats()
        self._settings = settings
        self._passes = Passes(settings, mappings, engine, sink, self.stats, clock)

    async def run(self, stop: asyncio.Event, grace_s: float = GRACE_S) -> None:
        """Relay until `stop` is set; the pass under way then has `grace_s` seconds to end.

        Infrastructure that fails is waited for, for ever.

        Raises:
            ConfigurationError: a message is of an entity type without a mapping, or the schema does not fit.

        """
        log.info("relay.started", page_size=self._settings.relay_page_size)
        passes = asyncio.ensure_future(self._run(stop))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((passes, stopped), return_when=asyncio.FIRST_COMPLETED)
            done, _ = await asyncio.wait((passes,), timeout=grace_s)
            if done:
                passes.result()
            else:
                log.warning("relay.pass_given_up", grace_s=grace_s)
        finally:
            for task in (passes, stopped):
                task.cancel()
            await asyncio.gather(passes, stopped, return_exceptions=True)
            log.info("relay.stopped", messages=self.stats.messages, passes=self.stats.passes)

    async def drain(self, stop: asyncio.Event | None = None) -> int:
        """Relay everything that is committed now, waiting for the stores where they fail; return the messages."""
        stop = stop or asyncio.Event()
        messages = 0
        while done := await patiently(self.run_once, stop, self._count_retry):
            messages += done.messages
            if not done.more:
                break
        return messages

    async def run_once(self) -> Pass:
        """Do one pass over all slots.

        Raises:
            TransientError: a store failed, or another relay is at work; nothing is lost, repeat.
            ConflictError: the phase was changed meanwhile; repeat.
            ConfigurationError: see `run`.

        """
        return await self._passes.run_once()

    async def _run(self, stop: asyncio.Event) -> None:
        shortest = self._settings.relay_poll_min_ms / 1000
        longest = max(shortest, self._settings.relay_poll_max_ms / 1000)
        wait_s = shortest
        while not stop.is_set():
            done = await patiently(self._once_whatever_happens, stop, self._count_retry)
            if done is None or done.more:
                wait_s = shortest
                continue
            wait_s = shortest if done.messages else min(longest, wait_s * 2)
            await pause(wait_s, stop)

    async def _once_whatever_happens(self) -> Pass:
        """Do one pass; a fault of the program is logged, without values, and waited for like any outage.

        Ending the process would not help: whoever starts it again meets the same message, only later and less visibly.
        """
        try:
            return await self.run_once()
        except CrossfeedError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            log.error(  # noqa: TRY400 - a traceback may quote values
                "relay.unexpected",
                error=type(error).__name__,
                where=[f"{frame.name}:{frame.lineno}" for frame in frames],
            )
            msg = f"an unexpected {type(error).__name__}"
            raise StoreUnavailableError(msg) from error

    def _count_retry(self) -> None:
        self.stats.retries += 1
