"""Throughput: what may be asked for, how it changes, and what guards a change of databases, containers and offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey, ThroughputProperties
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy

    from core.local.cosmos import CosmosServer

KEY = PartitionKey("/pk")


async def status_of(call: Any) -> int | None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await call
    return caught.value.status_code


def sending(**headers: str) -> dict[str, Any]:
    """Return the argument that adds headers to a request: the SDK has no other for these."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"raw_request_hook": lambda request: request.http_request.headers.update(named)}


async def offer_of(container: ContainerProxy) -> dict[str, Any]:
    found = await container.get_throughput()
    assert found.properties is not None
    return dict(found.properties)


async def replace(container: ContainerProxy, offer: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer: Any = await container.client_connection.ReplaceOffer(offer["_self"], offer, **sending(**headers))
    return dict(answer)


@pytest.mark.parametrize(
    "throughput",
    [
        300,
        450,
        1_000_100,
        ThroughputProperties(auto_scale_max_throughput=900),
        ThroughputProperties(auto_scale_max_throughput=1500),
        ThroughputProperties(auto_scale_max_throughput=1_001_000),
    ],
)
async def test_throughput_comes_in_steps_between_limits(database: DatabaseProxy, throughput: Any) -> None:
    assert await status_of(database.create_container("c", KEY, offer_throughput=throughput)) == 400


async def test_manual_and_autoscale_throughput_cannot_be_asked_for_together(database: DatabaseProxy) -> None:
    both = sending(x_ms_cosmos_offer_autopilot_settings='{"maxThroughput": 4000}')
    assert await status_of(database.create_container("c", KEY, offer_throughput=400, **both)) == 400


async def test_throughput_is_replaced_on_databases_and_containers(server: CosmosServer, client: CosmosClient) -> None:
    database = await client.create_database(
        "shared", offer_throughput=ThroughputProperties(auto_scale_max_throughput=1000)
    )
    await database.replace_throughput(ThroughputProperties(auto_scale_max_throughput=3000))
    assert (await database.get_throughput()).auto_scale_max_throughput == 3000
    own = await database.create_container("own", KEY, offer_throughput=500)
    assert (await own.replace_throughput(700)).offer_throughput == 700
    assert await status_of(own.replace_throughput(750)) == 400
    assert (await own.get_throughput()).offer_throughput == 700
    await database.create_container("sharing", KEY)
    assert len(server.account.offers) == 2  # the database's, and that of the container with its own


async def test_only_a_header_migrates_between_manual_and_autoscale(database: DatabaseProxy) -> None:
    container = await database.create_container("c", KEY, offer_throughput=1200)
    offer = await offer_of(container)
    wanted = {**offer, "content": {"offerAutopilotSettings": {"maxThroughput": 4000}}}
    assert await status_of(replace(container, wanted)) == 400
    unset = {**offer, "content": {"offerThroughput": -1}}
    await replace(container, unset, x_ms_cosmos_migrate_offer_to_autopilot="true")
    assert (await container.get_throughput()).auto_scale_max_throughput == 2000
    assert await status_of(replace(container, {**offer, "content": {"offerThroughput": 400}})) == 400
    assert await status_of(replace(container, {**offer, "content": {"offerAutopilotSettings": 5}})) == 400
    await replace(container, unset, x_ms_cosmos_migrate_offer_to_manual_throughput="true")
    manual = await container.get_throughput()
    assert (manual.auto_scale_max_throughput, manual.offer_throughput) == (None, 2000)


async def test_an_etag_guards_containers_databases_and_offers(
    server: CosmosServer, client: CosmosClient, container: ContainerProxy, database: DatabaseProxy
) -> None:
    stale = sending(If_Match='"stale"')
    offer = await offer_of(container)
    assert await status_of(replace(container, offer, If_Match='"stale"')) == 412
    assert await status_of(database.replace_container(container, KEY, **stale)) == 412
    assert await status_of(database.delete_container(container, **stale)) == 412
    assert await status_of(client.delete_database(database, **stale)) == 412
    current = sending(If_Match=(await container.read())["_etag"])
    await database.delete_container(container, **current)
    assert server.account.databases["db"].containers == {}


async def test_offers_whose_resource_ids_differ_by_case_alone_are_told_apart(database: DatabaseProxy) -> None:
    alike: dict[str, ContainerProxy] = {}
    while True:
        other = await database.create_container(f"c{len(alike)}", KEY, offer_throughput=400)
        one = alike.setdefault((await offer_of(other))["_rid"].lower(), other)
        if one is not other:
            break
    await other.replace_throughput(500)
    assert ((await one.get_throughput()).offer_throughput, (await other.get_throughput()).offer_throughput) == (
        400,
        500,
    )
