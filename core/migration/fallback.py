"""Finds what Postgres should have and has not, in Cosmos DB, and backfills it before it is read.

There is something to find only after a switch that accepted documents without a row (core.postgres.opening). Then

- whatever Postgres holds, by its id, is read from Postgres alone, also while Cosmos DB does not answer;
- what Postgres does not hold is a fact only once Cosmos DB was asked: if it does not answer, StoreUnavailableError is
  raised. To say "there is none" would let the application create it a second time;
- a list, a count and a look-up by another key ask Cosmos DB first, for documents older than the barrier, then Postgres.

A document that cannot be backfilled just now (a lock that the caller itself may hold, no connection, another row that
has its e-mail) is served as it is: whoever updates it is told that it has changed, and reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
from sqlalchemy.exc import DBAPIError

from core.content import content_of
from core.cosmos import sql
from core.cosmos.documents import CosmosDocuments
from core.cosmos.patience import patiently_read
from core.cosmos.querying import PAGE_SIZE, answers
from core.entity import Loaded, mark_loaded
from core.errors import DocumentRefusedError, PrimaryMovedError
from core.postgres.authority import Change
from core.postgres.backfilled import backfill_documents
from core.postgres.failures import translated
from core.postgres.opening import counts, stamp_of
from core.postgres.standing import read_standings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.entity import Entity
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.opening import Barrier
    from core.query import Query

log = structlog.get_logger()

CONNECT_S: Final = 0.5
"""How long a backfill waits for a connection, in seconds: the caller holds one, maybe the last of the pool."""

# The caller's transaction may hold what the backfill waits for, and no deadlock detector sees that the caller waits for
# the backfill. And a process that was stopped in the middle must not keep its locks.
_IMPATIENT = """
    SELECT set_config('lock_timeout', '300ms', true), set_config('idle_in_transaction_session_timeout', '10s', true)
"""
_MOST_REFUSED: Final = 10_000


class Fallback:
    """What is read of Cosmos DB while Postgres is the primary.

    Args:
        engine: for the backfill's own transactions.
        mappings: all mappings.
        store: the opened database.
        phase: the recorded phase.
        barrier: per container, where its documents end that count.
        may_write: whether this process may backfill; one that is pinned to another phase may not.

    """

    def __init__(  # noqa: PLR0913 - both stores, and what is known of the switch between them
        self,
        engine: AsyncEngine,
        mappings: Mappings,
        store: CosmosStore,
        phase: PhaseRow,
        barrier: Mapping[str, Barrier],
        *,
        may_write: bool,
    ) -> None:
        self._engine = engine
        self._mappings = mappings
        self._store = store
        self._documents = CosmosDocuments(store, mappings)
        self._phase = phase
        self._barrier = barrier
        self._may_write = may_write
        self._refused: set[tuple[Identity, str]] = set()

    async def bring(self, connection: AsyncConnection, mapping: EntityMapping[Any], query: Query) -> list[Entity]:
        """Backfill every document that a query asks for and Postgres should have.

        Args:
            connection: of the caller's transaction, whose next statement sees what was backfilled.
            mapping: of the documents.
            query: what is asked; its limit is not regarded, because Postgres has the order.

        Returns:
            The entities that could not be backfilled, without order.

        Raises:
            StoreUnavailableError: a store did not answer.

        """
        barrier = self._barrier.get(mapping.container)
        if barrier is None:
            return []
        await self._documents.reach(mapping.container, self._phase.epoch)
        statement = sql.select_before(mapping, self._mappings.rivals(mapping), query, barrier.before_ts)

        async def take_all() -> list[Entity]:
            async with contextlib.aclosing(self._pages(mapping, statement)) as pages:
                return [left async for page in pages for left in await self._take(connection, mapping, page)]

        left = await patiently_read(take_all)
        return [entity for entity in left if sql.holds(entity, query)]

    async def bring_one(
        self, connection: AsyncConnection, mapping: EntityMapping[Any], identity: Identity
    ) -> list[Entity]:
        """Backfill the document with a key, of whatever type it is, if Postgres should have it.

        Returns:
            The entity if it could not be backfilled, else nothing.

        Raises:
            StoreUnavailableError: a store did not answer.

        """
        if mapping.container not in self._barrier or not identity.can_be_stored:
            return []
        if not await self._lacking(connection, mapping, [identity]):
            return []  # that is known without Cosmos DB, also of what was deleted
        await self._documents.reach(mapping.container, self._phase.epoch)
        document = await patiently_read(lambda: self._documents.read(identity))
        holder = None if document is None else self._mappings.mapping_of(mapping.container, document)
        if document is None or holder is None:
            return []
        return await self._take(connection, holder, [document])

    async def _pages(self, mapping: EntityMapping[Any], statement: sql.Statement) -> AsyncGenerator[list[Document]]:
        page: list[Document] = []
        async with contextlib.aclosing(answers(self._store.container(mapping), statement)) as documents:
            async for document in documents:
                page.append(document)
                if len(page) == PAGE_SIZE:
                    yield page
                    page = []
        if page:
            yield page

    async def _take(
        self, connection: AsyncConnection, mapping: EntityMapping[Any], documents: Sequence[Document]
    ) -> list[Entity]:
        """Backfill those that count and are lacking; return the entities of those that are lacking still."""
        found = self._counting(mapping, documents)
        lacking = await self._lacking(connection, mapping, list(found))
        fresh = [found[identity] for identity in lacking if (identity, found[identity].etag) not in self._refused]
        if fresh and self._may_write and await self._backfill(mapping.container, fresh):
            lacking = await self._lacking(connection, mapping, lacking)
            self._remember(found[identity] for identity in lacking)
        left = [self._entity(mapping, found[identity]) for identity in lacking]
        return [entity for entity in left if entity is not None]

    def _counting(self, mapping: EntityMapping[Any], documents: Sequence[Document]) -> dict[Identity, Change]:
        barrier = self._barrier[mapping.container]
        found: dict[Identity, Change] = {}
        for document in documents:
            with contextlib.suppress(DocumentRefusedError):  # no repository could write, or find, such a key
                change = Change.of(mapping.identity(document), document)
                if change.identity.can_be_stored and counts(change, self._phase, barrier):
                    found[change.identity] = change
        return found

    async def _lacking(
        self, connection: AsyncConnection, mapping: EntityMapping[Any], identities: list[Identity]
    ) -> list[Identity]:
        """Return those of which Postgres holds neither a row nor a tombstone, as the caller's transaction sees it."""
        with translated(f"looking for {mapping.name}"):
            standings = await read_standings(connection, mapping, identities)
        pairs = zip(identities, standings, strict=True)
        return [identity for identity, standing in pairs if standing is not None and standing.stamp is None]

    async def _backfill(self, container: str, changes: list[Change]) -> bool:
        """Backfill documents in a transaction of their own; return False where it could not be done now."""
        documents = [change.document for change in changes]
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._engine.connect()
            async with contextlib.aclosing(connection), connection.begin():
                await connection.exec_driver_sql(_IMPATIENT)
                outcome = await backfill_documents(
                    connection, self._mappings, container, documents, self._phase, barrier=self._barrier[container]
                )
        except (DBAPIError, psycopg.Error, PrimaryMovedError, TimeoutError) as error:
            why = type(getattr(error, "orig", None) or error).__name__
            log.warning("fallback.not_backfilled", container=container, documents=len(changes), why=why)
            return False
        log.info("fallback.backfilled", container=container, documents=outcome.applied, refused=outcome.dead_lettered)
        return True

    def _remember(self, refused: Iterable[Change]) -> None:
        if len(self._refused) > _MOST_REFUSED:
            self._refused.clear()
        self._refused.update((change.identity, change.etag) for change in refused)

    def _entity(self, mapping: EntityMapping[Any], change: Change) -> Entity | None:
        try:
            entity: Entity = mapping.entity(content_of(change.document))
        except DocumentRefusedError as error:  # its dead letter says so, too
            log.warning(
                "fallback.unreadable", entity=mapping.name, document_id=change.identity.id, why=type(error).__name__
            )
            return None
        mark_loaded(entity, Loaded(change.identity, stamp_of(change, self._barrier[mapping.container]), change.etag))
        return entity
