"""Finds what Cosmos DB holds and Postgres lost: before anything is published over it, it is kept as a dead letter.

A document may be ahead of its row, or have neither row nor tombstone. The first is what a lost commit wrote, and it is
the only copy of it. The second was created by one, and gets a tombstone in Postgres: absence alone is never a delete,
and what is not there cannot be published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy.exc import DBAPIError

from core.content import content_hash, content_of
from core.cosmos.examine import contradict
from core.cosmos.feed import feed_ranges, pages
from core.envelope import Internal, Origin, Ours, author_of, claimed_version, is_deleted
from core.errors import DocumentRefusedError
from core.postgres import dead_letters
from core.postgres.dead_letters import DeadLetter, Direction, identity_columns
from core.postgres.failures import is_documents_fault, translated
from core.postgres.held import read_held
from core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.postgres.held import Held

log = structlog.get_logger()

LOST: Final = "lost"
"""The kind of a letter with a state that Postgres lost."""

_AHEAD = "Cosmos DB holds a state that Postgres lost"
_ORPHAN = "Cosmos DB holds a document of which Postgres has neither row nor tombstone"
_UNREADABLE = "Cosmos DB holds a document whose key no row of its table can have"

# A row that a writer inserts meanwhile may come to stand behind this tombstone; the relay lifts it.
_BURY = """
    INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version)
    SELECT gone.entity, gone.partition_key, gone.id, p.epoch, gone.version
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(versions)s::bigint[])
        AS gone(entity, partition_key, id, version), crossfeed.phase p
    ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class Findings:
    """What was found among `documents`: states that are `ahead`, and documents without row or tombstone (`orphans`).

    `unreadable` have a key that no row can have; they are kept, and left as they are. `newest_epoch` is the newest of
    a document that Crossfeed wrote.
    """

    documents: int = 0
    ahead: int = 0
    orphans: int = 0
    unreadable: int = 0
    newest_epoch: int = 0


class Search:
    """Looks at every document of every mapped container. May be repeated: a letter only counts one more attempt.

    Args:
        engine: the database.
        store: the Cosmos DB database.
        page_size: documents per page; each page is one transaction.
        keep: write letters, and tombstones for the orphans.

    """

    def __init__(self, engine: AsyncEngine, store: CosmosStore, page_size: int, *, keep: bool) -> None:
        self.found = Findings()
        self._engine = engine
        self._store = store
        self._page_size = page_size
        self._keep = keep

    async def run(self, mappings: Mappings, report: Callable[[Progress], None]) -> Findings:
        """Look at them.

        Args:
            mappings: whose containers.
            report: told after every page.

        Raises:
            TransientError: a store did not answer; begin again.

        """
        for name in mappings.containers:
            container = await self._store.existing_container(mappings.in_container(name)[0])
            for feed_range in await feed_ranges(container):
                async for page in pages(container, feed_range, None, self._page_size):
                    for mapping, documents in mappings.by_type(name, page.documents).items():
                        await self._compare(mapping, self._known(mapping, documents))
                        report(Progress(f"documents of {mapping.name}", self.found.documents, 0))
        return self.found

    def _known(self, mapping: EntityMapping[Any], documents: Sequence[Document]) -> dict[Identity, Document]:
        known: dict[Identity, Document] = {}
        for document in documents:
            author = author_of(document)
            if isinstance(author, Internal):
                continue
            self.found.documents += 1
            if isinstance(author, Ours):
                self.found.newest_epoch = max(self.found.newest_epoch, author.stamp.epoch)
            try:
                identity = mapping.identity(document)
            except DocumentRefusedError:
                identity = None
            if identity is None or not identity.can_be_stored:
                self.found.unreadable += 1
                log.warning("resync.unreadable_document", entity=mapping.name, etag=document.get("_etag"))
            else:
                known[identity] = document
        return known

    async def _compare(self, mapping: EntityMapping[Any], known: dict[Identity, Document]) -> None:
        """Compare a page with what is held, and keep what is to be kept, in one transaction."""
        letters: list[DeadLetter] = []
        orphans: dict[Identity, int] = {}
        with translated(f"comparing documents of {mapping.name}"):
            async with self._engine.begin() as connection:
                held_of = {held.identity: held for held in await _read(connection, mapping, list(known))}
                for identity, document in sorted(known.items()):
                    held = held_of.get(identity)
                    if held is None:
                        self.found.unreadable += 1
                        letters.append(_letter(identity, _UNREADABLE, document))
                    elif held.stamp is not None:
                        if _is_ahead(mapping, held, document):
                            self.found.ahead += 1
                            letters.append(_letter(identity, _AHEAD, document))
                    elif not is_deleted(document):
                        letters.append(_letter(identity, _ORPHAN, document))
                        orphans[identity] = claimed_version(document)
                if self._keep:
                    await _keep(connection, letters, orphans)
        self.found.orphans += len(orphans)


async def _keep(connection: AsyncConnection, letters: Sequence[DeadLetter], orphans: dict[Identity, int]) -> None:
    for letter in letters:
        await dead_letters.record(connection, letter)
    if orphans:
        await connection.exec_driver_sql(_BURY, {**identity_columns(orphans), "versions": list(orphans.values())})


async def _read(connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity]) -> list[Held]:
    """Read what is held; what no row can have for its key is found by halving, and left out."""
    try:
        async with connection.begin_nested():
            return await read_held(connection, mapping, identities)
    except (DBAPIError, DocumentRefusedError) as error:
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(identities) == 1:
            return []
    half = len(identities) // 2
    return [
        *await _read(connection, mapping, identities[:half]),
        *await _read(connection, mapping, identities[half:]),
    ]


def _is_ahead(mapping: EntityMapping[Any], held: Held, document: Document) -> bool:
    """Whether a document holds a state that Postgres should have and has not: no older stamp, and other content.

    Without a stamp that can be trusted it is a foreign document: the relay keeps those before it replaces them.
    """
    author = author_of(document)
    if not isinstance(author, Ours) or held.stamp is None or author.stamp < held.stamp:
        return False
    row = held.live_row
    if row is None or author.deleted:
        return (row is None) != author.deleted
    try:
        ours = row.document(mapping)
        if author.stamp == held.stamp:  # one state; but the model may have got another field since it was written
            return author.origin is Origin.POSTGRES and contradict(content_of(document), content_of(ours))
        return content_hash(ours) != content_hash(document)
    except Exception:  # noqa: BLE001 - the validators of a user's model run here; a row it cannot read is not the same
        return True


def _letter(identity: Identity, reason: str, document: Document) -> DeadLetter:
    return DeadLetter(Direction.TO_POSTGRES, LOST, identity, f"{reason} (etag {document.get('_etag')})", document)
