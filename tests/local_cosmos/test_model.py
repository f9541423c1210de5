"""Under random operations and splits the server, its queries and its feeds agree with a dictionary."""

from __future__ import annotations

import asyncio
import itertools
from time import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from core.local.cosmos.state import partition
from core.local.cosmos.state.account import Account
from tests.local_cosmos.model_clock import StillClock
from tests.local_cosmos.model_runner import Runner
from tests.local_cosmos.model_script import IDS, KEYS, SHAPES, Ask, Split, Step, steps
from tests.local_cosmos.model_wire import CallWire
from tests.local_cosmos.model_world import Shape, World, Write
from tests.local_cosmos.model_writer import WireWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

UNHURRIED = list(HealthCheck)


@pytest.fixture(autouse=True, scope="module")
def eager_compaction() -> Iterator[None]:
    """Let logs be compacted after a handful of writes, as they are after thousands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "COMPACT_MINIMUM", 2)
        yield


scripts = st.lists(steps, min_size=40, max_size=100)


async def by_calls(shape: Shape, default_ttl: int | None, script: list[Step]) -> None:
    clock = StillClock(int(time()))
    account = Account(clock)
    wire = CallWire(account)
    await wire.send("POST", ["dbs"], {}, b'{"id":"d"}')
    body: dict[str, Any] = {"id": "c", "partitionKey": shape.definition}
    if shape.unique:
        body["uniqueKeyPolicy"] = {"uniqueKeys": [{"paths": ["/u"]}]}
    if default_ttl is not None:
        body["defaultTtl"] = default_ttl
    throughput = {"x-ms-offer-throughput": str(shape.throughput)}
    assert (await wire.send("POST", ["dbs", "d", "colls"], throughput, orjson.dumps(body))).status == 201
    path = ["dbs", "d", "colls", "c"]
    runner = Runner(account, wire, path, World(shape, default_ttl), clock=clock, writer=WireWriter(wire, path))
    await runner.run(script)


containers = (st.sampled_from(SHAPES), st.sampled_from([None, -1, -1, 3]), scripts)


@pytest.mark.parametrize("shape", SHAPES[:4], ids=lambda shape: "-".join([*shape.paths, str(shape.version)]))
def test_a_query_goes_on_through_a_split_of_what_it_is_reading(shape: Shape) -> None:
    written: list[Step] = [Write("upsert", key, id_, u=id_) for id_ in range(IDS) for key in range(KEYS)]
    for index, key in itertools.product(range(3), range(KEYS)):
        splits = (Split(index, (key + 1) % KEYS), Split(index, key))
        script = [*written, *[Ask(what, key, 1, splits) for what in ("all", "ordered", "prefix")]]
        asyncio.run(by_calls(shape, None, script))


@seed(20260101)
@settings(max_examples=25, suppress_health_check=UNHURRIED, database=None, phases=(Phase.generate, Phase.explain))
@given(*containers)
def test_documents_queries_and_feeds_agree_with_a_dictionary(
    shape: Shape, default_ttl: int | None, script: list[Step]
) -> None:
    asyncio.run(by_calls(shape, default_ttl, script))


@pytest.mark.chaos
@pytest.mark.timeout(400)
@settings(max_examples=800, suppress_health_check=UNHURRIED)
@given(*containers)
def test_documents_queries_and_feeds_agree_with_a_dictionary_at_length(
    shape: Shape, default_ttl: int | None, script: list[Step]
) -> None:
    asyncio.run(by_calls(shape, default_ttl, script))
