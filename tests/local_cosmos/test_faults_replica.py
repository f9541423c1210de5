"""Replicas that are behind, and clocks that jump: reads go back in time, what is stored does not."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.local.cosmos.errors import CosmosError
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
from core.local.cosmos.faults.replicas import remember
from core.local.cosmos.operations import feed
from core.local.cosmos.state import past as past_module
from core.local.cosmos.state.account import Account
from core.local.cosmos.state.past import Past
from core.local.cosmos.state.transaction import Transaction
from tests.local_cosmos.raw import keys_by_range, stored

if TYPE_CHECKING:
    import pytest
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import PhysicalPartition
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


def test_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_module, "MAX_CHANGES", 20)
    container, account = fresh()
    partition = container.partitions[0]
    partition.past = past = Past(partition.lsn)
    for n in range(100):
        write(account, container, "p", [("upsert", "a", n)])
    assert len(past._commits) == 20
    assert past.floor == partition.lsn - 20


def fresh() -> tuple[Container, Account]:
    account = Account()
    account.create_database({"id": "d"}, None, None)
    key = {"paths": ["/pk"], "kind": "Hash", "version": 2}
    properties = {"id": "c", "partitionKey": key, "defaultTtl": -1, "uniqueKeyPolicy": {"uniqueKeys": [UNIQUE]}}
    return account.create_container("d", properties, None, None), account


UNIQUE = {"paths": ["/u"]}
Part = tuple[str, str, int]


def write(account: Account, container: Container, key: str, parts: list[Part]) -> None:
    transaction = Transaction(account, container, (key,))
    try:
        for kind, id_, n in parts:
            if kind == "delete":
                transaction.delete(id_)
            elif kind == "rename":
                transaction.replace(id_, {"id": id_ + "'", "pk": key, "n": n, "u": n})
            else:
                body = {"id": id_, "pk": key, "n": n, "u": n}
                transaction.upsert({**body, "ttl": 10} if kind == "expiring" else body)
        transaction.commit()
    except CosmosError:
        transaction.rollback()


def seen(partition: PhysicalPartition, now: float) -> list[Any]:
    """Return all that can be read, without what has expired."""
    pages = [feed.latest_versions(partition, feed.FeedQuery(after, limit=1 << 30)) for after in range(partition.lsn)]
    scanned = list(partition.scan())
    dead = {b'%b,"_lsn":%d}' % (d.raw[:-1], d.lsn) for d in scanned if d.expires is not None and d.expires <= now}
    alive = [d for d in scanned if d.expires is None or d.expires > now]
    by_key = {(d.key, d.id): d.raw for ds in partition.logical.values() for d in ds.values() if d in alive}
    return [
        partition.lsn,
        [d.raw for d in alive],
        by_key,
        [[item for item in page.items if item not in dead] for page in pages],
        [page.lsn for page in pages],
        [(entry.lsn, entry.old, entry.new, entry.expired) for entry in partition.history_after(0)],
    ]


part = st.tuples(st.sampled_from(["upsert", "expiring", "delete", "rename"]), st.sampled_from(["a", "b"]))
step = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(["p", "q"]), st.lists(part, min_size=1, max_size=3)),
    st.tuples(st.just("advance"), st.integers(1, 8)),
    st.tuples(st.just("split")),
    st.tuples(st.just("look"), st.integers(0, 6)),
)


class Witness:
    """Remembers all states of a container, and compares what is shown as its past to them."""

    def __init__(self) -> None:
        self.container, self.account = fresh()
        self.container.keeps_history = True
        self.account.clock.now = lambda: 1_000_000.0 + self.account.clock.offset  # type: ignore[method-assign]
        remember(self.container)
        self.states: dict[tuple[str, int], list[Any]] = {}
        self.note()

    def note(self) -> None:
        self.container.expire()
        for partition in self.container.partitions:
            self.states.setdefault((partition.id, partition.lsn), seen(partition, 0.0))

    def compare(self, partition: PhysicalPartition, lsn: int) -> None:
        known = self.states.get((partition.id, lsn))
        if known is None or lsn == partition.lsn:
            return
        assert partition.past is not None
        now = self.account.clock.now()
        present = seen(partition, now)
        live = [(d, d.live, d.lsn) for d in partition.by_rid.values()]
        then = seen(partition.past.view(partition, lsn, now), now)
        expired = {raw for raw in known[1] if raw not in then[1]}
        assert all(b'"ttl":10' in raw for raw in expired)
        assert then[0] == lsn
        assert then[1] == [raw for raw in known[1] if raw not in expired]
        assert then[2] == {name: raw for name, raw in known[2].items() if raw not in expired}
        gone = tuple(raw[:-1] for raw in expired)
        assert then[3] == [[item for item in items if not (gone and item.startswith(gone))] for items in known[3]]
        assert then[4:] == known[4:]
        assert seen(partition, now) == present
        assert [(d, d.live, d.lsn) for d in partition.by_rid.values()] == live


@settings(max_examples=60, deadline=None)
@given(st.lists(step, min_size=3, max_size=14))
def test_every_earlier_state_is_shown_as_it_was_and_the_present_stays(script: list[Any]) -> None:
    witness = Witness()
    container = witness.container
    for n, (kind, *arguments) in enumerate(script):
        match kind:
            case "write":
                key, parts = arguments
                write(witness.account, container, key, [(what, id_, n) for what, id_ in parts])
            case "advance":
                witness.account.clock.advance(arguments[0])
            case "split":
                container.split(container.partitions[0].id)
            case "look":
                for partition in container.partitions:
                    witness.compare(partition, partition.lsn - arguments[0])
        witness.note()
    for partition in container.partitions:
        for lsn in range(1, partition.lsn):
            witness.compare(partition, lsn)


def test_an_earlier_state_that_was_shown_already_is_shown_again_after_a_change() -> None:
    witness = Witness()
    for n, id_ in enumerate("abb"):
        write(witness.account, witness.container, "p", [("upsert", id_, n)])
        witness.note()
    partition = witness.container.partitions[0]
    lsn = partition.lsn - 1
    for n in range(3, 6):
        witness.compare(partition, lsn)
        write(witness.account, witness.container, "p", [("upsert", "a", n)])
        witness.note()


def test_an_earlier_state_that_was_shown_already_outlives_a_transaction_that_is_undone() -> None:
    witness = Witness()
    for n, (key, id_) in enumerate([("q", "b"), ("p", "a")]):
        write(witness.account, witness.container, key, [("upsert", id_, n)])
        witness.note()
    partition = witness.container.partitions[0]
    witness.compare(partition, partition.lsn - 1)
    write(witness.account, witness.container, "q", [("upsert", "b", 2), ("upsert", "a", 2)])  # against the unique key
    witness.note()
    witness.compare(partition, partition.lsn - 1)


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
