"""Requests that are late, held back or cut off: what took effect, and what the client gets to see."""

from __future__ import annotations

import asyncio
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

import aiohttp
import pytest
from azure.core.exceptions import ServiceRequestError, ServiceResponseError

from core.local.cosmos import CosmosServer
from core.local.cosmos.faults import (
    Applied,
    Constant,
    Cut,
    Delay,
    Dropped,
    Hold,
    LogNormal,
    Match,
    Refuse,
    Rule,
    Uniform,
    Waiting,
)
from tests.local_cosmos.model_wire import signature
from tests.local_cosmos.raw import DOCS, raw_container, stored, until

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos.faults import Faults
    from tests.local_cosmos.raw import RawContainer

CREATES = Match(operations={"create"})


def there(server: CosmosServer) -> set[str]:
    return {document.id for document in stored(server).documents()}


async def test_a_cut_before_the_effect_leaves_nothing_and_one_after_it_leaves_the_write(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    for number, (moment, left) in enumerate([("before", False), ("after", True), ("middle", True)]):
        faults.add(Rule(do=Cut(moment=moment), on=CREATES, name=moment))
        with pytest.raises(aiohttp.ClientError):
            await raw.create(str(number))
        assert (str(number) in there(server)) is left
        faults.remove(moment)
    batch = [{"operationType": "Create", "resourceBody": {"id": "batched", "pk": "p"}}]
    faults.add(Rule(do=Cut(moment="after"), on=Match(operations={"batch", "query"})))
    for request in (raw.batch(batch), raw.query()):
        with pytest.raises(aiohttp.ClientError):
            await request
    assert "batched" in there(server)
    assert faults.injected == {"before": 1, "after": 1, "middle": 1, "rule-1": 2}


async def open_to(server: CosmosServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.host, server.port)


def create_bytes(server: CosmosServer, id_: str) -> bytes:
    body = b'{"id":"%b","pk":"p","text":"%b"}' % (id_.encode(), b"x" * 1000)
    fields = {
        "host": "x",
        "content-length": str(len(body)),
        "x-ms-documentdb-partitionkey": '["p"]',
        **signature(server.key, "POST", DOCS),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /{'/'.join(DOCS)} HTTP/1.1\r\n{head}\r\n".encode() + body


async def test_an_answer_is_cut_in_its_middle(server: CosmosServer, faults: Faults, raw: RawContainer) -> None:
    faults.add(Rule(do=Cut(moment="middle")))
    reader, writer = await open_to(server)
    writer.write(create_bytes(server, "a"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    announced = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(await reader.read()) == announced // 2
    writer.close()
    with pytest.raises(aiohttp.ClientError):  # 204 has no body to be cut: its head is
        await raw.delete("a")
    assert there(server) == set()


async def test_what_is_pipelined_behind_a_cut_request_is_never_handled(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    faults.add(Rule(do=Cut(moment="after"), on=Match(id="b")))
    reader, writer = await open_to(server)
    writer.write(create_bytes(server, "a") + create_bytes(server, "b") + create_bytes(server, "c"))
    answers = b""
    try:
        while part := await reader.read(65_536):
            answers += part
    except ConnectionError:
        pass
    assert answers.count(b"HTTP/1.1 201 ") <= 1
    await asyncio.sleep(0.02)
    assert there(server) == {"a", "b"}
    writer.close()


async def test_no_fault_hits_what_is_never_served(server: CosmosServer, faults: Faults) -> None:
    faults.add(Rule(do=Cut()))
    reader, writer = await open_to(server)
    writer.write(b"HEAD /dbs HTTP/1.1\r\nhost: x\r\n\r\nGET /%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"405", b"400"]
    writer.close()
    assert faults.log == []


async def test_cut_connections_leave_no_trace_in_the_log(
    server: CosmosServer, faults: Faults, raw: RawContainer, caplog: pytest.LogCaptureFixture
) -> None:
    for moment in ("before", "after", "middle"):
        faults.add(Rule(do=Cut(moment=moment), times=1))
        with pytest.raises(aiohttp.ClientError):
            await raw.create("a")
    assert caplog.messages == []


async def test_the_sdk_says_when_its_connection_was_cut(
    server: CosmosServer, faults: Faults, container: ContainerProxy
) -> None:
    faults.add(Rule(do=Cut(moment="after"), on=CREATES, name="cut"))
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        await container.create_item({"id": "a", "pk": "p"})
    assert faults.injected["cut"] >= 1
    assert (await container.read_item("a", "p"))["id"] == "a"


async def test_a_delay_is_before_the_effect_or_after_it(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    for moment, id_, early in [("before", "a", False), ("after", "b", True)]:
        faults.add(Rule(do=Delay(duration=Constant(seconds=0.2), moment=moment)))
        began = monotonic()
        writing = asyncio.create_task(raw.create(id_))
        await until(lambda: faults.log)
        assert (id_ in there(server)) is early
        assert (await writing).status == 201
        assert monotonic() - began >= 0.2
        assert id_ in there(server)
        faults.clear()


async def test_a_removed_rule_still_delays_what_it_has_begun_to_and_nothing_else(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    faults.add(Rule(do=Delay(duration=Constant(seconds=0.3)), name="slow"))
    faults.add(Rule(do=Refuse(status=503), name="then"))
    sleeping = asyncio.create_task(raw.create("a"))
    await until(lambda: faults.log)
    faults.remove("slow")
    faults.remove("then")
    assert (await raw.create("b")).status == 201
    assert not sleeping.done()
    assert (await sleeping).status == 503


async def test_nothing_of_what_was_begun_is_left_when_all_is_cleared(
    server: CosmosServer, faults: Faults, raw: RawContainer, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add(Rule(do=Delay(duration=Constant(seconds=0.25)), on=Match(id="slow")))
    faults.add(Rule(do=Hold(seconds=0.25, client="timeout"), on=Match(id="held")))
    slow = asyncio.create_task(raw.create("slow"))
    assert (await raw.create("held")).status == 408
    await until(lambda: len(faults.log) == 2)
    faults.clear()
    with pytest.raises(aiohttp.ClientError):
        await slow
    await asyncio.sleep(0.3)
    assert there(server) == set()
    assert (list(faults.held), faults.injected, faults.log) == ([], {}, [])
    assert caplog.messages == []  # a timer that was left behind would end in an error


async def test_a_delayed_write_takes_effect_though_its_client_has_gone(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    faults.add(Rule(do=Delay(duration=Constant(seconds=0.15)), on=CREATES))
    writing = asyncio.create_task(raw.create("a"))
    await until(lambda: faults.log)
    writing.cancel()
    assert there(server) == set()
    await until(lambda: there(server) == {"a"})


def test_durations_follow_their_distributions() -> None:
    random = Random(1)
    lognormal = sorted(LogNormal(median=0.1, sigma=1.0).draw(random) for _ in range(2001))
    assert 0.09 < lognormal[1000] < 0.11
    assert lognormal[1900] > 0.3
    uniform = [Uniform(least=0.1, most=0.2).draw(random) for _ in range(1000)]
    assert min(uniform) >= 0.1
    assert max(uniform) <= 0.2
    assert 0.14 < sum(uniform) / 1000 < 0.16
    assert LogNormal(median=86_400, sigma=10).draw(Random(2)) <= 86_400


async def test_a_held_write_is_applied_when_it_is_released_against_what_is_there_then(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    created = await raw.create("a", n=1)
    for hold in (Hold(client="cut"), Hold(client="timeout"), Hold(client="waits")):
        faults.add(Rule(do=hold, on=Match(header="if-match"), times=1))
    etag = {"if-match": created.headers["etag"]}
    with pytest.raises(aiohttp.ClientError):
        await raw.replace("a", n=2, headers=etag)
    assert (await raw.replace("a", n=3, headers=etag)).status == 408
    waiting = asyncio.create_task(raw.delete("a", headers=etag))
    await until(lambda: len(list(faults.held)) == 3)
    assert [held.outcome for held in faults.held] == [Waiting()] * 3
    assert (await raw.read("a")).json["n"] == 1
    assert faults.held.release("2") == Applied(200, 0)
    assert (await raw.read("a")).json["n"] == 3
    assert faults.held.release_all() == [Applied(412, 0), Applied(412, 0)]
    assert (await waiting).status == 412
    assert faults.held.release("2") == Applied(200, 0)
    assert faults.held["1"].ids == ("a",)
    assert (await raw.read("a")).json["n"] == 3
    with pytest.raises(KeyError):
        faults.held.release("9")


async def test_a_held_write_is_applied_by_itself_after_its_time(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    """It takes the time of then: a document that has expired meanwhile is not there."""
    faults.add(Rule(do=Hold(client="timeout", seconds=0.3), on=Match(operations={"replace", "batch"})))
    await raw.create("short", ttl=5)
    await raw.create("long")
    assert (await raw.replace("short")).status == 408
    assert (await raw.replace("long")).status == 408
    operations = [{"operationType": "Create", "resourceBody": {"id": id_, "pk": "p"}} for id_ in ("b", "c")]
    assert (await raw.batch(operations)).status == 408
    faults.remove("rule-1")
    server.account.clock.advance(1000)
    assert there(server) == {"short", "long"}
    await until(lambda: all(held.outcome != Waiting() for held in faults.held))
    assert [held.outcome for held in faults.held] == [Applied(404, 0), Applied(200, 0), Applied(200, 0)]
    assert there(server) == {"long", "b", "c"}
    assert (await raw.read("long")).json["_ts"] >= server.account.clock.now() - 2


async def test_a_held_request_may_be_dropped(server: CosmosServer, faults: Faults, raw: RawContainer) -> None:
    faults.add(Rule(do=Hold(client="waits", seconds=0.2), on=CREATES))
    waiting = asyncio.create_task(raw.create("a"))
    await until(lambda: list(faults.held))
    assert faults.held.drop("1") == Dropped()
    with pytest.raises(aiohttp.ClientError):
        await waiting
    await asyncio.sleep(0.25)
    assert there(server) == set()
    assert faults.held.release("1") == Dropped()


async def test_a_stop_drops_what_is_held_and_ends_what_sleeps() -> None:
    async with CosmosServer() as server, raw_container(server) as raw:
        server.faults.add(Rule(do=Hold(client="timeout", seconds=60), on=Match(id="held")))
        server.faults.add(Rule(do=Hold(client="waits"), on=Match(id="waiting")))
        server.faults.add(Rule(do=Delay(duration=Constant(seconds=60)), on=Match(id="sleeping")))
        assert (await raw.create("held")).status == 408
        gone = asyncio.create_task(raw.create("sleeping"))
        kept = [asyncio.create_task(raw.create(id_)) for id_ in ("waiting", "sleeping")]
        await until(lambda: len(server.faults.log) == 4)
        gone.cancel()
        began = monotonic()
        await server.stop()
        assert monotonic() - began < 5.0
        for task in kept:
            with pytest.raises(aiohttp.ClientError):
                await task
        assert [held.outcome for held in server.faults.held] == [Dropped(), Dropped()]
        assert there(server) == set()
