"""Keeps the connections of an Azure Functions worker: made when first needed, one small pool and one client a process.

Azure starts and kills workers as it likes, and tells them nothing; so there is nothing here that has to be ended, and
nothing that an invocation would miss in a process that is new. Whatever cannot be had raises: for a trigger that means
that its batch comes again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import QueuePool

from changefeed.mirror import Pace
from changefeed.rewritten import HostDates
from core.errors import StoreUnavailableError
from core.postgres.engine import ending_silence
from core.postgres.failures import translated
from core.postgres.rights import Process
from core.settings import Settings
from core.telemetry import configure_host_logging
from functions.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from functions.bootstrap import Application

log = structlog.get_logger()

OPEN_S: Final = 45.0
"""How long an invocation waits for the connections, in seconds, behind others who wait for them as well."""
CHECK_TIMEOUT_S: Final = 5.0
"""How long the stores may take to answer before connections that failed are thrown away."""
SILENCE_S: Final = 60.0
"""After how long without a word Postgres ends a transaction, in seconds: longer than a read by key may take."""
IDLE_CHECK_S: Final = 60.0
"""After how long without use connections are looked at before they are used: Azure freezes what is idle."""


@dataclass(slots=True)
class _Opened:
    """The connections, who uses them, and whether they are to be looked at before they are used again."""

    application: Application
    stack: AsyncExitStack
    used_at: float
    users: int = 0
    is_suspect: bool = False


@dataclass(slots=True)
class _Loop:
    """What one event loop has open; connections cannot be used, nor closed, from another."""

    lock: asyncio.Lock
    opened: _Opened | None = None


@dataclass(slots=True)
class Runtime:
    """The connections of a worker process, for each of its event loops; a worker has one.

    Args:
        load: reads the settings, when something is opened.
        clock: monotonic seconds.
        dates: what the host of this process does to dates.
        parked: when what is parked is tried again beside batches.

    """

    load: Callable[[], Settings] = Settings.load
    clock: Callable[[], float] = time.monotonic
    dates: HostDates = field(default_factory=HostDates)
    parked: Pace = field(default_factory=Pace)
    _loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = field(default_factory=WeakKeyDictionary, init=False)

    @asynccontextmanager
    async def application(self) -> AsyncIterator[Application]:
        """Yield the parts of the process, connected and checked; after an error inside they are looked at again.

        Raises:
            ConfigurationError: a setting is wrong, or a store is not as it must be.
            StoreUnavailableError: a store did not answer.

        """
        here = self._here()
        try:
            async with asyncio.timeout(OPEN_S), here.lock:
                opened = await self._usable(here)
                opened.users += 1
        except TimeoutError as error:
            msg = f"the stores could not be opened in {OPEN_S:.0f} seconds"
            raise StoreUnavailableError(msg) from error
        try:
            yield opened.application
        except BaseException:
            opened.is_suspect = True
            raise
        finally:
            opened.users -= 1
            opened.used_at = self.clock()
            if opened is not here.opened and opened.users == 0:
                await _close(opened)

    async def close(self) -> None:
        """Close what is open; the next use opens it again."""
        here = self._here()
        async with here.lock:
            await _retire(here)

    def _here(self) -> _Loop:
        # What is open in a loop refers to it, so that it would never be let go.
        for reference in self._loops.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                self._loops.pop(loop, None)
        return self._loops.setdefault(asyncio.get_running_loop(), _Loop(asyncio.Lock()))

    async def _usable(self, here: _Loop) -> _Opened:
        opened = here.opened
        if opened is not None and (opened.is_suspect or self.clock() - opened.used_at > IDLE_CHECK_S):
            if await _is_alive(opened.application):
                opened.is_suspect = False
            else:
                log.warning("functions.reconnects")
                await _retire(here)
        if here.opened is None:
            here.opened = await self._open()
        return here.opened

    async def _open(self) -> _Opened:
        settings = self.load()
        configure_host_logging(settings)
        small = settings.model_copy(update={"postgres_pool_size": settings.functions_pool_size})
        async with AsyncExitStack() as stack:
            found = await stack.enter_async_context(bootstrap(small, process=Process.FUNCTIONS))
            await found.store.check([], [found.store.own.leases])
            # Azure freezes a worker at any line: it must not keep others waiting for its locks.
            application = replace(found, engine=ending_silence(found.engine, SILENCE_S))
            opened = _Opened(application, stack.pop_all(), self.clock())
        log.info("functions.connected", pool_size=small.postgres_pool_size)
        return opened


RUNTIME: Final = Runtime()
"""The one of this process."""


async def _is_alive(application: Application) -> bool:
    pool = application.engine.pool
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            # Where all connections are in use there is none to look at: they find out themselves.
            if not isinstance(pool, QueuePool) or pool.checkedout() < pool.size():
                with translated("looking whether Postgres is there"):
                    async with application.engine.connect() as connection:
                        await connection.exec_driver_sql("SELECT 1")
            await application.store.ping()
    except Exception as error:  # noqa: BLE001 - whatever it is, a client that was closed for example: new ones cure it
        log.warning("functions.not_alive", error=type(error).__name__)
        return False
    return True


async def _retire(here: _Loop) -> None:
    """Let go of what is open; who still uses it may end."""
    opened, here.opened = here.opened, None
    if opened is not None and opened.users == 0:
        await _close(opened)


async def _close(opened: _Opened) -> None:
    """Close connections of which some may be broken: what cannot be closed is gone already."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await opened.stack.aclose()
    except Exception as error:  # noqa: BLE001 - the outermost of it: there is nobody who could do better
        log.warning("functions.not_closed", error=type(error).__name__)
