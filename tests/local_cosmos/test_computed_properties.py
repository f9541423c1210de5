"""Computed properties: named by queries, hidden from `SELECT *`, changed by replacing the container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

_LOWER = {"name": "lower", "query": "SELECT VALUE LOWER(x.name) FROM x"}
_YEAR = {"name": "year", "query": "SELECT VALUE {y: x.born / 1} FROM x"}


@pytest.fixture
async def people(database: DatabaseProxy) -> ContainerProxy:
    """Two physical partitions."""
    container = await database.create_container(
        "people", PartitionKey("/id"), computed_properties=[_LOWER, _YEAR], offer_throughput=12_000
    )
    for id_, name, born in (("1", "ADA", 1815), ("2", "Alan", 1912), ("3", "ada", 1901)):
        await container.create_item({"id": id_, "name": name, "born": born})
    return container


async def _rows(container: ContainerProxy, query: str) -> list[Any]:
    return [row async for row in container.query_items(query)]


_QUERIES: dict[str, list[Any]] = {
    "SELECT VALUE c.id FROM c WHERE c.lower = 'ada' ORDER BY c.born": ["1", "3"],
    "SELECT p.lower FROM people p WHERE p.id = '2'": [{"lower": "alan"}],
    'SELECT c["lower"] AS l, c.year.y FROM c WHERE c.id = "1"': [{"l": "ada", "y": 1815}],
    "SELECT DISTINCT VALUE c.lower FROM c ORDER BY c.lower DESC": ["alan", "ada"],
    "SELECT VALUE MAX(c.year.y) FROM c": [1912],
    "SELECT VALUE c.id FROM c WHERE EXISTS (SELECT VALUE 1 FROM d IN (SELECT VALUE [c.lower]) WHERE d = 'alan')": ["2"],
    "SELECT VALUE c.other.lower FROM c": [],
}


async def test_a_query_uses_computed_properties_like_others(people: ContainerProxy) -> None:
    assert {query: await _rows(people, query) for query in _QUERIES} == _QUERIES


async def test_a_star_does_not_show_them(people: ContainerProxy) -> None:
    rows = await _rows(people, "SELECT * FROM c WHERE c.lower = 'alan'")
    assert [row.keys() & {"lower", "year", "name"} for row in rows] == [{"name"}]


async def test_replacing_the_container_replaces_them(people: ContainerProxy, database: DatabaseProxy) -> None:
    other = {"name": "upper", "query": "SELECT VALUE UPPER(c.name) FROM c"}
    await database.replace_container(people, PartitionKey("/id"), computed_properties=[other])
    assert (await people.read())["computedProperties"] == [other]
    assert await _rows(people, "SELECT VALUE c.upper FROM c WHERE c.id = '3'") == ["ADA"]
    assert await _rows(people, "SELECT VALUE c.lower FROM c") == []


async def test_a_definition_that_is_no_good_is_refused(database: DatabaseProxy) -> None:
    definitions: list[Any] = [
        _LOWER,
        [{"name": "a"}],
        [{"name": "id", "query": _LOWER["query"]}],
        [_LOWER, _LOWER],
        [{"name": f"p{i}", "query": "SELECT VALUE 1 FROM c"} for i in range(21)],
        [{"name": "a", "query": "SELECT c.name FROM c"}],
        [{"name": "a", "query": "SELECT VALUE c.name FROM c WHERE c.x = 1"}],
        [{"name": "a", "query": "SELECT VALUE LOWER(c.name"}],
        [{"name": "a", "query": "SELECT VALUE NO_SUCH(c.name) FROM c"}],
    ]
    for definition in definitions:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await database.create_container("people", PartitionKey("/id"), computed_properties=definition)
        assert caught.value.status_code == 400, definition
    assert [found["id"] async for found in database.list_containers()] == []
