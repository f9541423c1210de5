"""Replicas that are behind, and clocks that jump: reads go back in time, what is stored does not."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from core.local.cosmos.faults import (
    ByTime,
    ByVersions,
    Constant,
    Every,
    Faults,
    Lag,
    Match,
    Rule,
)
from tests.local_cosmos.raw import keys_by_range, stored

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer
    from tests.local_cosmos.raw import RawContainer


def behind(versions: int, *, name: str = "lag", **match: Any) -> Rule:
    return Rule(do=Lag(behind=ByVersions(least=versions, most=versions)), on=Match(**match), name=name)


async def test_reads_queries_and_feed_pages_come_from_an_older_state(faults: Faults, raw: RawContainer) -> None:
    await raw.create("old", n=1)
    await raw.create("gone", n=1)
    before = await raw.feed(None)
    faults.add(behind(3))
    await raw.delete("gone")
    await raw.upsert("old", n=2)
    last = await raw.upsert("new", n=1)
    found = await raw.read("old")
    assert (found.json["n"], found.lsn) == (1, last.lsn - 3)
    assert found.headers["x-ms-session-token"] == f"0:-1#{last.lsn - 3}"
    assert (await raw.read("gone")).json["n"] == 1
    assert (await raw.read("new")).status == 404
    scoped = {"x-ms-documentdb-partitionkey": '["p"]'}
    queried = await raw.query("SELECT VALUE c.id FROM c", headers=scoped)
    assert queried.json["Documents"] == ["old", "gone"]
    assert queried.headers["x-ms-session-token"] == f"0:-1#{last.lsn - 3}"
    page = await raw.feed(None)
    assert (page.body, page.headers["etag"]) == (before.body, before.headers["etag"])
    assert faults.injected == {"lag": 5}
    faults.clear()
    assert (await raw.read("old")).json["n"] == 2
    changed = await raw.feed(page.headers["etag"])
    assert [(d["id"], d["n"]) for d in changed.json["Documents"]] == [("old", 2), ("new", 1)]


async def test_a_reader_never_goes_back_behind_its_own_position(faults: Faults, raw: RawContainer) -> None:
    faults.add(behind(2))
    lsns = [(await raw.upsert("a", n=n)).lsn for n in range(4)]
    token = {"x-ms-session-token": f"0:-1#{lsns[-1]}"}
    for answer in (
        await raw.read("a", headers=token),
        await raw.query(headers={**token, "x-ms-documentdb-partitionkey": '["p"]'}),
        await raw.feed(None, headers=token),
    ):
        assert (answer.status, answer.substatus) == (404, 1002)
    assert (await raw.read("a", headers={"x-ms-session-token": f"0:-1#{lsns[-3]}"})).json["n"] == 1
    ahead = await raw.feed(f'"{lsns[-1]}"')
    assert (ahead.status, ahead.headers["etag"]) == (304, f'"{lsns[-1]}"')
    behind_it = await raw.feed(f'"{lsns[0]}"')
    assert [d["n"] for d in behind_it.json["Documents"]] == [1]


async def test_a_replica_is_never_older_than_its_rule_and_hits_only_its_range(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    keys = keys_by_range(server)
    for key in keys.values():
        await raw.create("a", key, n=1)
    faults.add(behind(50, range_id="1"))
    assert (await raw.read("a", keys["1"])).json["n"] == 1
    assert faults.injected == {"lag": 0}
    for key in keys.values():
        await raw.upsert("a", key, n=2)
    assert [(await raw.read("a", keys[range_id])).json["n"] for range_id in "01"] == [2, 1]
    rows = await raw.query("SELECT VALUE c.n FROM c", headers={"x-ms-documentdb-partitionkeyrangeid": "1"})
    assert rows.json["Documents"] == [1]
    everything = {"x-ms-start-epk": "", "x-ms-end-epk": "FF"}
    rows = await raw.query("SELECT VALUE c.n FROM c ORDER BY c.n", headers=everything)
    assert rows.json["Documents"] == [1, 2]
    assert faults.injected == {"lag": 3}


async def test_a_replica_is_behind_by_a_time(server: CosmosServer, faults: Faults, raw: RawContainer) -> None:
    faults.add(Rule(do=Lag(behind=ByTime(duration=Constant(seconds=5)))))
    for n in range(4):
        await raw.upsert("a", n=n)
        server.account.clock.advance(2)
    assert (await raw.read("a")).json["n"] == 1


async def test_splits_keep_the_past(server: CosmosServer, faults: Faults, raw: RawContainer) -> None:
    faults.add(behind(1))
    await raw.upsert("a", n=1)
    await raw.upsert("a", n=2)
    stored(server).split("0")
    assert (await raw.read("a")).json["n"] == 1


async def test_a_replica_shows_nothing_that_has_expired(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    faults.add(behind(2))
    await raw.create("short", ttl=5)
    await raw.create("b")
    await raw.create("c")
    assert (await raw.read("short")).status == 200
    server.account.clock.advance(6)
    assert (await raw.read("short")).status == 404
    assert (await raw.read("b")).status == 200
    assert (await raw.read("c")).status == 404


async def test_a_replica_that_is_behind_shows_less_of_all_versions(faults: Faults, raw: RawContainer) -> None:
    full = {"a-im": "Full-Fidelity Feed"}
    await raw.upsert("before")
    start = await raw.feed("*", headers=full)
    faults.add(behind(1))
    for n in range(3):
        await raw.upsert("a", n=n)
    assert (await raw.feed('"1"', headers=full)).status == 400
    page = await raw.feed(start.headers["etag"], headers=full)
    assert [change["current"]["n"] for change in page.json["Documents"]] == [0, 1]
    faults.clear()
    rest = await raw.feed(page.headers["etag"], headers=full)
    assert [change["current"]["n"] for change in rest.json["Documents"]] == [2]


async def test_a_position_of_all_versions_taken_on_a_replica_holds(faults: Faults, raw: RawContainer) -> None:
    faults.add(behind(2))
    await raw.upsert("a", n=1)
    await raw.upsert("a", n=2)
    full = {"a-im": "Full-Fidelity Feed"}
    start = await raw.feed("*", headers=full)
    await raw.upsert("a", n=3)
    faults.clear()
    page = await raw.feed(start.headers["etag"], headers=full)
    assert [change["current"]["n"] for change in page.json["Documents"]] == [3]


async def test_the_sdk_reads_its_own_writes_from_a_replica_that_catches_up(
    server: CosmosServer, faults: Faults, container: ContainerProxy
) -> None:
    reads = Match(operations={"read"})
    faults.add(Rule(do=Lag(), on=reads, every=Every(first=1, of=2), name="lag"))
    for n in range(6):
        await container.upsert_item({"id": "a", "pk": "p", "n": n})
        assert (await container.read_item("a", "p"))["n"] == n
    assert faults.injected["lag"] == 6


async def test_a_clock_that_steps_back_takes_the_time_of_writes_along(server: CosmosServer, raw: RawContainer) -> None:
    first = (await raw.upsert("a")).json
    server.account.clock.advance(-100)
    second = await raw.upsert("a")
    assert first["_ts"] - 101 <= second.json["_ts"] <= first["_ts"] - 99
    page = await raw.feed(None, headers={"if-modified-since": formatdate(first["_ts"] - 1, usegmt=True)})
    assert page.status == 304


async def test_a_clock_that_jumps_makes_documents_expire(server: CosmosServer, raw: RawContainer) -> None:
    await raw.create("a", ttl=3600)
    server.account.clock.advance(3599)
    assert (await raw.read("a")).status == 200
    server.account.clock.advance(2)
    assert (await raw.read("a")).status == 404
