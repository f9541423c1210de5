"""Looks at single identities in both stores, by key, and says how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DBAPIError

from core.cosmos.gathering import all_ended
from core.cosmos.patience import patiently_read
from core.envelope import Origin, is_deleted
from core.errors import DocumentRefusedError
from core.migration.contents import differing_fields
from core.migration.documents_side import Shown, shown_of
from core.migration.parity import Difference, DifferenceKind
from core.migration.spool import Row
from core.postgres.failures import is_documents_fault, translated
from core.postgres.held import Held, read_held

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.documents import CosmosDocuments
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings

_READ_AT_ONCE: Final = 16
_PART: Final = 500


@dataclass(frozen=True, slots=True)
class Rules:
    """When row and document are the same state.

    Args:
        primary: the store that takes the writes.
        cosmos_epochs: the epochs in which Cosmos DB was the primary.

    """

    primary: Origin
    cosmos_epochs: frozenset[int]

    def are_same(self, row: Row, shown: Shown) -> bool:
        """Whether a row and a live document are the same state.

        What the relay wrote has the row's stamp, and stamps of Postgres are given once. What Cosmos DB wrote has the
        `_etag` that the row has taken; while Postgres is the primary that says something only of rows that were not
        written since.
        """
        if shown.is_published and shown.stamp == row.stamp:
            return True
        is_untouched = self.primary is Origin.COSMOS or row.stamp.epoch in self.cosmos_epochs
        return is_untouched and row.etag == shown.etag

    def difference(self, row: Row | None, shown: Shown | None) -> Difference | None:
        """Return how row and document of one identity differ by their states, None if they do not."""
        document = shown if shown is not None and shown.is_live else None
        stamp = None if shown is None else shown.stamp
        is_primary_in_postgres = self.primary is Origin.POSTGRES
        if row is not None and document is not None:
            if self.are_same(row, document):
                return None
            is_claimed = is_primary_in_postgres and document.stamp == row.stamp
            kind = DifferenceKind.DIFFERENT if is_claimed else DifferenceKind.STALE
            return Difference(row.identity, kind, row.stamp, stamp)
        if row is not None:
            kind = DifferenceKind.MISSING if is_primary_in_postgres else DifferenceKind.EXTRA
            return Difference(row.identity, kind, row.stamp, stamp)
        if document is not None:
            kind = DifferenceKind.EXTRA if is_primary_in_postgres else DifferenceKind.MISSING
            return Difference(document.identity, kind, None, stamp)
        return None


@dataclass(frozen=True, slots=True)
class Sight:
    """What both stores hold of one identity.

    Args:
        held: in Postgres.
        document: its document, None where there is none.
        beside: a document of another type that has its key, in a container of several types.

    """

    held: Held
    document: Document | None
    beside: Document | None = None

    @property
    def is_shown(self) -> bool:
        """Whether there is a live document."""
        return self.document is not None and not is_deleted(self.document)

    def state_in(self, primary: Origin) -> object:
        """Return what changes whenever the primary's state does."""
        match primary:
            case Origin.POSTGRES:
                return self.held.stamp
            case Origin.COSMOS:
                return None if self.document is None else self.document.get("_etag")

    def difference(self, rules: Rules, mapping: EntityMapping[Any], *, deep: bool) -> Difference | None:
        """Return how they differ, None if they do not; `deep` compares the contents of the same states too."""
        identity = self.held.identity
        row = self.held.row
        shown = None if self.document is None else shown_of(identity, self.document)
        found = rules.difference(None if row is None else Row(identity, row.stamp, row.taken_etag), shown)
        is_both = row is not None and self.is_shown
        if found is None and not (deep and is_both):
            return None
        fields: tuple[str, ...] = ()
        if is_both:
            assert row is not None
            assert self.document is not None
            fields = differing_fields(mapping, row, self.document)
        if found is None:
            assert row is not None
            stamp = None if shown is None else shown.stamp
            return Difference(identity, DifferenceKind.DIFFERENT, row.stamp, stamp, fields) if fields else None
        return Difference(identity, found.kind, self.held.stamp, found.cosmos, fields)


async def look(
    engine: AsyncEngine, documents: CosmosDocuments, mappings: Mappings, identities: Iterable[Identity]
) -> dict[Identity, Sight]:
    """Read rows and documents by key; the documents first, so that a row is never older than what is its document.

    Args:
        engine: the database.
        documents: reads documents.
        mappings: all mappings of the process.
        identities: those that a row could have.

    Raises:
        TransientError: a store did not answer.

    """
    wanted = list(identities)
    found: dict[Identity, Sight] = {}
    for start in range(0, len(wanted), _PART):
        part = wanted[start : start + _PART]
        found |= await look_beside(engine, mappings, await _read(documents, part))
    return found


async def look_beside(
    engine: AsyncEngine, mappings: Mappings, documents: Mapping[Identity, Document | None]
) -> dict[Identity, Sight]:
    """Read the rows of documents that were read already; see `look`."""
    of_type: dict[str, list[Identity]] = {}
    for identity in documents:
        of_type.setdefault(identity.entity, []).append(identity)
    found: dict[Identity, Sight] = {}
    with translated("reading rows by key"):
        async with engine.connect() as connection:
            for entity, wanted in of_type.items():
                for start in range(0, len(wanted), _PART):
                    held = await _held(connection, mappings.named(entity), wanted[start : start + _PART])
                    found |= {one.identity: _sight(mappings, one, documents[one.identity]) for one in held}
    return found


def _sight(mappings: Mappings, held: Held, document: Document | None) -> Sight:
    mapping = mappings.named(held.identity.entity)
    if document is not None and mappings.mapping_of(mapping.container, document) is not mapping:
        return Sight(held, None, document)
    return Sight(held, document)


async def _read(documents: CosmosDocuments, identities: Sequence[Identity]) -> dict[Identity, Document | None]:
    found: dict[Identity, Document | None] = {}
    waiting = iter(identities)

    async def read() -> None:
        for identity in waiting:
            found[identity] = await patiently_read(partial(documents.read, identity))

    await all_ended(read() for _ in range(min(_READ_AT_ONCE, len(identities))))
    return found


async def _held(connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity]) -> list[Held]:
    """Read what is held; a key that no row of the table can have is found by halving, and nothing is held of it."""
    try:
        async with connection.begin_nested():
            return await read_held(connection, mapping, identities)
    except (DBAPIError, DocumentRefusedError) as error:
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(identities) == 1:
            return [Held(identities[0], None, None)]
    half = len(identities) // 2
    return [
        *await _held(connection, mapping, identities[:half]),
        *await _held(connection, mapping, identities[half:]),
    ]
