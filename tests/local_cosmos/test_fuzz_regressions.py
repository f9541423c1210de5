"""What fuzzing and the model found once: inputs that took all memory, or time, or were answered wrongly."""

from __future__ import annotations

from time import thread_time
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.queries import filter_resources

if TYPE_CHECKING:
    from azure.cosmos.aio import DatabaseProxy

    from core.local.cosmos import CosmosServer

DOCUMENT = {"numbers": list(range(1000)), "pairs": [1] * 1_500, "text": "a" * 200_000}


def ask(text: str) -> list[Any]:
    began = thread_time()
    try:
        return filter_resources({"query": text}, [DOCUMENT])
    finally:
        assert thread_time() - began < 6


@pytest.mark.parametrize(
    "text",
    [
        "SELECT VALUE REGEXMATCH('x', 'a{1000000000}') FROM c",
        "SELECT VALUE REGEXMATCH('x', 'a{99999999999999999999,}') FROM c",
        "SELECT VALUE REGEXMATCH('x', '((((a{100}){100}){100}){100}){100}') FROM c",
        "SELECT VALUE COUNT(1) FROM c JOIN x IN c.numbers JOIN y IN c.numbers JOIN z IN c.numbers",
        "SELECT VALUE ARRAY(SELECT VALUE ARRAY(SELECT VALUE 1 FROM y IN c.pairs) FROM x IN c.pairs) FROM c",
        "SELECT * FROM c WHERE c.n IN (1" + ", 1" * 60_000 + ")",
    ],
    ids=["repeat", "endless repeat", "nested repeats", "join", "sub-queries", "long list"],
)
def test_a_query_that_would_never_end_is_refused(text: str) -> None:
    with pytest.raises(CosmosError) as caught:
        ask(text)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "expression",
    [
        "REPLACE(c.text, 'a', c.text)",
        "CONCAT(" + ", ".join(["c.text"] * 1000) + ")",
        " || ".join(["c.text"] * 200),
        "STRINGJOIN(ARRAY(SELECT VALUE 'x' FROM n IN c.numbers), c.text)",
    ],
    ids=["replace", "concat", "operator", "join"],
)
def test_a_text_that_would_fill_all_memory_is_undefined(expression: str) -> None:
    assert ask(f"SELECT VALUE {expression} FROM c") == []


@pytest.mark.filterwarnings("error")
def test_a_set_of_a_like_pattern_may_hold_two_hyphens() -> None:
    assert ask("SELECT VALUE '-' LIKE '[a--z]' FROM c") == [True]


async def test_what_expired_before_the_time_to_live_was_switched_off_stays_expired(
    server: CosmosServer, database: DatabaseProxy
) -> None:
    container = await database.create_container("short", PartitionKey("/pk"), default_ttl=5)
    await container.create_item({"id": "a", "pk": "p"})
    server.account.clock.advance(6)
    await database.replace_container(container, PartitionKey("/pk"))
    assert [row async for row in container.query_items("SELECT * FROM c", partition_key="p")] == []
