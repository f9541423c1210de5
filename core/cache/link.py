"""Calls Redis: the one module that needs redis-py. Quickly or not at all, and never with an error.

It sends on redis-py's connections itself: what that client does around a command takes as long as the command.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.connection import AbstractConnection

    from core.cache.breaker import Breaker
    from core.cache.call import Call
    from core.cache.stats import CacheStats

log = structlog.get_logger()

_CONNECTIONS: Final = 32
_Command = tuple[str | bytes | int, ...]


class Link:
    """The connections to one Redis; implements core.cache.call.Caller.

    Args:
        url: redis:// or rediss://, with everything that redis-py takes in it.
        timeout_s: of one round trip, connecting included, in seconds.
        breaker: of this Redis.
        stats: counts errors.

    Raises:
        ValueError: the URL is none.
        TypeError: it has an option that redis-py does not know.

    """

    def __init__(self, url: str, timeout_s: float, breaker: Breaker, stats: CacheStats) -> None:
        self._connections = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=False)
        self._connection()  # not connected, but made: options are looked at then
        self._idle: list[AbstractConnection] = []
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._timeout_s = timeout_s
        self._breaker = breaker
        self._stats = stats
        self._shas: dict[str, str] = {}

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def one(self, call: Call) -> Any:  # noqa: ANN401 - what a script returns
        """See Caller."""
        async with self._room:  # who waits for a connection does not wait for Redis
            if not self._breaker.admits():
                return None
            answers = await self._answers([call])
        return None if answers is None else answers[0]

    async def many(self, calls: Sequence[Call]) -> list[Any] | None:
        """See Caller. Goes past the breaker: what the cache is told matters more than what it is asked."""
        has_to_wait = self._room.locked()
        async with self._room:
            if has_to_wait and self._stats.breaker == "open":
                return None  # who was before has found out
            return await self._answers(calls)

    async def _answers(self, calls: Sequence[Call]) -> list[Any] | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._sent([self._evaluate(call) for call in calls])
                if any(isinstance(answer, NoScriptError) for answer in answers):  # Redis was started again
                    scripts: list[_Command] = [("SCRIPT", "LOAD", script) for script in {call.script for call in calls}]
                    answers = await self._sent([*scripts, *map(self._evaluate, calls)])
                    answers = answers[len(scripts) :]
        except Exception as error:  # noqa: BLE001 - a host that is no name, say: a commit that took place must not fail
            self._failed(error)
            return None
        failed = [answer for answer in answers if isinstance(answer, RedisError)]
        if failed and len(failed) == len(answers):
            self._failed(failed[0])
        else:
            self._breaker.worked()
        return [None if isinstance(answer, RedisError) else answer for answer in answers]

    async def _sent(self, commands: list[_Command]) -> list[Any]:
        """Send commands and return their answers, errors among them; twice if a connection has ended meanwhile."""
        if self._idle:
            try:
                return await self._sent_on(self._idle.pop(), commands)
            except (RedisConnectionError, OSError):
                await self.close()  # so have the others, then
        return await self._sent_on(self._connection(), commands)

    def _connection(self) -> AbstractConnection:
        made: AbstractConnection = self._connections.make_connection()  # type: ignore[no-untyped-call] # of redis-py
        return made

    async def _sent_on(self, connection: AbstractConnection, commands: list[_Command]) -> list[Any]:
        try:
            await connection.connect()  # type: ignore[no-untyped-call] # of redis-py
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            answers = [await _answer(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)  # an answer that comes late must not be taken for another one
            raise
        if any(isinstance(answer, ResponseError) and not isinstance(answer, NoScriptError) for answer in answers):
            await connection.disconnect(nowait=True)  # it is a replica by now, for example
        else:
            self._idle.append(connection)
        return answers

    def _evaluate(self, call: Call) -> _Command:
        if call.script not in self._shas:
            self._shas[call.script] = hashlib.sha1(call.script.encode(), usedforsecurity=False).hexdigest()
        return ("EVALSHA", self._shas[call.script], 1, call.key, *call.arguments)

    def _failed(self, error: Exception) -> None:
        self._stats.errors += 1
        self._breaker.failed()
        log.debug("cache.call_failed", error=type(error).__name__)


async def _answer(connection: AbstractConnection) -> Any:  # noqa: ANN401 - what a script returns
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
