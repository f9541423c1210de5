"""Serves a Cosmos DB account from a thread of this process, so that whoever uses it may be sync or async.

A thread with an event loop of its own, and no process: it is there in a few hundredths of a second, its account can be
looked into, moved in time and split by plain calls, and it ends with this process, however that ends.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from core.local.cosmos.server import CosmosServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.local.cosmos.faults import HeldRequest, Injection, Rule
    from core.local.cosmos.faults.held import Outcome

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUT = 30.0  # seconds: a call takes microseconds; this is for a loop that somebody has blocked


class EmbeddedClock:
    """The time of an account."""

    def __init__(self, cosmos: EmbeddedCosmos) -> None:
        self._cosmos = cosmos

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._cosmos.call(self._cosmos.server.account.clock.now)

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`, so that documents expire; a negative value steps it back."""
        self._cosmos.call(self._cosmos.server.account.clock.advance, seconds)


class EmbeddedFaults:
    """The faults of an account, as `core.local.cosmos.faults.Faults` describes them."""

    def __init__(self, cosmos: EmbeddedCosmos) -> None:
        self._cosmos = cosmos
        self._faults = cosmos.server.faults

    @property
    def seed(self) -> int:
        """What all draws come from; setting it begins them, and the rules' counts, again.

        Raises:
            ValueError: it is set to something that is no seed.
        """
        return self._cosmos.call(lambda: self._faults.seed)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._cosmos.call(setattr, self._faults, "seed", seed)

    @property
    def rules(self) -> list[Rule]:
        """The rules that are switched on, in their order."""
        return self._cosmos.call(lambda: self._faults.rules)

    @property
    def injected(self) -> dict[str, int]:
        """How many faults really happened, by the name of their rule; also those of rules that were removed."""
        return self._cosmos.call(lambda: self._faults.injected)

    @property
    def log(self) -> list[Injection]:
        """The last 1,000 faults that really happened, oldest first."""
        return self._cosmos.call(lambda: self._faults.log)

    @property
    def held(self) -> list[HeldRequest]:
        """The requests that were held back, as they are now: those that wait and those that have ended."""
        return self._cosmos.call(lambda: [replace(request) for request in self._faults.held])

    def add(self, rule: Rule) -> Rule:
        """Switch a rule on and return it with its name.

        Raises:
            ValueError: its name is taken.
        """
        return self._cosmos.call(self._faults.add, rule)

    def remove(self, name: str) -> None:
        """Switch a rule off; what it has decided already still happens, and its count stays.

        Raises:
            KeyError: there is no such rule.
        """
        self._cosmos.call(self._faults.remove, name)

    def clear(self) -> None:
        """Switch all rules off, drop the requests that are held, and forget all counts; the seed stays."""
        self._cosmos.call(self._faults.clear)

    def release(self) -> list[Outcome]:
        """Apply all requests that are held, in the order in which they came, against what is there now."""
        return self._cosmos.call(self._faults.held.release_all)


class EmbeddedCosmos:
    """An account that is being served; whatever is called here may be called from any thread.

    `endpoint` and `key` are for the SDK; `clock` is the account's time, `faults` is what goes wrong in it. `server`
    belongs to the thread that serves it: use it through `call`.
    """

    def __init__(self, server: CosmosServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.endpoint = server.endpoint
        self.key = server.key
        self.clock = EmbeddedClock(self)
        self.faults = EmbeddedFaults(self)
        self._loop = loop

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns in the server's thread, between two requests.

        Raises:
            TimeoutError: the server did not get to it within 30 seconds.
        """

        async def called() -> T:
            return function(*args, **kwargs)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(_TIMEOUT)

    def split(self, database: str, container: str, range_id: str = "0") -> list[str]:
        """Split a physical partition of a container in two, and return the ids of the new ranges.

        Raises:
            CosmosError: 404 if there is no such container, 410 if it has no such range (any more).
        """

        def split() -> list[str]:
            return [child.id for child in self.server.account.container(database, container).split(range_id)]

        return self.call(split)

    def reset(self) -> None:
        """Delete all databases, switch all faults off, let the draws begin at seed 0, and set the clock right."""
        self.call(self._reset)

    def _reset(self) -> None:
        account, faults = self.server.account, self.server.faults
        faults.clear()
        faults.seed = 0
        for name in list(account.databases):
            account.delete_database(name)
        account.clock.offset = 0.0


@contextmanager
def embedded_cosmos() -> Iterator[EmbeddedCosmos]:
    """Yield an account that is served on a free loopback port as long as the context is open.

    Raises:
        OSError: there is no port.
    """
    started: Future[EmbeddedCosmos] = Future()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(started, stop)), name="crossfeed embedded Cosmos DB", daemon=True
    )
    thread.start()
    cosmos = started.result(_TIMEOUT)
    try:
        yield cosmos
    finally:
        cosmos.call(stop.set)
        thread.join(_TIMEOUT)


async def _serve(started: Future[EmbeddedCosmos], stop: asyncio.Event) -> None:
    try:
        async with CosmosServer() as server:
            started.set_result(EmbeddedCosmos(server, asyncio.get_running_loop()))
            await stop.wait()
    except Exception as error:  # it is raised in the thread that waits for the start
        if started.done():
            raise
        started.set_exception(error)
