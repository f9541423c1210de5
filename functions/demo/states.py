"""Reads everything that is in both stores, in one shape, for the comparison and the export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.content import content_of
from core.cosmos.failures import DRIVER_ERRORS, read_error
from core.envelope import Internal, Ours, author_of, is_deleted
from core.errors import DocumentRefusedError
from core.identity import Identity
from core.postgres.held import Held, read_held
from core.postgres.names import literal, partition_key_of, table_name
from functions.demo.stores import fetch

if TYPE_CHECKING:
    from core.content import Document
    from core.mapping import EntityMapping
    from core.stamp import Stamp
    from functions.demo.stores import Stores

CHUNK = 500


@dataclass(frozen=True, slots=True)
class State:
    """One document, or its tombstone, in one store.

    Args:
        content: the user's own part; None for a tombstone.
        stamp: None if it was written by a foreign writer, or cannot be believed.
        etag: of the document; in Postgres that of the one taken last.

    """

    content: Document | None
    stamp: Stamp | None
    etag: str | None


States = dict[Identity, State]


async def in_cosmos(stores: Stores, mapping: EntityMapping[Any]) -> States:
    """Return every document and tombstone of a container; a stamp only where the hash verifies."""
    found: States = {}
    try:
        async for document in stores.cosmos.container(mapping).query_items("SELECT * FROM c", max_item_count=CHUNK):
            author = author_of(document)
            if isinstance(author, Internal):
                continue
            content = None if is_deleted(document) else content_of(document)
            stamp = author.stamp if isinstance(author, Ours) else None
            found[mapping.identity(document)] = State(content, stamp, str(document["_etag"]))
    except DRIVER_ERRORS as error:
        raise read_error(error, f"reading all of {mapping.container!r}") from error
    return found


async def in_postgres(stores: Stores, mapping: EntityMapping[Any]) -> States:
    """Return every row, rebuilt as its document, and every tombstone of a mapped table."""
    found: States = {}
    async with stores.engine.connect() as connection:
        identities = [Identity(*row) for row in await fetch(connection, _identities(mapping))]
        for start in range(0, len(identities), CHUNK):
            for held in await read_held(connection, mapping, identities[start : start + CHUNK]):
                found[held.identity] = _state(mapping, held)
    return found


def _state(mapping: EntityMapping[Any], held: Held) -> State:
    row = held.live_row
    if row is None:
        etag = held.tombstone.taken_etag if held.tombstone is not None else None
        return State(None, held.stamp, etag)
    try:
        content = row.document(mapping)
    except DocumentRefusedError:
        content = {}  # equal to no document
    return State(content, row.stamp, row.taken_etag)


def _identities(mapping: EntityMapping[Any]) -> str:
    return f"""
        SELECT {literal(mapping.name)}, {partition_key_of(mapping, "t")}, t.id FROM {table_name(mapping.table)} t
        UNION SELECT entity, partition_key, id FROM crossfeed.tombstone WHERE entity = {literal(mapping.name)}
    """  # noqa: S608 - quoted names of a mapping
