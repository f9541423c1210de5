"""What fuzzing and the model found once: inputs that took all memory, or time, or were answered wrongly."""

from __future__ import annotations

from itertools import islice
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from azure.cosmos import PartitionKey

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.operations.queries import filter_resources
from core.local.cosmos.operations.targets import logical_partition
from core.local.cosmos.sql.evaluate import CONTEXT
from core.local.cosmos.sql.paging import MAX_PAGE_SECONDS, Reading, Resume, decode
from core.local.cosmos.sql.program import compile_query
from core.local.cosmos.sql.signature import MAX_SECONDS, Context
from core.local.cosmos.state.transaction import Transaction
from tests.local_cosmos.raw import DOCS, stored

if TYPE_CHECKING:
    from azure.cosmos.aio import DatabaseProxy

    from core.local.cosmos import CosmosServer
    from tests.local_cosmos.raw import RawContainer

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
        "SELECT VALUE 1 FROM c WHERE c.text LIKE '%" + "a" * 400 + "_" * 400 + "b%'",
    ],
    ids=["repeat", "endless repeat", "nested repeats", "join", "sub-queries", "long list", "like"],
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


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(("depth", "taken"), [(127, True), (128, False), (300, False), (1000, False)])
async def test_a_document_is_nested_128_levels_deep_at_most(
    raw: RawContainer, depth: int, *, batch: bool, taken: bool
) -> None:
    body = '{"id": "a", "pk": "p", "x": ' + "[" * depth + "]" * depth + "}"
    if batch:
        headers = {"x-ms-documentdb-partitionkey": '["p"]', "x-ms-cosmos-is-batch-request": "True"}
        operation = f'[{{"operationType": "Upsert", "resourceBody": {body}}}]'
        answer = await raw.wire.send("POST", DOCS, headers, operation.encode())
        assert answer.status == (200 if taken else 207)
    else:
        answer = await raw.wire.send("POST", DOCS, {"x-ms-documentdb-partitionkey": '["p"]'}, body.encode())
        assert answer.status == (201 if taken else 400)
    found = await raw.query("SELECT VALUE [[c]] FROM c")
    assert (found.status, len(found.json["Documents"])) == (200, int(taken))


def test_a_query_over_resources_that_nests_its_results_too_deeply_is_refused() -> None:
    with pytest.raises(CosmosError) as caught:
        ask("SELECT VALUE " + "[" * 260 + "]" * 260 + " FROM c")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "text",
    [
        "SELECT VALUE 1 FROM c",
        "SELECT VALUE 1 FROM x IN c.numbers",
        "SELECT VALUE UPPER('a')",
        "SELECT VALUE [1] = [2]",
        "SELECT VALUE [1] IN (['a'], [2])",
        "SELECT DISTINCT VALUE 1",
    ],
)
def test_a_query_is_refused_as_soon_as_it_has_had_its_time(text: str) -> None:
    late = {CONTEXT: Context(0, began=monotonic() - MAX_SECONDS)}
    with pytest.raises(CosmosError, match="longer than 10 seconds"):
        compile_query(text).rows(late, [DOCUMENT])


def test_functions_within_functions_look_at_the_time_between_them() -> None:
    calls = 100
    text = "SELECT VALUE " + "SETUNION(c.a, " * calls + "c.a" + ")" * calls + " FROM c"
    context = Context(0, began=monotonic() - MAX_SECONDS + 0.2)
    began = thread_time()
    with pytest.raises(CosmosError, match="longer than 10 seconds"):
        compile_query(text).rows({CONTEXT: context}, [{"a": list(range(20_000))}])
    assert thread_time() - began < 1


def test_quick_matches_do_not_use_up_what_is_there_for_slow_ones() -> None:
    context = Context(0, patience=0.3)
    query = compile_query("SELECT VALUE COUNT(1) FROM c WHERE REGEXMATCH(c.id, '^a+$') AND c.id LIKE 'a%'")
    began = thread_time()
    assert query.rows({CONTEXT: context}, [{"id": "aaa"}] * 150_000) == [150_000]
    assert thread_time() - began > 0.3


@pytest.mark.parametrize(
    "text",
    [
        "SELECT VALUE c.text FROM c JOIN n IN c.numbers",
        "SELECT VALUE {'a': ARRAY(SELECT VALUE c.text FROM n IN c.numbers)} FROM c",
    ],
    ids=["rows", "one row"],
)
async def test_results_that_would_fill_all_memory_are_refused(raw: RawContainer, text: str) -> None:
    await raw.create("a", text="x" * 200_000, numbers=list(range(1000)))
    answer = await raw.query(text)
    assert answer.status == 400
    assert "too large" in answer.json["message"]


@pytest.mark.parametrize("text", ["SELECT * FROM c", "SELECT * FROM c ORDER BY c.id", "SELECT VALUE [c, c] FROM c"])
async def test_a_page_without_a_size_holds_four_megabytes_and_one_result(raw: RawContainer, text: str) -> None:
    for number in range(6):
        await raw.create(str(number), text="x" * 1_500_000)
    headers = {"x-ms-max-item-count": "-1", "x-ms-documentdb-partitionkey": '["p"]'}
    found, sizes = 0, []
    while True:
        answer = await raw.query(text, headers=headers)
        found += len(answer.json["Documents"])
        sizes.append(len(answer.body))
        if "x-ms-continuation" not in answer.headers:
            break
        headers["x-ms-continuation"] = answer.headers["x-ms-continuation"]
    assert found == 6
    assert max(sizes) < 8_000_000
    assert len(sizes) >= 2


async def test_a_long_search_ends_its_page_early(server: CosmosServer, raw: RawContainer) -> None:
    for number in range(5):
        await raw.create(str(number))
    container = stored(server)
    target = logical_partition(("p",), container)
    program, resume, found = compile_query("SELECT VALUE c.id FROM c WHERE c.id = '4'"), Resume(), []
    pages = 0
    while True:
        late = {CONTEXT: Context(0, began=monotonic() - 2 * MAX_PAGE_SECONDS)}
        page = Reading(program, late, target, 100, resume, 1024).page()
        found += page.rows
        pages += 1
        if page.token is None:
            break
        resume = decode(page.token)
    assert (pages, found) == (5, [b'"4"'])


NINES = "9" * 5000


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (DOCS, {"a-im": "Incremental Feed", "if-none-match": f'"{NINES}"'}, 400),
        (DOCS, {"a-im": "Incremental Feed", "if-modified-since": f"Mon, {'9' * 30} Jan 2020 00:00:00 GMT"}, 400),
        (["dbs"], {"x-ms-continuation": NINES}, 200),
        (["dbs", "wire", "colls", "raw", "pkranges"], {"if-none-match": f'"RID-{NINES}"'}, 200),
    ],
    ids=["feed position", "feed time", "listing", "ranges"],
)
async def test_a_number_of_too_many_digits_is_none(
    server: CosmosServer, raw: RawContainer, path: list[str], headers: dict[str, str], status: int
) -> None:
    rid = stored(server).properties["_rid"]
    sent = {name: value.replace("RID", rid) for name, value in headers.items()}
    answer = await raw.wire.send("GET", path, {"x-ms-documentdb-partitionkey": '["p"]', **sent})
    assert answer.status == status


@pytest.mark.parametrize(
    "patch",
    [
        {"operations": [{"op": "add", "path": f"/list/{NINES}", "value": 1}]},
        {"operations": [{"op": "set", "path": "/n", "value": 1}], "condition": "from c where c.id = @id"},
    ],
    ids=["index", "parameter"],
)
async def test_a_patch_that_cannot_be_is_refused(raw: RawContainer, patch: dict[str, Any]) -> None:
    await raw.create("a", list=[1])
    headers = {"x-ms-documentdb-partitionkey": '["p"]'}
    assert (await raw.wire.send("PATCH", [*DOCS, "a"], headers, orjson.dumps(patch))).status == 400


async def test_the_condition_of_a_patch_is_told_the_time_of_the_account(
    server: CosmosServer, raw: RawContainer
) -> None:
    await raw.create("a")
    server.account.clock.advance(1_000_000)
    patch: dict[str, Any] = {
        "operations": [{"op": "set", "path": "/n", "value": 1}],
        "condition": "from c where GetCurrentTimestamp() > (c._ts + 999999) * 1000",
    }
    headers = {"x-ms-documentdb-partitionkey": '["p"]'}
    assert (await raw.wire.send("PATCH", [*DOCS, "a"], headers, orjson.dumps(patch))).status == 200


async def test_batches_that_fail_leave_nothing_behind(server: CosmosServer, raw: RawContainer) -> None:
    await raw.create("a")
    partition = stored(server).partition_of(stored(server).key_definition.epk(("p",)))
    operations: list[dict[str, Any]] = [{"operationType": "Delete", "id": "a"}]
    operations += [{"operationType": "Create", "resourceBody": {"id": str(n), "pk": "p"}} for n in range(9)]
    operations += [{"operationType": "Read", "id": "missing"}]
    for _ in range(20):
        assert (await raw.batch(operations)).status == 207
    assert partition._rids == [document.rid for document in partition.by_rid.values()]
    assert [document.id for document in partition.scan()] == ["a"]


async def test_a_page_of_a_large_logical_partition_costs_no_more_than_one_of_a_small(
    server: CosmosServer, raw: RawContainer
) -> None:
    container = stored(server)
    for number in range(200):
        transaction = Transaction(server.account, container, ("p",))
        for place in range(100):
            transaction.create({"id": f"{number}-{place}", "pk": "p"})
        transaction.commit()
    await raw.upsert("0-0", "q")
    await raw.upsert("0-1")  # the order is that of creation, whatever was replaced since
    target = logical_partition(("p",), container)
    [partition] = target.partitions
    numbers = [document.rid for document in target.documents()]
    assert numbers == sorted(document.rid for document in partition.logical[b'["p"]'].values())
    began = thread_time()
    pages = [[d.id for d in islice(target.documents_in(partition, after), 2)] for after in numbers[:200]]
    assert pages[0] == ["0-1", "0-2"]
    assert thread_time() - began < 0.2
