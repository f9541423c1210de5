"""Look-ups on real documents: old spellings, missing properties, buffered writes, tombstones and internal documents."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.envelope import internal_document
from core.errors import DocumentRefusedError
from core.identity import check_id
from core.instant import Instant
from core.query import Before, Equals, NotBefore, OneOf, Order, Query
from core.repository import EntityRepository
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Line, Note, note

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.repository import CosmosRepository


def unit(store: CosmosStore) -> CosmosUnitOfWork:
    return CosmosUnitOfWork(store, MAPPINGS, 1)


async def put(store: CosmosStore, *documents: dict[str, Any], container: Any = NOTES) -> None:
    for document in documents:
        await store.container(container).upsert_item(document)


def line(id_: str, account: str | None, text: str = "") -> dict[str, Any]:
    return {"id": id_, "accountId": account, "Text": text, "Code": uuid.uuid4().hex}


async def ids(store: CosmosStore, *where: Any, **query: Any) -> list[str]:
    return [entity.id for entity in await unit(store)[Note].list(Query(where, **query))]


async def test_unknown_properties_and_spellings_survive_a_round_trip(store: CosmosStore) -> None:
    stored = {**note(Created="9999-12-31T23:59:59.9999999"), "$type": "Old", "Nested": {"a": [1.5, None]}}
    await put(store, stored)
    async with unit(store) as work:
        entity = await work[Note].get_by_id("n1")
        assert entity is not None
        entity.size = 5
        await work[Note].update(entity)
        await work.commit()
    again = dict(await store.container(NOTES).read_item("n1", partition_key="n1"))
    assert {key: again[key] for key in stored} == {**stored, "Size": 5}


async def test_an_id_is_found_without_its_partition_key_and_only_under_the_right_one(store: CosmosStore) -> None:
    await put(store, line("l1", "b"), line("l1", None), line("l2", "a"), container=LINES)
    lines = unit(store)[Line]
    anywhere = await lines.get_by_id("l1")
    assert anywhere is not None
    assert anywhere.account == "b"  # '["b"]' sorts before '[null]'
    null = await lines.get_by_id("l1", partition_key=None)
    assert null is not None
    assert null.account is None
    assert await lines.get_by_id("l1", partition_key="a") is None
    assert await lines.exists("l2", partition_key=["a"])
    assert await unit(store)[Note].get_by_id("l1", partition_key="other") is None
    with pytest.raises(DocumentRefusedError, match="1 levels, not 2"):
        await lines.get_by_id("l1", partition_key=["a", "b"])


@pytest.mark.parametrize(
    "id_", ["", "a/b", "a?b", "a#b", "..\\x", "x" * 2000, "a\0b", "\ud800", ".", "..", "a\nb", "a "]
)
async def test_an_id_that_cannot_exist_is_not_found(store: CosmosStore, id_: str) -> None:
    assert await unit(store)[Note].get_by_id(id_) is None


@pytest.mark.parametrize(
    "id_",
    ["acc-1", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "ümläut é 文 %20 +", "...", "a b", " a", "a.", "%2F", "a;b=c&d"],
)
async def test_ids_are_never_reshaped(store: CosmosStore, id_: str) -> None:
    async with unit(store) as work:
        await work[Note].add(Note(id=id_))
        await work.commit()
    found = await unit(store)[Note].get_by_id(id_)
    assert found is not None
    assert found.id == id_


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(id_=st.text(min_size=1, max_size=12))
async def test_every_id_that_is_not_refused_is_found_again(store: CosmosStore, id_: str) -> None:
    try:
        check_id(id_)
    except DocumentRefusedError:
        return
    await put(store, note(id_))
    found = await unit(store)[Note].get_by_id(id_)
    assert found is not None
    assert found.id == id_


async def test_our_own_documents_are_never_entities(store: CosmosStore) -> None:
    await put(store, internal_document("watermark", 1, {"id": "crossfeed-watermark-1-0"}), note("n1"))
    notes = unit(store)[Note]
    assert await ids(store) == ["n1"]
    assert await notes.count() == 1
    assert await notes.get_by_id("crossfeed-watermark-1-0") is None


@pytest.mark.parametrize("envelope", ["text", None, {}, {"deleted": False}, {"deleted": "true"}, []])
async def test_a_property_of_our_name_that_is_no_tombstone_hides_nothing(store: CosmosStore, envelope: Any) -> None:
    await put(store, {**note("n1"), "crossfeed": envelope})
    assert await ids(store) == ["n1"]
    assert await unit(store)[Note].count() == 1


async def test_text_is_found_exactly_or_without_regard_to_case(store: CosmosStore) -> None:
    await put(store, note("n1", Title="Ann@X.org"), note("n2", Title="ann@x.org"), note("n3", Title="ann@x.orga"))
    assert await ids(store, Equals("title", "ann@x.org")) == ["n2"]
    assert await ids(store, Equals("title", "ANN@x.org", ignore_case=True)) == ["n1", "n2"]
    assert await unit(store)[Note].count(Query((Equals("title", "ANN@x.org", ignore_case=True),))) == 2


async def test_a_value_in_a_query_is_never_sql(store: CosmosStore) -> None:
    await put(store, note("n1"))
    assert await ids(store, Equals("title", '" OR true --')) == []
    assert await ids(store, OneOf("title", ("@p0", '"'))) == []


async def test_what_a_document_leaves_out_counts_as_the_default(store: CosmosStore) -> None:
    await put(store, {"id": "bare"}, note("null", Created=None), note("set", Size=3, Created="2026-01-01T00:00:00Z"))
    assert await ids(store, Equals("size", 0)) == ["bare", "null"]
    assert await ids(store, Equals("created", None)) == ["bare", "null"]
    assert await ids(store, OneOf("size", (0, 3))) == ["bare", "null", "set"]
    assert await ids(store, OneOf("size", ())) == []


async def test_all_spellings_of_a_value_are_found(store: CosmosStore) -> None:
    class Title(StrEnum):
        FREE = "Free"

        @property
        def spellings(self) -> tuple[Any, ...]:
            return ("Free", 0, "0")

    await put(store, note("n1", Title="Free"), note("n2", Title="0"), note("n3", Title="Paid"))
    assert await ids(store, OneOf("title", (Title.FREE,))) == ["n1", "n2"]
    assert await unit(store)[Note].count(Query((Equals("title", Title.FREE),))) == 2


TIMES = {
    "a": "2026-01-31T08:00:00.0000000Z",
    "b": "2026-01-31T08:00:00Z",
    "c": "2026-01-31T21:59:59+14:00",  # 07:59:59 UTC
    "d": "2026-01-30T20:00:01-12:00",  # 08:00:01 UTC
    "e": "2026-01-31T07:59:59.9999999",
    "f": "9999-12-31T23:59:59.9999999",
    "g": "0001-01-01T00:00:00.0000000",
}


async def test_times_are_compared_as_times_however_they_are_spelled(store: CosmosStore) -> None:
    await put(store, *(note(id_, Created=text) for id_, text in TIMES.items()), note("none"))
    moment = Instant.parse("2026-01-31T08:00:00Z")
    assert await ids(store, Before("created", moment)) == ["c", "e", "g"]
    assert await ids(store, NotBefore("created", moment)) == ["a", "b", "d", "f"]
    assert await ids(store, Equals("created", moment)) == ["a", "b"]
    assert await unit(store)[Note].count(Query((Before("created", moment),))) == 3
    for far in ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"):
        assert len(await ids(store, NotBefore("created", Instant.parse(far)))) + len(
            await ids(store, Before("created", Instant.parse(far)))
        ) == len(TIMES)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 3, 5, 100])
async def test_times_are_in_the_order_of_time_however_they_are_spelled(
    store: CosmosStore, limit: int | None, descending: bool
) -> None:
    await put(store, *(note(id_, Created=text) for id_, text in TIMES.items()))
    ascending = ["g", "c", "e", "a", "b", "d", "f"]
    expected = ["f", "d", "a", "b", "e", "c", "g"] if descending else ascending
    order = Order("created", descending)
    assert await ids(store, order_by=order, limit=limit) == expected[:limit]
    streamed = [entity.id async for entity in unit(store)[Note].stream(Query(order_by=order, limit=limit))]
    assert streamed == expected[:limit]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 1, 2, 3, 4])
async def test_entities_that_tie_are_in_the_order_of_their_ids(
    store: CosmosStore, limit: int | None, descending: bool
) -> None:
    await put(store, note("n3", Size=1), note("n1", Size=1), note("n2", Size=1), note("n0", Size=2))
    expected = ["n0", "n1", "n2", "n3"] if descending else ["n1", "n2", "n3", "n0"]
    assert await ids(store, order_by=Order("size", descending), limit=limit) == expected[:limit]


async def test_text_sorts_by_code_point(store: CosmosStore) -> None:
    titles = ["b", "B", "a", "é", "z", "\U0001f600", "\uffee", "", "10", "9"]
    await put(store, *(note(f"n{index}", Title=title) for index, title in enumerate(titles)))
    found = [entity.title async for entity in unit(store)[Note].stream(Query(order_by=Order("title")))]
    assert found == sorted(titles)


async def test_more_than_a_page_is_streamed_and_counted(store: CosmosStore) -> None:
    for n in range(3):
        async with unit(store) as work:
            for m in range(90):
                await work[Line].add(Line(id=f"l{n}-{m:02}", account="a", code=f"{n}-{m}"))
            await work.commit()
    lines = unit(store)[Line]
    query = Query((Equals("account", "a"),), Order("id"))
    found = [entity.id async for entity in lines.stream(query)]
    assert found == sorted(found)
    assert len(found) == await lines.count(query) == await lines.count() == 270
    assert await lines.count(Query(limit=7)) == len(await lines.list(Query(limit=7))) == 7


async def test_reads_see_the_writes_of_their_own_unit(store: CosmosStore) -> None:
    await put(store, note("n1", Size=1), note("n2", Size=2), note("n3", Size=3))
    async with unit(store) as work:
        notes: CosmosRepository[Note] = work[Note]
        changed, dropped = await notes.get_by_id("n1"), await notes.get_by_id("n2")
        assert changed is not None
        assert dropped is not None
        changed.size = 30
        await notes.update(changed)
        await notes.delete(dropped)
        await notes.add(Note(id="n4", size=4))
        everything = Query(order_by=Order("size", descending=True))
        assert [entity.id for entity in await notes.list(everything)] == ["n1", "n4", "n3"]
        assert [entity.id async for entity in notes.stream(Query(order_by=Order("size"), limit=2))] == ["n3", "n4"]
        assert await notes.count() == 3
        assert await notes.count(Query((Equals("size", 1),))) == 0
        assert not await notes.exists("n2")
        assert await notes.exists("n4")
        read = await notes.get_by_id("n1")
        assert read is not None
        assert read.size == 30
        changed.size = 31  # not written: does not show
        again = await notes.get_by_id("n1")
        assert again is not None
        assert again.size == 30


async def test_an_id_look_up_without_a_key_sees_the_writes_of_its_unit(store: CosmosStore) -> None:
    await put(store, line("l1", "a"), container=LINES)
    async with unit(store) as work:
        entity = await work[Line].get_by_id("l1")
        assert entity is not None
        await work[Line].delete(entity)
        assert await work[Line].get_by_id("l1") is None
        await work[Line].add(Line(id="l9", account="z", code="9"))
        assert await work[Line].exists("l9")


async def test_a_domain_repository_works_on_top(store: CosmosStore) -> None:
    class Notes(EntityRepository[Note]):
        model = Note

        async def by_title(self, title: str) -> Note | None:
            return await self.first(Query((Equals("title", title),)))

    await put(store, note("n1", Title="x"))
    found = await unit(store).of(Notes).by_title("x")
    assert found is not None
    assert found.id == "n1"


async def test_a_document_that_does_not_fit_is_refused_without_its_values(store: CosmosStore) -> None:
    await put(store, note("n1", Size="secret"))
    with pytest.raises(DocumentRefusedError) as caught:
        await unit(store)[Note].get_by_id("n1")
    assert "secret" not in str(caught.value)
    assert "Size" in str(caught.value)
