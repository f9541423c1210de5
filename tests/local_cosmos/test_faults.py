"""Refusals on demand: which requests they hit, what they say, and that they replay."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from core.local.cosmos.faults import (
    Cut,
    Delay,
    Every,
    Faults,
    Match,
    Operation,
    Refuse,
    Rule,
    Uniform,
)
from core.local.cosmos.faults import draws as draws_module
from core.local.cosmos.faults.draws import Draws
from core.local.cosmos.faults.subject import describe
from core.local.cosmos.messages import Request
from core.local.cosmos.state.account import Account
from tests.local_cosmos.raw import DOCS, statuses

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer
    from tests.local_cosmos.raw import RawContainer


async def test_a_refusal_says_what_cosmos_db_says_and_nothing_is_done(faults: Faults, raw: RawContainer) -> None:
    for refuse, substatus, code in [
        (Refuse(status=429, retry_after_ms=25), 3200, "TooManyRequests"),
        (Refuse(status=449), 0, "RetryWith"),
        (Refuse(status=503), 0, "ServiceUnavailable"),
        (Refuse(status=408), 0, "RequestTimeout"),
        (Refuse(status=500), 0, "InternalServerError"),
        (Refuse(status=410), 1002, "Gone"),
        (Refuse(status=410, substatus=1007), 1007, "Gone"),
        (Refuse(status=403), 3, "Forbidden"),
        (Refuse(status=404, substatus=1002), 1002, "NotFound"),
        (Refuse(status=502, message='a "gate"way'), 0, "502"),
    ]:
        faults.add(Rule(do=refuse, on=Match(operations={Operation.CREATE})))
        answer = await raw.create("a")
        assert (answer.status, answer.substatus, answer.json["code"]) == (refuse.status, substatus, code)
        assert orjson.loads(answer.json["message"].removeprefix("Message: "))["Errors"][0]
        assert answer.headers.get("x-ms-retry-after-ms") == ("25" if refuse.status == 429 else None)
        assert answer.headers["x-ms-activity-id"]
        faults.clear()
    assert (await raw.read("a")).status == 404


async def test_a_refusal_after_the_effect_hides_a_write_that_took_place(faults: Faults, raw: RawContainer) -> None:
    status = 408
    refuse = Refuse(status=status, moment="after")
    faults.add(Rule(do=refuse, on=Match(operations={"create", "batch", "query"}), name="lost"))
    assert (await raw.create("a")).status == status
    operations = [{"operationType": "Create", "resourceBody": {"id": id_, "pk": "p"}} for id_ in ("b", "c")]
    assert (await raw.batch(operations)).status == status
    assert (await raw.query()).status == status
    assert statuses([await raw.read(id_) for id_ in ("a", "b", "c")]) == [200, 200, 200]
    assert faults.injected == {"lost": 3}
    assert [(i.operation, i.ids) for i in faults.log] == [("create", ("a",)), ("batch", ("b", "c")), ("query", ())]


async def test_a_rule_hits_what_it_is_aimed_at(faults: Faults, raw: RawContainer) -> None:
    operation = {"operationType": "Upsert", "resourceBody": {"id": "a", "pk": "p"}}
    for match, hit in [
        (Match(operations={"create"}), {"create"}),
        (Match(operations={"read", "feed"}), {"read", "feed"}),
        (Match(database="wire", container="raw"), {"create", "read", "feed", "batch", "other key", "query"}),
        (Match(database="another"), set()),
        (Match(container="another"), set()),
        (Match(id="a"), {"create", "read", "batch"}),
        (Match(partition_key=("p",)), {"create", "read", "feed", "batch"}),
        (Match(partition_key=("q",)), {"other key"}),
        (Match(header="X-Mark"), {"read"}),
        (Match(header="X-Mark", id="b"), set()),
    ]:
        faults.add(Rule(do=Refuse(status=503), on=match))
        answers = {
            "create": await raw.create("a"),
            "batch": await raw.batch([operation]),
            "read": await raw.read("a", headers={"x-mark": "1"}),
            "feed": await raw.feed(None),
            "other key": await raw.upsert("b", "q"),
            "query": await raw.query(),
        }
        assert {name for name, answer in answers.items() if answer.status == 503} == hit, match
        faults.clear()


@pytest.mark.parametrize(
    ("method", "path", "headers", "operation"),
    [
        ("GET", [], {}, "account"),
        ("POST", ["dbs"], {}, "create_database"),
        ("POST", ["dbs"], {"x-ms-documentdb-isquery": "True"}, "list_databases"),
        ("GET", ["dbs", "db"], {}, "read_database"),
        ("PUT", ["dbs", "db"], {}, "other"),
        ("GET", ["dbs", "db", "colls"], {}, "list_containers"),
        ("PUT", ["dbs", "wire", "colls", "raw"], {}, "replace_container"),
        ("GET", ["dbs", "wire", "colls", "raw", "pkranges"], {}, "ranges"),
        ("POST", ["dbs", "wire", "colls", "raw", "operations", "partitionkeydelete"], {}, "delete_partition"),
        ("GET", DOCS, {}, "query"),
        ("POST", DOCS, {"x-ms-cosmos-is-query-plan-request": "True"}, "query_plan"),
        ("PATCH", [*DOCS, "a"], {}, "patch"),
        ("POST", [*DOCS, "a"], {}, "other"),
        ("GET", ["offers"], {}, "offers"),
        ("GET", ["nonsense"], {}, "other"),
    ],
)
def test_every_request_is_some_operation(method: str, path: list[str], headers: dict[str, str], operation: str) -> None:
    assert describe(Request(method, path, headers, b""), Account()).operation == operation


def test_a_path_of_resource_ids_is_about_the_same_as_one_of_names() -> None:
    """Resource ids differ from run to run: a draw that depended on them would not replay."""
    account = Account()
    database = account.create_database({"id": "d"}, None, None)
    container = account.create_container("d", {"id": "c", "partitionKey": {"paths": ["/pk"]}}, None, None)
    paths = [["dbs", "d", "colls", "c", "docs"], ["dbs", database.rid, "colls", container.properties["_rid"], "docs"]]
    subjects = [describe(Request("GET", path, {}, b""), account) for path in paths]
    assert subjects[0] == subjects[1]
    assert (subjects[1].database, subjects[1].container_name) == ("d", "c")


async def test_rules_count_what_they_skip_and_how_often_they_hit(faults: Faults, raw: RawContainer) -> None:
    faults.add(Rule(do=Refuse(status=449), on=Match(operations={"upsert"}), skip=1, times=2))
    assert statuses([await raw.upsert("a") for _ in range(5)]) == [201, 449, 449, 200, 200]
    faults.clear()
    faults.add(Rule(do=Refuse(status=429), on=Match(operations={"upsert"}), every=Every(first=2, of=3)))
    assert statuses([await raw.upsert("a") for _ in range(7)]) == [429, 429, 200, 429, 429, 200, 429]
    faults.clear()
    faults.add(Rule(do=Refuse(status=449), on=Match(operations={"upsert"}), times=1, per="subject"))
    assert statuses([await raw.upsert(id_) for id_ in "abab"]) == [449, 449, 200, 201]


async def test_decisions_depend_on_the_seed_and_the_subject_and_not_on_what_happens_in_between(
    faults: Faults, raw: RawContainer
) -> None:
    async def run(order: str) -> dict[str, list[int]]:
        faults.seed = faults.seed
        found: dict[str, list[int]] = {id_: [] for id_ in "abc"}
        for id_ in order:
            found[id_].append((await raw.upsert(id_)).status // 100)
        return found

    faults.add(Rule(do=Refuse(status=503), on=Match(operations={"upsert"}), probability=0.5))
    first = await run("abc" * 12)
    assert len({tuple(found) for found in first.values()}) == 3
    assert await run("a" * 12 + "cb" * 12) == first
    faults.seed = 2
    assert await run("abc" * 12) != first


async def test_a_probability_is_a_share(faults: Faults, raw: RawContainer) -> None:
    faults.add(Rule(do=Refuse(status=503), on=Match(operations={"read"}), probability=0.3, name="some"))
    await asyncio.gather(*[raw.read(f"{number}") for number in range(200)])
    assert 40 <= faults.injected["some"] <= 80


def test_the_counters_of_subjects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws_module, "MAX_SUBJECTS", 10)
    draws = Draws(1)
    for number in range(100):
        draws.tally("rule", f"subject {number}")[0].seen += 1
    assert len(draws._tallies) == 10
    assert draws.tally("rule", "subject 99")[0].seen == 1
    assert draws.tally("rule", "subject 0")[0].seen == 0


async def test_no_rule_sees_what_an_earlier_one_has_ended(faults: Faults, raw: RawContainer) -> None:
    faults.add(Rule(do=Refuse(status=503), times=1, name="first"))
    faults.add(Rule(do=Cut(), times=1, name="second"))
    faults.add(Rule(do=Delay(duration=Uniform(most=0.001)), name="third"))
    assert (await raw.read("a")).status == 503
    assert faults.injected == {"first": 1, "second": 0, "third": 0}


async def test_a_rule_keeps_its_count_when_it_is_removed_and_loses_it_when_all_is_cleared(
    faults: Faults, raw: RawContainer
) -> None:
    rule = faults.add(Rule(do=Refuse(status=503)))
    await raw.read("a")
    assert rule.name == "rule-1"
    assert faults.rules == [rule]
    with pytest.raises(ValueError, match="rule-1"):
        faults.add(rule)
    faults.remove("rule-1")
    assert not faults.active
    assert faults.injected == {"rule-1": 1}
    assert (await raw.read("a")).status == 404
    with pytest.raises(KeyError):
        faults.remove("rule-1")
    faults.clear()
    assert (faults.injected, faults.log) == ({}, [])


async def test_the_sdk_retries_throttled_writes_after_the_time_it_is_told(
    server: CosmosServer, faults: Faults, raw: RawContainer
) -> None:
    faults.add(
        Rule(do=Refuse(status=429, retry_after_ms=15), on=Match(operations={"upsert"}), times=3, name="throttled")
    )
    async with CosmosClient(server.endpoint, server.key) as client:
        container = client.get_database_client("wire").get_container_client("raw")
        waited: list[Any] = []
        await container.upsert_item({"id": "a", "pk": "p"}, raw_response_hook=waited.append)
    assert faults.injected == {"throttled": 3}
    assert len(waited) == 4


async def test_the_sdk_meets_every_fault_and_says_so(
    server: CosmosServer, faults: Faults, container: ContainerProxy
) -> None:
    """Of the writes that it gave up, none may be half done: all took effect or none."""
    faults.add(Rule(do=Refuse(status=408, moment="after"), on=Match(operations={"create"}), probability=0.5, name="x"))
    outcomes = Counter[str]()
    for number in range(20):
        try:
            await container.create_item({"id": str(number), "pk": "p"})
            outcomes["acknowledged"] += 1
        except Exception as error:  # noqa: BLE001 - whatever the SDK makes of it
            outcomes[type(error).__name__] += 1
    assert 0 < faults.injected["x"] < 20
    assert outcomes["acknowledged"] < 20
    assert server.account.container("db", "items").partitions[0].by_rid.keys() | server.account.container(
        "db", "items"
    ).partitions[1].by_rid.keys() == set(range(1, 21))


async def test_hierarchical_keys_match_by_their_beginning(
    server: CosmosServer, faults: Faults, client: CosmosClient
) -> None:
    database = await client.create_database("tenants")
    container = await database.create_container("c", PartitionKey(["/tenant", "/user"], kind="MultiHash"))
    await container.create_item({"id": "a", "tenant": "t1", "user": "u1"})
    await container.create_item({"id": "a", "tenant": "t2", "user": "u1"})
    faults.add(Rule(do=Refuse(status=400, message="aimed"), on=Match(partition_key=["t1"])))
    await container.read_item("a", ["t2", "u1"])
    with pytest.raises(Exception, match="aimed"):
        await container.read_item("a", ["t1", "u1"])
