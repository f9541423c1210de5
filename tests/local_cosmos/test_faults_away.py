"""What is not there for a while: a partition that is down, a budget that is spent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from core.local.cosmos.faults import (
    Budget,
    Down,
    Faults,
    Match,
    Rule,
)
from core.local.cosmos.faults.budget import Buckets
from tests.local_cosmos.raw import keys_by_range, statuses, stored

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer
    from tests.local_cosmos.raw import RawContainer


async def test_a_partition_that_is_down_answers_nothing_and_others_go_on(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    keys = keys_by_range(server)
    for key in keys.values():
        await raw.create("a", key)
    faults.add(Rule(do=Down(), on=Match(database="wire", container="raw", range_id="0")))
    for range_id, key in keys.items():
        expected = 503 if range_id == "0" else 200
        scoped = {"x-ms-documentdb-partitionkeyrangeid": range_id}
        answers = [
            await raw.read("a", key),
            await raw.upsert("a", key),
            await raw.query(headers=scoped),
            await raw.query(f"SELECT * FROM c WHERE c.pk = '{key}'"),
            await raw.feed(None, pk=key),
            await raw.batch([{"operationType": "Read", "id": "a"}], key),
        ]
        assert statuses(answers) == [expected] * 6
    assert (await raw.query("SELECT VALUE c.id FROM c")).status == 503
    ranges = await raw.wire.send("GET", ["dbs", "wire", "colls", "raw", "pkranges"], {})
    assert len(ranges.json["PartitionKeyRanges"]) == 2
    stored(server).split("0")
    assert (await raw.read("a", keys["0"])).status == 503
    faults.clear()
    assert (await raw.read("a", keys["0"])).status == 200


async def test_all_partitions_of_a_container_may_be_down(
    server: CosmosServer, faults: Faults, raw: RawContainer, container: ContainerProxy
) -> None:
    faults.add(Rule(do=Down(), on=Match(container="raw")))
    assert statuses([await raw.read("a", key) for key in keys_by_range(server).values()]) == [503, 503]
    await container.create_item({"id": "a", "pk": "p"})


async def test_a_budget_is_spent_by_what_the_answers_charge_and_fills_again(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    keys = keys_by_range(server)
    faults.add(Rule(do=Budget(ru_per_second=20, burst=10), name="ru"))
    charge = 0.0
    while (answer := await raw.upsert("a", keys["0"])).status != 429:
        charge += float(answer.headers["x-ms-request-charge"])
    assert charge > 10
    wait = int(answer.headers["x-ms-retry-after-ms"])
    assert 1 <= wait <= (charge - 10) / 20 * 1000 + 1
    assert answer.substatus == 3200
    assert (await raw.upsert("a", keys["1"])).status == 201
    await asyncio.sleep(wait / 1000 + 0.001)
    assert (await raw.upsert("a", keys["0"])).status == 200
    assert faults.injected == {"ru": 1}


def test_the_wait_of_a_bucket_is_its_deficit_at_its_rate() -> None:
    buckets = Buckets(Budget(ru_per_second=100, burst=50))
    assert buckets.wait(["a"], 0.0) is None
    buckets.spend(["a", "b"], 160.0, 0.0)
    assert buckets.wait(["a"], 0.0) == 300
    assert buckets.wait(["c", "a"], 0.1) == 200
    assert buckets.wait(["a", "b"], 0.31) is None
    buckets.spend(["a"], 50.5, 100.0)
    assert buckets.wait(["a"], 100.0) == 5


async def test_the_budget_of_a_container_is_shared_by_its_partitions(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    faults.add(Rule(do=Budget(ru_per_second=0.01, burst=1, per="container")))
    keys = keys_by_range(server)
    assert statuses([await raw.upsert("a", key) for key in keys.values()]) == [201, 429]
    assert (await raw.wire.send("GET", ["dbs", "wire", "colls", "raw"], {})).status == 200
