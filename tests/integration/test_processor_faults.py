"""The self-hosted processor when something fails that nobody expected: one feed range waits, the others go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from changefeed import retrying as module
from changefeed.mirror import Mirror
from changefeed.processor import Processor
from core.domain.mappings import ACCOUNTS, USER_PROFILES
from core.errors import ConfigurationError, CrossfeedError, DocumentRefusedError
from core.phases import Phase
from tests.integration.relay_steps import make_primary, until, versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings

SECRET = "a value that is nobody's business"


class Broken:
    """Fails for the pages of accounts until it is mended."""

    def __init__(self, apply: Callable[..., Awaitable[Any]], error: BaseException) -> None:
        self._apply = apply
        self._error = error
        self.failures = 0
        self.mended = False

    async def __call__(self, mirror: Mirror, container: str, *args: Any) -> Any:
        if container == ACCOUNTS.container and not self.mended:
            self.failures += 1
            raise self._error
        return await self._apply(mirror, container, *args)

    @classmethod
    def in_place(cls, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Broken:
        broken = cls(Mirror.apply, error)

        async def apply(mirror: Mirror, *args: Any) -> Any:
            return await broken(mirror, *args)

        monkeypatch.setattr(Mirror, "apply", apply)
        return broken


@pytest.fixture
async def processor(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Processor:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    return Processor(engine, cosmos, mappings, poll_ms=10)


ERRORS = [
    ZeroDivisionError(SECRET),
    ConfigurationError("a wrong setting"),
    DocumentRefusedError("at $.x"),
    asyncio.CancelledError(SECRET),  # of something below, not of the task that follows the range
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_feed_range_that_fails_unexpectedly_is_retried_and_holds_back_no_other(
    processor: Processor,
    engine: AsyncEngine,
    cosmos: CosmosStore,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    monkeypatch.setattr(module, "_backoff", lambda state: 0.02)
    broken = Broken.in_place(monkeypatch, error)
    stop = asyncio.Event()
    with capture_logs() as logs:
        running = asyncio.create_task(processor.run(stop))
        await cosmos.container(ACCOUNTS).create_item({"id": "a"})
        await until(lambda: broken.failures >= 3)
        await cosmos.container(USER_PROFILES).create_item({"id": "p"})
        await until(lambda: _has(engine, "user_profiles", "p"))
        broken.mended = True
        await until(lambda: _has(engine, "accounts", "a"))
        stop.set()
        await running
    name = "UnaskedCancellationError" if isinstance(error, asyncio.CancelledError) else type(error).__name__
    assert processor.stats.retries[name] == broken.failures
    told = [entry for entry in logs if entry["log_level"] == "error"]
    assert len(told) == broken.failures
    assert {(entry["error"], entry["what"].split()[0]) for entry in told} == {(name, "mirror/Accounts")}
    assert SECRET not in str(logs)
    if isinstance(error, ZeroDivisionError):
        assert "__call__" in told[0]["where"][-1]
    elif isinstance(error, CrossfeedError):
        assert told[0]["reason"] == str(error)


async def test_a_feed_range_that_fails_unexpectedly_does_not_keep_the_processor_from_stopping(
    processor: Processor, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_backoff", lambda state: 60.0)
    broken = Broken.in_place(monkeypatch, ZeroDivisionError())
    await cosmos.container(ACCOUNTS).create_item({"id": "a"})
    stop = asyncio.Event()
    running = asyncio.create_task(processor.run(stop))
    await until(lambda: broken.failures >= 1)
    stop.set()
    await asyncio.wait_for(running, 3)


async def _has(engine: AsyncEngine, table: str, id_: str) -> bool:
    return id_ in await versions(engine, table)
