"""What the tests of the mirror share: one Cosmos writer of ours, one foreign writer, and the feed's whole history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.content import content_hash
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges, pages
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.postgres.guarded import apply_documents
from core.postgres.held import read_held
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.entity import Entity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.held import Held
    from core.postgres.mirrored_batch import Outcome


@dataclass
class Steps:
    """Drives one mapping: writes to Cosmos DB, remembers every state its feed showed, applies any of them."""

    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    mapping: EntityMapping[Any]
    history: list[Document] = field(default_factory=list)
    _continuations: dict[str, str] = field(default_factory=dict)

    async def phase(self) -> PhaseRow:
        async with self.engine.connect() as connection:
            return await read_phase(connection)

    def work(self, epoch: int) -> CosmosUnitOfWork:
        return CosmosUnitOfWork(self.store, self.mappings, epoch)

    async def add(self, entity: Entity) -> None:
        async with self.work((await self.phase()).epoch) as work:
            await work[self.mapping.model].add(entity)
            await work.commit()
        await self.watch()

    async def change(self, id_: str, partition_key: Any = None, **values: Any) -> None:
        """Update one entity through our own repository; nothing if it is not there."""
        async with self.work((await self.phase()).epoch) as work:
            entity = await work[self.mapping.model].get_by_id(id_, partition_key=partition_key or id_)
            if entity is None:
                return
            await work[self.mapping.model].update(entity.model_copy(update=values))
            await work.commit()
        await self.watch()

    async def delete(self, id_: str, partition_key: Any = None) -> None:
        async with self.work((await self.phase()).epoch) as work:
            entity = await work[self.mapping.model].get_by_id(id_, partition_key=partition_key or id_)
            if entity is None:
                return
            await work[self.mapping.model].delete(entity)
            await work.commit()
        await self.watch()

    async def foreign(self, document: Document) -> None:
        """Write a document as the legacy application does: replaced whole, whatever is there."""
        await self.store.container(self.mapping).upsert_item(dict(document))
        await self.watch()

    async def watch(self) -> list[Document]:
        """Read what is new in the feed; a page read again later could not show it any more."""
        container = self.store.container(self.mapping)
        fresh: list[Document] = []
        for feed_range in await feed_ranges(container):
            async for page in pages(container, feed_range, self._continuations.get(feed_range.key), 100):
                self._continuations[feed_range.key] = page.continuation
                fresh += page.documents
        self.history += fresh
        return fresh

    async def apply(self, documents: Sequence[Document], phase: PhaseRow | None = None) -> Outcome:
        """Apply documents as one batch of the mirror."""
        phase = phase or await self.phase()
        async with self.engine.begin() as connection:
            return await apply_documents(
                connection,
                self.mappings,
                self.mapping.container,
                documents,
                phase,
                CosmosDocuments(self.store, self.mappings),
            )

    async def held(self, id_: str, partition_key: Any = None) -> Held:
        identity = self.mapping.identity_of(partition_key or id_, id_)
        async with self.engine.connect() as connection:
            return (await read_held(connection, self.mapping, [identity]))[0]

    async def current(self, id_: str, partition_key: Any = None) -> Document | None:
        return await CosmosDocuments(self.store, self.mappings).read(
            self.mapping.identity_of(partition_key or id_, id_)
        )

    async def content(self, id_: str, partition_key: Any = None) -> Document | None:
        """Return the row's document, None without a row."""
        row = (await self.held(id_, partition_key)).live_row
        return None if row is None else row.document(self.mapping)

    async def count(self, table: str) -> int:
        async with self.engine.connect() as connection:
            return int((await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar_one())


def same(one: Document | None, other: Document | None) -> bool:
    """Whether two documents have the same content."""
    if one is None or other is None:
        return one is other
    return content_hash(one) == content_hash(other)
