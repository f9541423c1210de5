"""A domain of two types in one container, `Library`, which holds documents of types that nobody mapped as well."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import Field

from core.cosmos.client import open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges, pages
from core.discriminator import Discriminator
from core.entity import Entity
from core.events import Event
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.postgres import capture
from core.postgres.guarded import apply_documents
from core.postgres.held import read_held
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.postgres.mirrored_batch import Outcome
    from core.settings import Settings

BOTH = ("Discriminator", "$type")
"""The two conventions; the first wins."""


class Book(Entity):
    shelf: str = Field(alias="Shelf")
    title: str = Field("", alias="Title")


class Film(Entity):
    shelf: str = Field(alias="Shelf")
    title: str = Field("", alias="Title")
    minutes: int = Field(0, alias="Minutes")


class BookLost(Event, name="book.lost"):
    """Somebody never brought it back."""

    email: str


METADATA = sa.MetaData()


def _table(name: str, *more: sa.Column[Any]) -> sa.Table:
    keys = [sa.Column(key, sa.Text, primary_key=True) for key in ("shelf", "id")]
    return sa.Table(name, METADATA, *keys, sa.Column("title", sa.Text, nullable=False), *more)


def _mapping(model: type[Any], table: sa.Table, *values: str) -> EntityMapping[Any]:
    kind = Discriminator(BOTH, values)
    return EntityMapping(model, table=table, container="Library", partition_key="/Shelf", discriminator=kind)


_minutes = sa.Column("minutes", sa.BigInteger, nullable=False, server_default="0")
BOOKS: EntityMapping[Book] = _mapping(Book, _table("books"), "Book", "Library.Book, Library")
FILMS: EntityMapping[Film] = _mapping(Film, _table("films", _minutes), "Film")
LIBRARY = Mappings([BOOKS, FILMS])


async def install(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        for mapping in LIBRARY:
            await connection.run_sync(capture.install, mapping)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[CosmosStore]:
    """Connect to a Cosmos DB with the library's container."""
    async with open_cosmos(settings) as store:
        await store.provision(LIBRARY)
        await store.check(LIBRARY)
        yield store


async def apply(engine: AsyncEngine, store: CosmosStore, documents: Sequence[Document]) -> Outcome:
    """Apply documents as one batch of the mirror."""
    async with engine.begin() as connection:
        reader = CosmosDocuments(store, LIBRARY)
        return await apply_documents(connection, LIBRARY, "Library", documents, await read_phase(connection), reader)


async def feed(store: CosmosStore) -> list[Document]:
    """Return the newest version of every document, in feed order."""
    container = store.container(BOOKS)
    return [
        document
        for feed_range in await feed_ranges(container)
        async for page in pages(container, feed_range, None, 100)
        for document in page.documents
    ]


async def rows(engine: AsyncEngine, shelf: str, id_: str) -> dict[str, Document]:
    """Return the live rows under one key, by entity type, as documents."""
    found: dict[str, Document] = {}
    async with engine.connect() as connection:
        for mapping in LIBRARY:
            [held] = await read_held(connection, mapping, [mapping.identity_of(shelf, id_)])
            if held.live_row is not None:
                found[mapping.name] = held.live_row.document(mapping)
    return found
