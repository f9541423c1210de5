"""Applies hard deletes that the feed of all versions has shown: a read by key says that it is still so.

That the feed shows a delete is more than absence: one read by key that is as far as the delete is enough. A document
that is there again has won; a tombstone whose life has ended was no delete. As a feed of the processor it takes the
deletes alone, whatever else is in it comes from the feed of latest versions: an `Applier` (changefeed.ports).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from changefeed.noticed import vanished
from changefeed.ports import Feed
from changefeed.reconcile_doubts import can_be_asked
from core.cache.notices import Notices
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed_all_versions import all_version_pages, deleted_documents, offers_all_versions
from core.cosmos.patience import patiently_read
from core.envelope import Origin
from core.errors import AlreadyExistsError, DocumentRefusedError, StoreUnavailableError
from core.postgres.absence import Missed, Settled, sees_less, settle_missed
from core.postgres.engine import ending_silence
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from core.postgres.standing import read_standings
from core.stamp import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.ports import Acknowledge
    from changefeed.reconcile_doubts import Looks
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.feed_all_versions import Deleted
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings

log = structlog.get_logger()

_NOW = "SELECT clock_timestamp()"


async def delete_feeds(
    engine: AsyncEngine, store: CosmosStore, mappings: Mappings, settings: Settings, notices: Notices | None = None
) -> list[Feed]:
    """Return the feed of all versions of every mapped container whose account has it.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        settings: the page size.
        notices: tells a cache of what is gone.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    silent = ending_silence(engine, settings.mirror_lease_s)
    observed = ObservedDeletes(silent, CosmosDocuments(store, mappings), mappings, notices=notices)
    feeds: list[Feed] = []
    for name in mappings.containers:
        container = await store.existing_container_named(name)
        if await offers_all_versions(container):
            size = settings.mirror_page_size
            feeds.append(
                Feed(f"deletes/{name}", container, name, observed, size, read=all_version_pages, begins_now=True)
            )
        else:
            log.warning("mirror.no_feed_of_all_versions", container=name)
    return feeds


class ObservedDeletes:
    """The way of hard deletes to Postgres; while Postgres is the primary, the way back of what was deleted.

    Args:
        engine: from core.postgres.engine.open_engine.
        documents: reads single documents.
        mappings: all mappings of the process.
        clock: seconds since 1970.
        notices: tells a cache of what is gone; without it nobody does.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        documents: Looks,
        mappings: Mappings,
        *,
        clock: Callable[[], float] = time.time,
        notices: Notices | None = None,
    ) -> None:
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._documents = documents
        self._mappings = mappings
        self._clock = clock
        self._notices = notices or Notices()
        self._total = Settled()

    async def begin(self) -> PhaseRow:
        """Read the phase."""
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                return await read_phase(connection)

    async def apply(
        self,
        container: str,
        items: Sequence[Mapping[str, Any]],
        begun: PhaseRow,
        acknowledge: Acknowledge | None = None,
    ) -> None:
        """Apply the deletes among the changes of one page, in one transaction with what acknowledges it.

        May be repeated with the same changes. The other changes of the page must have been applied before, or come
        from elsewhere.

        Args:
            container: the container's name.
            items: as the feed of all versions, or a trigger of it, gave them.
            begun: the phase row, read before the changes were.
            acknowledge: made durable with the deletes.

        Raises:
            PrimaryMovedError: phase or epoch have moved since.
            StoreUnavailableError: a store did not answer, or a replica is not as far as the delete; repeat.

        """
        missed = await self._missed(container, deleted_documents(items), begun)
        try:
            await self._settle(container, missed, begun, acknowledge)
        except (DocumentRefusedError, AlreadyExistsError):
            for one in missed:
                await self._settle_alone(container, one, begun)
            await self._settle(container, [], begun, acknowledge)
        await self._notices.tell(vanished([one.identity for one in missed], begun))

    async def _settle(
        self, container: str, missed: Sequence[Missed], begun: PhaseRow, acknowledge: Acknowledge | None
    ) -> None:
        with translated(f"applying {len(missed)} deletes in {container!r}"):
            async with self._engine.begin() as connection:
                settled = await settle_missed(connection, self._mappings, missed, begun, self._clock())
                if acknowledge is not None:
                    await acknowledge(connection)
        self._total.add(settled)

    async def _settle_alone(self, container: str, missed: Missed, begun: PhaseRow) -> None:
        """Apply one delete; a row that the application's own constraints hold stays until the reconcile comes by."""
        try:
            await self._settle(container, [missed], begun, None)
        except (DocumentRefusedError, AlreadyExistsError) as error:
            identity = missed.identity
            log.warning("mirror.delete_kept", entity=identity.entity, document_id=identity.id, reason=str(error))
            self._total.kept += 1

    async def idle(self, begun: PhaseRow) -> bool:
        """See Applier."""
        return False

    def counts(self) -> Mapping[str, int]:
        """See Applier."""
        return {"removed": self._total.removed, "healed": self._total.healed, "kept": self._total.kept}

    async def _missed(self, container: str, deleted: Sequence[Deleted], begun: PhaseRow) -> list[Missed]:
        """Return the rows of which no document is there any more, as they were before that was asked."""
        missed: list[Missed] = []
        for mapping, known in self._by_type(container, deleted).items():
            with translated(f"reading rows of {mapping.name}"):
                async with self._engine.connect() as connection:
                    now = (await connection.exec_driver_sql(_NOW)).scalar_one()
                    standings = await read_standings(connection, mapping, list(known))
            live = [
                (Missed(identity, standing.stamp, standing.etag, standing.taken, now), one)
                for (identity, one), standing in zip(known.items(), standings, strict=True)
                if standing is not None and standing.stamp is not None and standing.is_live and can_be_asked(identity)
            ]
            if live and begun.primary is Origin.COSMOS:
                await self._documents.catch_up(container)  # what was there when the rows were read is seen
            missed += [row for row, one in live if await self._is_gone(row.identity, one, row.taken)]
        return missed

    def _by_type(self, container: str, deleted: Sequence[Deleted]) -> dict[EntityMapping[Any], dict[Identity, Deleted]]:
        """Return the newest delete of each identity; where nothing says of what type it was, of each type."""
        found: dict[EntityMapping[Any], dict[Identity, Deleted]] = {}
        for one in deleted:
            for mapping in self._types(container, one.previous):
                try:
                    identity = mapping.identity(one.key)
                except DocumentRefusedError:
                    continue  # no row has such a key
                if identity.can_be_stored:
                    found.setdefault(mapping, {})[identity] = one
        return found

    def _types(self, container: str, previous: Document) -> Sequence[EntityMapping[Any]]:
        if not previous:
            return self._mappings.in_container(container)
        mapping = self._mappings.mapping_of(container, previous)
        return () if mapping is None else (mapping,)

    async def _is_gone(self, identity: Identity, deleted: Deleted, taken: Position | None) -> bool:
        looked = await patiently_read(lambda: self._documents.look(identity))
        if looked.document is not None:
            return False
        now = self._clock()
        if sees_less(looked.lsn, Position(deleted.ts, deleted.lsn), now) or sees_less(looked.lsn, taken, now):
            msg = f"a read of {identity.entity} by key came from a replica that is behind its delete"
            raise StoreUnavailableError(msg)
        return True
