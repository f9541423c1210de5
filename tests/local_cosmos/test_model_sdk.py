"""Under random operations and splits the server agrees with a dictionary, as the SDK shows it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from core.local.cosmos import CosmosServer
from tests.local_cosmos.model_clock import StillClock
from tests.local_cosmos.model_script import SDK_SHAPES, Step, steps
from tests.local_cosmos.model_sdk import SdkRunner
from tests.local_cosmos.model_wire import HttpWire
from tests.local_cosmos.model_world import Shape, World
from tests.local_cosmos.model_writer import SdkWriter

if TYPE_CHECKING:
    from collections.abc import Callable


class Bench:
    """One server, one client and one session for all scripts, each on a container of its own."""

    async def open(self) -> None:
        self._stack = AsyncExitStack()
        self.clock = StillClock(int(time()))
        self.server = await self._stack.enter_async_context(CosmosServer(clock=self.clock))
        self.client = await self._stack.enter_async_context(
            CosmosClient(self.server.endpoint, self.server.key, retry_total=0)
        )
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.wire = HttpWire(session, self.server.endpoint, self.server.key)
        self.database = await self.client.create_database("d")

    async def close(self) -> None:
        await self._stack.aclose()

    async def run(self, shape: Shape, default_ttl: int | None, script: list[Step]) -> None:
        self.clock.offset = 0
        paths: Any = list(shape.paths) if shape.kind == "MultiHash" else shape.paths[0]
        options: dict[str, Any] = {"offer_throughput": shape.throughput}
        if shape.unique:
            options["unique_key_policy"] = {"uniqueKeys": [{"paths": ["/u"]}]}
        if default_ttl is not None:
            options["default_ttl"] = default_ttl
        name = uuid4().hex
        key = PartitionKey(paths, kind=shape.kind, version=shape.version)
        container = await self.database.create_container(name, key, **options)
        runner = SdkRunner(
            self.server.account,
            self.wire,
            ["dbs", "d", "colls", name],
            World(shape, default_ttl),
            clock=self.clock,
            writer=SdkWriter(container),
            container=container,
        )
        await runner.run(script)
        await self.database.delete_container(name)


def served(check: Callable[[asyncio.Runner, Bench], None]) -> None:
    with asyncio.Runner() as runner:
        bench = Bench()
        runner.run(bench.open())
        try:
            check(runner, bench)
        finally:
            runner.run(bench.close())


scripts = st.lists(steps, min_size=25, max_size=50)
containers = (st.sampled_from(SDK_SHAPES), st.sampled_from([None, -1, 3]), scripts)


def test_the_sdk_sees_what_a_dictionary_holds() -> None:
    def check(runner: asyncio.Runner, bench: Bench) -> None:
        @seed(20260102)
        @settings(
            max_examples=6,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=(Phase.generate, Phase.explain),
        )
        @given(*containers)
        def run(shape: Shape, default_ttl: int | None, script: list[Step]) -> None:
            runner.run(bench.run(shape, default_ttl, script))

        run()

    served(check)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_the_sdk_sees_what_a_dictionary_holds_at_length() -> None:
    def check(runner: asyncio.Runner, bench: Bench) -> None:
        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(*containers)
        def run(shape: Shape, default_ttl: int | None, script: list[Step]) -> None:
            runner.run(bench.run(shape, default_ttl, script))

        run()

    served(check)
