"""A relay gives up what does not end, and stops by itself where going on would leave something out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.domain.account import Account
from core.errors import MappingError
from core.mappings import Mappings
from outbox.relay import Relay
from tests.integration.relay_steps import MemorySink, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings


async def test_a_pass_that_does_not_end_is_given_up_after_the_grace_time(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    class Hanging:
        reached = asyncio.Event()

        async def write(self, items: Any, **_: Any) -> Any:
            self.reached.set()
            await asyncio.Event().wait()

    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    sink, stop = Hanging(), asyncio.Event()
    running = asyncio.ensure_future(Relay(settings, mappings, engine, sink).run(stop, grace_s=0.2))
    await sink.reached.wait()
    stop.set()
    async with asyncio.timeout(2):
        await running
    memory = MemorySink()
    await Relay(settings, mappings, engine, memory).drain()
    assert len(memory.history) == 1


async def test_a_message_without_a_mapping_stops_the_relay_and_stays_in_the_log(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO user_profiles (id) VALUES ('p')", "INSERT INTO accounts (id) VALUES ('a')")
    few = Mappings([mappings.of(Account)])
    sink = MemorySink()
    with pytest.raises(MappingError, match="UserProfile"):
        async with asyncio.timeout(10):
            await Relay(settings, few, engine, sink).run(asyncio.Event())
    await Relay(settings, mappings, engine, sink).drain()
    assert len(sink.history) == 2
