"""A switch whose mirror is the Functions app: its triggers show the watermarks of the barrier, one of each lease."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from core.migration.barrier import documents_arrived
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from tests.functions.conftest import Installation


async def test_a_barrier_is_passed_when_each_lease_of_the_triggers_has_come_to_its_watermark(
    installation: Installation,
) -> None:
    names = installation.mappings.containers
    listeners = [listener for name in names for listener in await installation.listeners(name)]
    last = listeners.pop()
    async with installation.engine.connect() as connection:
        epoch = (await read_phase(connection)).epoch
    said: list[str] = []
    waiting = asyncio.create_task(
        documents_arrived(installation.engine, installation.store, installation.mappings, epoch, said.append)
    )
    while not said or f"1 of 2 feed ranges of {names[-1]!r}" not in said[-1]:
        await asyncio.gather(*(listener.drain() for listener in listeners))
        await asyncio.sleep(0.02)  # who waits for the watermarks asks Postgres in between
    assert not waiting.done()
    while not waiting.done():
        await last.drain()
    assert set(await waiting) == set(names)
