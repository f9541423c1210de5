"""What is asked of Redis: whether it answers, lets this user in, and behaves as a cache does when it is full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.errors import ConfigurationError
from core.transport import refuse_plaintext
from functions.doctor.findings import Examined, Finding, Level, answer, skipped

if TYPE_CHECKING:
    from functions.doctor.patient import Surroundings

_WHERE: Final = "CROSSFEED_CACHE_URL"
_WHY: Final = "reads go to the stores: nothing is wrong, and everything is slower"
_TIMEOUT_S: Final = 3.0


async def ask_cache(around: Surroundings) -> Examined:
    """Whether the cache answers, and is set up as one."""
    settings = around.settings
    if settings.cache_url is None:
        return skipped("cache", "CROSSFEED_CACHE_URL is not set: reads go to the stores")
    try:
        from redis.asyncio import Redis  # noqa: PLC0415 - of the extra `cache`
    except ImportError:
        cure = "run: pip install 'crossfeed[cache]'"
        return answer("cache", [Finding("the extra 'cache' is not installed", _WHERE, "no process starts", cure)], "")
    url = settings.cache_url.get_secret_value()
    try:
        refuse_plaintext(_WHERE, url, "rediss", settings)
        client = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
    except ConfigurationError as error:
        return answer("cache", [Finding(str(error), _WHERE, "no process starts", "use rediss://")], "")
    except ValueError:
        what, cure = "it is no address of a Redis server", "set it to rediss://user:password@host:6380/0"
        return answer("cache", [Finding(what, _WHERE, "no process starts", cure)], "")
    async with client:
        return await _ask(client)


async def _ask(client: Any) -> Examined:  # noqa: ANN401 - redis-py's own types say little
    from redis.exceptions import AuthenticationError, RedisError  # noqa: PLC0415 - of the extra `cache`

    try:
        await client.ping()
        await client.eval("return 1", 0)
        found: dict[str, Any] = await client.info()
    except AuthenticationError:
        cure = "put user and password into it: rediss://user:password@host:6380/0"
        return answer("cache", [Finding("Redis refuses the credentials", _WHERE, _WHY, cure)], "")
    except (RedisError, OSError, TimeoutError) as error:
        what = f"no Redis answers as it must ({type(error).__name__})"
        cure = "start it, or correct CROSSFEED_CACHE_URL; a user needs PING, EVAL, EVALSHA, SCRIPT and INFO"
        return answer("cache", [Finding(what, _WHERE, _WHY, cure)], "")
    findings = []
    if found.get("role") not in {"master", None}:
        cure = "name the primary in CROSSFEED_CACHE_URL"
        findings.append(Finding("this Redis is a replica, which takes no writes", _WHERE, _WHY, cure))
    if found.get("maxmemory_policy") == "noeviction" and found.get("maxmemory"):
        cure = "run: redis-cli CONFIG SET maxmemory-policy allkeys-lru"
        what = f"it refuses entries once {found['maxmemory']} bytes are full (noeviction)"
        findings.append(Finding(what, _WHERE, "what is read then is not cached", cure, Level.WARNING))
    return answer("cache", findings, f"Redis {found.get('redis_version', '')} answers")
