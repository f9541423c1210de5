"""Rows of several types on their way to one container: each names its type, and none takes the place of another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from core.content import content_of
from core.cosmos.guarded import GuardedWriter
from core.cosmos.publish import Refused, Unchanged, Written, publish_state
from core.envelope import is_internal
from core.errors import AlreadyExistsError, DocumentRefusedError
from core.phases import Phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.stamp import Stamp
from tests.cosmos.example import Kept
from tests.integration.library_steps import BOOKS, FILMS, LIBRARY, Book, apply, feed, install, opened, rows
from tests.integration.relay_steps import letters, relaying, run, until
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Outcome
    from core.mapping import EntityMapping
    from core.settings import Settings


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[CosmosStore]:
    async with opened(settings) as store:
        yield store


def quick(settings: Settings) -> Settings:
    """Let what has to wait for another document wait for a short time."""
    return settings.model_copy(update={"relay_retry_first_s": 0.05})


async def at(store: CosmosStore, id_: str) -> Document | None:
    return next((one for one in await feed(store) if one["id"] == id_), None)


async def test_documents_and_tombstones_of_rows_name_their_type(
    settings: Settings, engine: AsyncEngine, store: CosmosStore
) -> None:
    await install(engine)
    await switch_phase(engine, store, LIBRARY, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    marks = await feed(store)
    assert [is_internal(mark) and "Discriminator" not in mark for mark in marks] == [True]
    await run(
        engine,
        "INSERT INTO books (shelf, id, title) VALUES ('s', 'plain', 'p'), ('s', 'gone', 'g')",
        """INSERT INTO books (shelf, id, title, crossfeed_extra)
            VALUES ('s', 'old', 'o', '{"$type": "Book", "x": 1}')""",
        "INSERT INTO films (shelf, id, title, minutes) VALUES ('s', 'film', 'f', 1)",
        "DELETE FROM books WHERE id = 'gone'",
    )
    async with PostgresUnitOfWork(engine, LIBRARY) as work:
        with pytest.raises(DocumentRefusedError, match="another type"):
            await work[Book].add(Book.model_validate({"id": "y", "Shelf": "s", "Discriminator": "Film"}))
        with pytest.raises(AlreadyExistsError, match="a Film has the same"):
            await work[Book].add(Book(id="film", shelf="s"))
        await work[Book].add(Book(id="added", shelf="s"))
        await work.commit()
    async with relaying(quick(settings), LIBRARY, engine, store):
        await until(lambda: _count(store, 6))
    found = {one["id"]: (one.get("Discriminator"), one.get("$type")) for one in await feed(store)}
    del found[marks[0]["id"]]
    assert found == {
        "plain": ("Book", None), "gone": ("Book", None), "old": (None, "Book"), "film": ("Film", None),
        "added": ("Book", None),
    }  # fmt: skip
    assert await letters(engine) == []


async def _count(store: CosmosStore, number: int) -> bool:
    return len(await feed(store)) == number


async def test_a_row_that_becomes_one_of_another_type_arrives_whatever_is_sent_first(
    settings: Settings, engine: AsyncEngine, store: CosmosStore
) -> None:
    await install(engine)
    await switch_phase(engine, store, LIBRARY, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    ids = [f"x{number}" for number in range(4)]
    async with relaying(quick(settings), LIBRARY, engine, store):
        for kind, other in itertools.pairwise(["films", "books", "films"]):
            await run(
                engine,
                *(
                    f"WITH gone AS (DELETE FROM {kind} WHERE id = '{id_}')"
                    f" INSERT INTO {other} (shelf, id, title) VALUES ('s', '{id_}', 'in {other}')"
                    for id_ in ids
                ),
            )

            async def arrived(title: str = f"in {other}") -> bool:
                return {one.get("Title") for one in await feed(store) if one["id"] in ids} == {title}

            await until(arrived)
        await until(lambda: _is_empty(engine, "crossfeed.parked"))
    assert await letters(engine) == []


async def _is_empty(engine: AsyncEngine, table: str) -> bool:
    async with engine.connect() as connection:
        return bool((await connection.exec_driver_sql(f"SELECT NOT EXISTS (SELECT FROM {table})")).scalar_one())


@pytest.mark.parametrize("kind", ["Film", "", "Poster"])
async def test_a_foreign_writer_that_changes_the_type_is_overruled_while_postgres_is_primary(
    settings: Settings, engine: AsyncEngine, store: CosmosStore, kind: str
) -> None:
    await install(engine)
    await switch_phase(engine, store, LIBRARY, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await run(engine, "INSERT INTO books (shelf, id, title) VALUES ('s', 'x', 'ours')")
    attempts = 2 if kind == "Poster" else 100
    patient = quick(settings).model_copy(update={"relay_attempts": attempts})
    async with relaying(patient, LIBRARY, engine, store):
        await until(lambda: _count(store, 2))
        await store.container(BOOKS).upsert_item({"id": "x", "Shelf": "s", "Discriminator": kind, "Title": "theirs"})
        await apply(engine, store, await feed(store))

        async def settled() -> bool:
            found, known = await at(store, "x"), {letter[:2] for letter in await letters(engine)}
            # A type that nobody mapped is never overwritten, whatever Postgres says: it is shown.
            is_shown = ("to_cosmos", "refused") in known
            return found is not None and (found.get("Title") == "ours") != is_shown and is_shown == (kind == "Poster")

        await until(settled)
    assert (await rows(engine, "s", "x"))["Book"]["Title"] == "ours"
    kept = [letter for letter in await letters(engine) if letter[:2] == ("to_postgres", "rogue_write")]
    assert len(kept) >= 1


async def test_two_rows_of_one_key_are_one_document_and_one_letter(
    settings: Settings, engine: AsyncEngine, store: CosmosStore
) -> None:
    await install(engine)
    await switch_phase(engine, store, LIBRARY, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    for id_, kind in (("poster", "Poster"), ("x", "Film")):
        await store.container(BOOKS).upsert_item({"id": id_, "Shelf": "s", "Discriminator": kind, "Title": "keep"})
    impatient = quick(settings).model_copy(update={"relay_attempts": 2})
    async with relaying(impatient, LIBRARY, engine, store):
        await run(
            engine, "INSERT INTO books (shelf, id, title) SELECT 's', id, 'new' FROM unnest('{x,poster}'::text[]) AS id"
        )

        async def lettered() -> bool:
            return len(await letters(engine)) == 2

        await until(lettered)
    for letter in await letters(engine):
        assert letter[:2] == ("to_cosmos", "refused")
        assert "another type" in letter[4]
    assert [(await at(store, id_) or {})["Title"] for id_ in ("x", "poster")] == ["keep", "keep"]


async def test_a_delete_leaves_alone_what_another_type_has_put_in_its_place(store: CosmosStore) -> None:
    kept = Kept()
    writer = GuardedWriter(store, LIBRARY, kept, 4)

    async def write(mapping: EntityMapping[Any], version: int, content: Document | None) -> Outcome:
        stamp, identity = Stamp(2, version), mapping.identity_of("s", "x")
        state = publish_state(mapping, identity, stamp, content, taken_etag=None, loaded_in=2, tombstone_ttl_s=60)
        [outcome] = await writer.write([state])
        return outcome

    film = {"id": "x", "Shelf": "s", "Discriminator": "Film", "Title": "f"}
    assert isinstance(await write(FILMS, 1, film), Written)
    assert isinstance(await write(BOOKS, 9, None), Unchanged)
    assert isinstance(await write(BOOKS, 8, film | {"Discriminator": "Book"}), Refused)
    assert content_of((await at(store, "x")) or {}) == film
    assert isinstance(await write(FILMS, 2, None), Written)
    assert isinstance(await write(BOOKS, 9, None), Unchanged)
    assert ((await at(store, "x")) or {})["Discriminator"] == "Film"
    confirmed = len(kept.confirmed)
    assert isinstance(await write(BOOKS, 1, film | {"Discriminator": "Book"}), Written)  # its versions are its own
    assert len(kept.confirmed) > confirmed
    assert kept.documents == []
