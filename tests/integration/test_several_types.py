"""Several types in one container: each sees its own, none takes another's place, and a key changes its type whole."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from structlog.testing import capture_logs

from core.content import content_of
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.envelope import is_deleted
from core.errors import AlreadyExistsError, ConcurrencyError, NotFoundError
from core.identity import Identity
from core.phases import Phase
from core.postgres.guarded import say_unmapped
from core.postgres.phases import open_phase
from core.query import Equals, Query
from tests.integration.library_steps import BOOKS, LIBRARY, Book, BookLost, Film, apply, feed, install, opened, rows
from tests.integration.relay_steps import letters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.settings import Settings


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[CosmosStore]:
    async with opened(settings) as store:
        yield store


@pytest.fixture
async def library(engine: AsyncEngine) -> AsyncEngine:
    """Cosmos DB is primary."""
    await install(engine)
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return engine


def on_cosmos(store: CosmosStore) -> CosmosUnitOfWork:
    return CosmosUnitOfWork(store, LIBRARY, epoch=2)


STRANGERS: list[Document] = [
    {"id": "poster", "Shelf": "s", "Discriminator": "Poster", "Title": "not a book"},
    {"id": "typeless", "Shelf": "s", "Title": "not a book either"},
    {"id": "both", "Shelf": "s", "Discriminator": "Film", "$type": "Book", "Title": "the first property counts"},
    {"id": "number", "Shelf": "s", "Discriminator": 7, "$type": "Film", "Title": "a film"},
]
OURS: list[Document] = [
    {"id": "b1", "Shelf": "s", "Discriminator": "Book", "Title": "one"},
    {"id": "b2", "Shelf": "s", "$type": "Library.Book, Library", "Title": "two"},
    {"id": "b3", "Shelf": "t", "Discriminator": "Paperback", "$type": "Book", "Title": "two"},
    {"id": "f1", "Shelf": "s", "$type": "Film", "Title": "two", "Minutes": 90},
]


async def test_a_repository_sees_its_own_type_alone(store: CosmosStore) -> None:
    for document in (*STRANGERS, *OURS):
        await store.container(BOOKS).create_item(document)
    async with on_cosmos(store) as work:
        books, films = work[Book], work[Film]
        assert [book.id for book in await books.list()] == ["b1", "b2", "b3"]
        assert sorted([film.id for film in await films.list()]) == ["both", "f1", "number"]
        assert [await books.count(), await films.count()] == [3, 3]
        titled = Query((Equals("title", "two"),))
        assert await books.count(titled) == 2
        assert [book.id for book in await books.list(titled)] == ["b2", "b3"]
        assert [book.id async for book in books.stream(Query(limit=2))] == ["b1", "b2"]
        for key in ({"partition_key": "s"}, {}):
            assert await books.get_by_id("f1", **key) is None
            assert not await books.exists("poster", **key)
            assert await books.exists("b1", **key)
        await books.add(Book(id="b4", shelf="s"))
        assert await books.count() == 4
        assert await films.count() == 3


async def test_what_another_type_holds_is_never_overwritten(store: CosmosStore) -> None:
    for document in (*STRANGERS, *OURS):
        await store.container(BOOKS).create_item(document)
    before = {document["id"]: document["_etag"] for document in await feed(store)}
    for id_, who in (("f1", "a Film"), ("poster", "no mapping"), ("typeless", "no mapping")):
        async with on_cosmos(store) as work:
            await work[Book].add(Book(id=id_, shelf="s"))
            with pytest.raises(AlreadyExistsError, match=who):
                await work.commit()
    async with on_cosmos(store) as work:
        book = await work[Book].get_by_id("b1", partition_key="s")
        assert book is not None
        await store.container(BOOKS).upsert_item({"id": "b1", "Shelf": "s", "Discriminator": "Film"})
        book.title = "never"
        await work[Book].update(book)
        with pytest.raises(ConcurrencyError):
            await work.commit()
    async with on_cosmos(store) as work:
        work.record(BookLost(email="x"), of=Identity.of("Book", ["s"], "f1"))
        with pytest.raises(NotFoundError):
            await work.commit()
    after = {document["id"]: document["_etag"] for document in await feed(store)}
    assert after | {"b1": before["b1"]} == before


async def test_a_tombstone_names_its_type_and_makes_room_for_another(library: AsyncEngine, store: CosmosStore) -> None:
    async with on_cosmos(store) as work:
        await work[Book].add(book := Book(id="x", shelf="s"))
        await work.commit()
    async with on_cosmos(store) as work:
        await work[Book].delete(book)
        work.record(BookLost(email="lost"), of=book)
        await work.commit()
    [tombstone] = await feed(store)
    assert tombstone["Discriminator"] == "Book"
    async with on_cosmos(store) as work:
        await work[Film].add(Film(id="x", shelf="s"))
        with pytest.raises(ConcurrencyError, match="still under way"):  # the tombstone is all that carries its event
            await work.commit()
    await library.dispose()


# -- the mirror


async def test_each_type_goes_to_its_own_table_and_strangers_are_left_alone(
    library: AsyncEngine, store: CosmosStore
) -> None:
    for document in (*STRANGERS, *OURS):
        await store.container(BOOKS).create_item(document)
    say_unmapped.cache_clear()
    with capture_logs() as logs:
        outcome = await apply(library, store, await feed(store))
        await apply(library, store, await feed(store))
    assert [entry["container"] for entry in logs if entry["event"] == "mirror.unmapped"] == ["Library"]
    assert (outcome.applied, outcome.unmapped, outcome.dead_lettered, outcome.buried) == (6, 2, 0, 0)
    for document in OURS:
        kind = "Film" if document["id"] == "f1" else "Book"
        assert await rows(library, document["Shelf"], document["id"]) == {kind: document}
    assert await rows(library, "s", "poster") == {}
    async with library.connect() as connection:
        held = await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.tombstone")
        assert held.scalar_one() == 0  # that there never was one is worth no tombstone


async def test_a_late_state_of_a_key_that_has_another_type_by_now_is_a_delete(
    library: AsyncEngine, store: CosmosStore
) -> None:
    container, document = store.container(BOOKS), {"id": "x", "Shelf": "s", "Discriminator": "Book"}
    await container.upsert_item(document | {"Title": "first"})
    [late] = await feed(store)
    await container.upsert_item(document | {"Title": "second"})
    await apply(library, store, await feed(store))
    await container.upsert_item(document | {"Discriminator": "Film", "Title": "filmed"})
    outcome = await apply(library, store, [late])  # it is read by key, and a film is found
    assert (outcome.reads_by_key, outcome.buried) == (1, 1)
    assert await rows(library, "s", "x") == {}
    await apply(library, store, await feed(store))
    assert (await rows(library, "s", "x")).keys() == {"Film"}


KINDS = st.sampled_from(["Book", "Film", "Poster", "", "deleted"])


@given(kinds=st.lists(KINDS, min_size=2, max_size=6), places=st.lists(st.lists(st.integers(0, 5)), max_size=4))
@examples(max_examples=8)
async def test_a_key_that_changes_its_type_has_one_row_at_most_and_the_right_one(
    library: AsyncEngine, store: CosmosStore, kinds: list[str], places: list[list[int]]
) -> None:
    id_, history = uuid.uuid4().hex, []
    container = store.container(BOOKS)
    for number, kind in enumerate(kinds):
        if kind == "deleted":
            await _delete_through_us(store, id_)
        else:
            document = {"id": id_, "Shelf": "s", "Discriminator": kind, "Title": f"title {number}"}
            await container.upsert_item(document)
        history += [one for one in await feed(store) if one["id"] == id_]
    if not history:
        return
    for batch in (*places, range(len(history)), *places):
        await apply(library, store, [history[place % len(history)] for place in batch])
    current = history[-1]
    owner = LIBRARY.mapping_of("Library", current)
    expected = {} if owner is None or is_deleted(current) else {owner.name: content_of(current)}
    assert await rows(library, "s", id_) == expected
    assert await letters(library) == []


async def _delete_through_us(store: CosmosStore, id_: str) -> None:
    async with on_cosmos(store) as work:
        for model in (Book, Film):
            entity: Any = await work[model].get_by_id(id_, partition_key="s")
            if entity is not None:
                await work[model].delete(entity)
        await work.commit()
