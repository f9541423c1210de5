"""Concurrent writers, readers and splits under faults: what clients were told agrees with one history."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from time import monotonic, time
from typing import TYPE_CHECKING

import aiohttp
import orjson
import pytest

from core.local.cosmos import CosmosServer
from tests.local_cosmos.model_clock import StillClock
from tests.local_cosmos.model_turmoil import RULES, Turmoil, containers
from tests.local_cosmos.model_wire import HttpWire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any


class Stage:
    """One server for all runs, each on a container of its own."""

    def __init__(self, server: CosmosServer, session: aiohttp.ClientSession, clock: StillClock) -> None:
        self.server = server
        self.clock = clock
        self.wire = HttpWire(session, server.endpoint, server.key)
        self._bodies: Iterator[dict[str, Any]] = containers()
        server.account.create_database({"id": "d"}, None, None)

    async def run(self, number: int) -> set[str]:
        """Make the run of a number, under rules of its own, and return those that did something."""
        random = Random(number)
        # Half as many numbers as there are rules meet all of them.
        two = (RULES[2 * number % len(RULES)], RULES[(2 * number + 1) % len(RULES)])
        rules = [*two, *random.sample(RULES, random.randint(0, 3))]
        rules = list({rule.name: rule for rule in rules}.values())
        self.clock.offset = 0
        self.server.faults.clear()
        self.server.faults.seed = number
        body = next(self._bodies)
        headers = {"x-ms-offer-throughput": "12000"}
        created = await self.wire.send("POST", ["dbs", "d", "colls"], headers, orjson.dumps(body))
        assert created.status == 201, created.body
        path = ["dbs", "d", "colls", body["id"]]
        turmoil = Turmoil(self.server, self.wire, path, number)
        try:
            await turmoil.run(rules)
        except BaseException as error:
            error.add_note(f"run {number} with {[rule.name for rule in rules]}")
            raise
        await self.wire.send("DELETE", path, {})
        return {name for name, count in turmoil.injected.items() if count}


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    clock = StillClock(int(time()))
    async with CosmosServer(clock=clock) as server, aiohttp.ClientSession() as session:
        session._retry_connection = False  # aiohttp repeats what is idempotent, once
        yield Stage(server, session, clock)


async def test_clients_are_told_the_truth_under_faults() -> None:
    async with stage() as found:
        happened = [await found.run(number) for number in range((len(RULES) + 1) // 2)]
        assert set().union(*happened) == {rule.name for rule in RULES}


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_clients_are_told_the_truth_under_faults_at_length() -> None:
    async with stage() as found:
        number, began = 1000, monotonic()
        while monotonic() - began < 45:
            await found.run(number)
            number += 1
        print(f"{number - 1000} runs")
