"""The fixture `crossfeed_cosmos`, in the tests of somebody who only installed Crossfeed; the README's example first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

INI = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""
README = Path(__file__).parents[2] / "README.md"

CONFTEST = """
import sys

import pytest

at_start = frozenset(sys.modules)  # before any test module was loaded


@pytest.fixture
def loaded_at_start():
    return at_start
"""

OWN = """
import asyncio
import threading
import time

import pytest
from azure.cosmos import PartitionKey, exceptions
from azure.cosmos.aio import CosmosClient as AsyncClient
from azure.cosmos import CosmosClient
from core.local.cosmos.faults import Match, Refuse, Rule

seen = []


def test_nothing_is_loaded_before_somebody_asks(loaded_at_start):
    assert "core.local.pytest_plugin" in loaded_at_start
    assert not {"uvicorn", "core.local.cosmos", "azure", "pydantic"} & loaded_at_start


def probed(client):  # closed while its probe runs, a client leaves a socket open
    for thread in threading.enumerate():
        if thread.name == "cosmos-endpoint-refresh":
            thread.join()
    return client


def names(cosmos):
    with probed(CosmosClient(cosmos.endpoint, cosmos.key)) as client:
        return [found["id"] for found in client.list_databases()]


@pytest.mark.parametrize("turn", range(2))
def test_every_test_has_an_empty_account_of_one_server(crossfeed_cosmos, turn):
    assert names(crossfeed_cosmos) == []
    assert crossfeed_cosmos.faults.rules == []
    assert (crossfeed_cosmos.faults.injected, crossfeed_cosmos.faults.seed) == ({}, 0)
    assert abs(crossfeed_cosmos.clock.now() - time.time()) < 60
    seen.append(crossfeed_cosmos.endpoint)
    assert len(set(seen)) == 1
    with probed(CosmosClient(crossfeed_cosmos.endpoint, crossfeed_cosmos.key)) as client:
        client.create_database("mine")
    crossfeed_cosmos.clock.advance(86_400)
    crossfeed_cosmos.faults.seed = 7
    crossfeed_cosmos.faults.add(Rule(do=Refuse(status=503)))


async def use(cosmos):
    async with AsyncClient(cosmos.endpoint, cosmos.key) as client:
        database = await client.create_database("db")
        items = await database.create_container("items", PartitionKey("/id"), default_ttl=60)
        await items.upsert_item({"id": "a"})
        assert cosmos.split("db", "items") == ["1", "2"]
        assert len([ranges async for ranges in items.read_feed_ranges(force_refresh=True)]) == 2
        cosmos.clock.advance(61)
        with pytest.raises(exceptions.CosmosResourceNotFoundError):
            await items.read_item("a", "a")


def test_async_code_without_a_plugin(crossfeed_cosmos):
    asyncio.run(use(crossfeed_cosmos))


@pytest.mark.asyncio
async def test_async_code_with_a_plugin(crossfeed_cosmos):
    await use(crossfeed_cosmos)


def test_faults_may_be_added_and_read_while_requests_run(crossfeed_cosmos):
    with CosmosClient(crossfeed_cosmos.endpoint, crossfeed_cosmos.key, retry_total=0) as client:
        items = client.create_database("db").create_container("items", PartitionKey("/id"))

        def write():
            for number in range(50):
                items.upsert_item({"id": str(number)})

        assert crossfeed_cosmos.call(threading.get_ident) != threading.get_ident()
        writer = threading.Thread(target=write)
        writer.start()
        for number in range(50):
            rule = crossfeed_cosmos.faults.add(Rule(do=Refuse(status=500), on=Match(id=f"never{number}")))
            crossfeed_cosmos.faults.remove(rule.name)
        writer.join()
        assert set(crossfeed_cosmos.faults.injected.values()) == {0}
        crossfeed_cosmos.faults.add(Rule(do=Refuse(status=400), on=Match(id="a"), name="refused"))
        with pytest.raises(exceptions.CosmosHttpResponseError):
            items.upsert_item({"id": "a"})
        assert crossfeed_cosmos.faults.injected["refused"] == 1
        assert [fault.rule for fault in crossfeed_cosmos.faults.log] == ["refused"]


def test_what_is_asked_for_wrongly_is_raised_here(crossfeed_cosmos):
    with pytest.raises(Exception, match="Owner resource does not exist"):
        crossfeed_cosmos.split("db", "items")
"""


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    """A directory with somebody's tests."""
    pytester.makeini(INI)
    return pytester


def example() -> str:
    [code] = re.findall(r"```python\n(.*?)```", README.read_text().partition("## Testing your own code")[2], re.DOTALL)
    return str(code)


def test_the_readmes_example_and_tests_of_every_kind_pass(user: pytest.Pytester) -> None:
    user.makeconftest(CONFTEST)
    user.makepyfile(test_own=OWN, test_readme=example())
    written = len(re.findall(r"^(?:async )?def test_", example(), re.MULTILINE))
    outcome = user.runpytest_subprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=7 + written)
    assert outcome.ret == 0  # nothing was left open at the end either


def test_without_the_extra_the_test_that_asks_says_what_to_install(user: pytest.Pytester) -> None:
    user.makeconftest("import sys\nsys.modules['uvicorn'] = None")
    user.makepyfile("def test_it(crossfeed_cosmos): pass\ndef test_other(): pass")
    outcome = user.runpytest_subprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=1, errors=1)
    outcome.stdout.fnmatch_lines(["*crossfeed_cosmos needs the extra 'local': pip install 'crossfeed?local?'*"])
    outcome.stdout.no_fnmatch_line("*Traceback*")
