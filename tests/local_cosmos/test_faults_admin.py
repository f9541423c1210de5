"""The admin endpoint: what can be done in process can be done over HTTP, by whoever has the key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from core.local.cosmos.faults import (
    Applied,
    Budget,
    ByTime,
    Constant,
    Cut,
    Delay,
    Down,
    Every,
    Hold,
    Lag,
    LogNormal,
    Match,
    Refuse,
    Rule,
    Uniform,
)
from core.local.cosmos.faults.client import FaultsClient, FaultsError
from tests.local_cosmos.raw import stored, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.local.cosmos import CosmosServer
    from core.local.cosmos.faults import Faults
    from tests.local_cosmos.raw import RawContainer

RULES = [
    Rule(do=Refuse(status=429, retry_after_ms=5), on=Match(operations={"create", "batch"}), every=Every(first=1, of=2)),
    Rule(do=Budget(ru_per_second=100, burst=10, per="container"), on=Match(database="d", container="c")),
    Rule(do=Delay(duration=LogNormal(median=0.1, sigma=1.5)), probability=0.25, skip=3, times=2, per="subject"),
    Rule(do=Delay(duration=Uniform(least=0.1, most=0.2), moment="after"), on=Match(partition_key=("a", 1, True, None))),
    Rule(do=Hold(client="waits", seconds=3.5), on=Match(id="x", header="If-Match")),
    Rule(do=Cut(moment="middle"), name="cut.1"),
    Rule(do=Down(), on=Match(range_id="0")),
    Rule(do=Lag(behind=ByTime(duration=Constant(seconds=2)))),
]


@pytest_asyncio.fixture
async def remote(server: CosmosServer) -> AsyncIterator[FaultsClient]:
    async with FaultsClient(server.endpoint, server.key) as client:
        yield client


def test_every_rule_reads_the_same_as_json() -> None:
    for rule in RULES:
        again = Rule.model_validate_json(rule.model_dump_json())
        assert again == rule
        key = again.on.partition_key or ()
        assert [type(part) for part in key] == [type(part) for part in rule.on.partition_key or ()]


async def test_rules_are_listed_added_counted_and_removed(
    faults: Faults, raw: RawContainer, remote: FaultsClient
) -> None:
    added = [await remote.add(rule) for rule in RULES]
    assert [rule.name for rule in added] == [*[f"rule-{n}" for n in range(1, 6)], "cut.1", "rule-6", "rule-7"]
    assert await remote.rules() == added == faults.rules
    assert [rule.model_copy(update={"name": RULES[n].name}) for n, rule in enumerate(added)] == RULES
    await remote.clear()
    assert await remote.rules() == []
    await remote.set_seed(77)
    assert (await remote.seed(), faults.seed) == (77, 77)
    await remote.add(Rule(do=Refuse(status=503), name="down", times=2))
    assert [(await raw.read("a")).status for _ in range(3)] == [503, 503, 404]
    assert await remote.injected() == {"down": 2}
    assert await remote.remove("down") == 2
    assert await remote.injected() == {"down": 2}


async def test_no_fault_hits_the_admin_endpoint(faults: Faults, raw: RawContainer, remote: FaultsClient) -> None:
    for fault in (Delay(duration=Constant(seconds=5)), Refuse(status=503), Cut()):
        faults.add(Rule(do=fault))
    async with asyncio.timeout(4):
        assert len(await remote.rules()) == 3
        await remote.clear()
    assert (await raw.read("a")).status == 404


async def test_held_requests_are_seen_released_and_dropped(
    server: CosmosServer, raw: RawContainer, remote: FaultsClient
) -> None:
    await remote.add(Rule(do=Hold(client="timeout"), name="hold", on=Match(operations={"create"})))
    for id_ in "abcd":
        assert (await raw.create(id_)).status == 408
    held = await remote.held()
    assert [(h["rule"], h["ids"], h["outcome"]) for h in held] == [
        ("hold", [id_], {"kind": "waiting"}) for id_ in "abcd"
    ]
    applied = {"kind": "applied", "status": 201, "substatus": 0}
    assert await remote.release(held[1]["id"]) == applied
    assert await remote.drop(held[0]["id"]) == {"kind": "dropped"}
    assert await remote.release_all() == [applied, applied]
    assert server.faults.held["2"].outcome == Applied(201, 0)
    assert {document.id for document in stored(server).documents()} == {"b", "c", "d"}


async def test_the_clock_moves_and_partitions_split(
    server: CosmosServer, raw: RawContainer, remote: FaultsClient
) -> None:
    before = server.account.clock.now()
    assert 3599 <= await remote.advance_clock(3600) - before <= 3605
    assert -5 <= await remote.advance_clock(-3600) - before <= 5
    assert await remote.split("wire", "raw", "1") == ["2", "3"]
    ranges = await raw.wire.send("GET", ["dbs", "wire", "colls", "raw", "pkranges"], {})
    assert [found["id"] for found in ranges.json["PartitionKeyRanges"]] == ["0", "2", "3"]
    for arguments, status in ((("wire", "raw", "1"), 410), (("wire", "none"), 404)):
        with pytest.raises(FaultsError) as error:
            await remote.split(*arguments)
        assert error.value.status == status


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer x", "Basic {key}", "Bearer {key}x", "Bearer \xff", "{key}"]
)
async def test_nothing_is_told_without_the_key(server: CosmosServer, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.replace("{key}", server.key)}
    async with aiohttp.ClientSession() as session:
        for method, path in (("GET", "faults"), ("POST", "clock"), ("GET", "nonsense")):
            async with session.request(method, f"{server.endpoint}_crossfeed/{path}", headers=headers) as answer:
                assert answer.status == 401


BAD: list[tuple[str, str, Any, list[str]]] = [
    ("POST", "faults", "{", ["body"]),
    ("POST", "faults", [], ["body"]),
    ("POST", "faults", {}, ["do: Field required"]),
    ("POST", "faults", {"do": {"kind": "explode"}}, ["do", "'refuse'", "'budget'", "'lag'"]),
    ("POST", "faults", {"do": {"kind": "refuse", "status": 200}}, ["do.refuse.status", "greater than or equal to 400"]),
    ("POST", "faults", {"do": {"kind": "cut", "moment": "never"}}, ["do.cut.moment", "'before', 'after' or 'middle'"]),
    ("POST", "faults", {"do": {"kind": "down"}, "on": {"operations": ["jump"]}}, ["on.operations", "'create'"]),
    ("POST", "faults", {"do": {"kind": "down"}, "probability": 1.5}, ["probability", "less than or equal to 1"]),
    ("POST", "faults", {"do": {"kind": "down"}, "often": 1}, ["often"]),
    ("POST", "faults", {"do": {"kind": "down"}, "name": "a/b"}, ["name", "pattern"]),
    ("POST", "faults", {"do": {"kind": "down"}, "every": {"first": 3, "of": 2}}, ["every", "above of"]),
    ("POST", "faults", '{"do": {"kind": "budget", "ru_per_second": NaN, "burst": 1}}', ["ru_per_second"]),
    ("POST", "faults", {"do": {"kind": "down"}, "name": "taken"}, ["name", "'taken'"]),
    ("PUT", "seed", {"seed": -1}, ["seed", "greater than or equal to 0"]),
    ("POST", "clock", {"advance": 1e300}, ["advance", "less than or equal to"]),
    ("POST", "clock", {"advance": "soon"}, ["advance", "valid number"]),
    ("POST", "splits", {"database": "d"}, ["container: Field required"]),
    ("POST", "splits", {"database": "wire", "container": "raw", "boundary": "ZZ"}, ["boundary", "pattern"]),
    ("POST", "splits", {"database": "wire", "container": "raw", "boundary": "3F"}, ["'3F'"]),
]


async def test_bad_input_is_refused_by_its_name(server: CosmosServer, faults: Faults, raw: RawContainer) -> None:
    taken = faults.add(Rule(do=Down(), name="taken"))
    headers = {"authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for method, path, body, told in BAD:
            sent: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
            async with session.request(method, f"{server.endpoint}_crossfeed/{path}", **sent) as answer:
                message = (await answer.json())["message"]
                assert answer.status == 400, (body, message)
                for words in told:
                    assert words in message, (body, message)
        for method, path, status in [
            ("GET", "", 404),
            ("GET", "nonsense", 404),
            ("PATCH", "faults", 405),
            ("GET", "held/1", 405),
            ("POST", "held/1", 404),
            ("DELETE", "faults/none", 404),
        ]:
            async with session.request(method, f"{server.endpoint}_crossfeed/{path}") as answer:
                assert answer.status == status, (method, path)
    assert faults.rules == [taken]


async def test_a_fault_of_a_server_under_a_client_that_waits_is_seen_from_outside(
    faults: Faults, raw: RawContainer, remote: FaultsClient
) -> None:
    await remote.add(Rule(do=Hold(client="waits"), name="hold"))
    reading = asyncio.create_task(raw.read("a"))
    await until(lambda: faults.log)
    assert await remote.injected() == {"hold": 1}
    assert await remote.release_all() == [{"kind": "applied", "status": 404, "substatus": 0}]
    assert (await reading).status == 404
