"""Reads what Postgres holds of given identities, row and tombstone in one statement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.content import Document, dump, load_exact
from core.errors import DocumentRefusedError
from core.postgres.engine import fetch
from core.postgres.names import is_tombstone, partition_key_of, same_identity, table_name
from core.postgres.selects import children_of, row_of
from core.stamp import Position, Stamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row as it is now. `taken` and `taken_etag` are what it last took from Cosmos DB, if it ever did.

    `json` and `children` are the row's columns, empty where they were not read (`stamps_query`).
    """

    stamp: Stamp
    taken: Position | None
    taken_etag: str | None
    json: str
    children: dict[str, str]

    def document(self, mapping: EntityMapping[Any]) -> Document:
        """Rebuild the row's document.

        Raises:
            DocumentRefusedError: the row does not fit its model, or cannot live in Cosmos DB.

        """
        row = load_exact(self.json)
        row.update({name: load_exact(items) for name, items in self.children.items()})
        document = mapping.document_of_row(row)
        mapping.check(document)
        return document


@dataclass(frozen=True, slots=True)
class HeldTombstone:
    """A tombstone as it is now."""

    stamp: Stamp
    taken: Position | None
    taken_etag: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """Row and tombstone of one identity; both may be there, the newer stamp counts."""

    identity: Identity
    row: HeldRow | None
    tombstone: HeldTombstone | None

    @property
    def stamp(self) -> Stamp | None:
        """The newest stamp held, None if nothing was ever held."""
        return max((part.stamp for part in (self.row, self.tombstone) if part is not None), default=None)

    @property
    def taken(self) -> Position | None:
        """The newest position taken from the change feed, None if nothing was."""
        return max(
            (part.taken for part in (self.row, self.tombstone) if part is not None and part.taken is not None),
            default=None,
        )

    @property
    def live_row(self) -> HeldRow | None:
        """The row, if it is newer than its own tombstone."""
        if self.row is None or (self.tombstone is not None and self.tombstone.stamp >= self.row.stamp):
            return None
        return self.row


def key_record(mapping: EntityMapping[Any], identity: Identity) -> dict[str, Any]:
    """Return the identity's columns as a JSON object for jsonb_populate_recordset.

    Raises:
        DocumentRefusedError: its partition key is none of the mapping's.

    """
    try:
        return {**dict(zip(mapping.key_columns, identity.parts, strict=True)), "id": identity.id}
    except (TypeError, ValueError) as error:
        msg = f"the partition key has not the levels of {mapping.name}'s"
        raise DocumentRefusedError(msg) from error


Record = tuple[Any, ...]
"""What is held of one identity, as the statement gave it; `held_of` makes sense of it.

Epoch, version, `_etag`, `_ts`, `_lsn` and JSON of the row, the first five of its tombstone, and for each child table
its rows as JSON. A plain tuple, the driver's: there is one for every document.
"""


async def read_held(
    connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity]
) -> list[Held]:
    """Return what is held of each identity, in the given order, as of one snapshot.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer, or refused a key.
        DocumentRefusedError: a partition key has not the mapping's levels.

    """
    records = await read_records(connection, mapping, identities)
    return [held_of(mapping, identity, record) for identity, record in zip(identities, records, strict=True)]


async def read_records(
    connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity]
) -> list[Record]:
    """Return what is held of each identity, in the given order, as of one snapshot; raises as `read_held` does.

    The identities arrive as one JSON parameter that Postgres turns into the table's own types, so every key column
    is compared by its index.
    """
    if not identities:
        return []
    return await fetch(connection, *held_query(mapping, identities))


def held_query(mapping: EntityMapping[Any], identities: Sequence[Identity]) -> tuple[str, dict[str, Any]]:
    """Return the statement that reads the records of identities in their order, and its parameters.

    Raises:
        DocumentRefusedError: a partition key has not the mapping's levels.

    """
    return _statement(mapping), {"keys": _keys(mapping, identities)}


def stamps_query(mapping: EntityMapping[Any], identities: Sequence[Identity]) -> tuple[str, dict[str, Any]]:
    """Return what `held_query` does, but for the row's columns: several times cheaper where there are rows."""
    return _stamps_statement(mapping), {"keys": _keys(mapping, identities)}


def held_of(mapping: EntityMapping[Any], identity: Identity, record: Record) -> Held:
    """Return what a record says of an identity."""
    row = tombstone = None
    if record[_STAMPS] is not None:
        names = (child.table.name for child in mapping.children)
        children = dict(zip(names, record[_RECORD:], strict=True))
        row = HeldRow(*_stamps(record[:_STAMPS]), record[_STAMPS], children)
    if record[_STAMPS + 1] is not None:
        tombstone = HeldTombstone(*_stamps(record[_STAMPS + 1 : _RECORD]))
    return Held(identity, row, tombstone)


_STAMPS = 5
_RECORD = 11


def _stamps(values: Sequence[Any]) -> tuple[Stamp, Position | None, str | None]:
    epoch, version, etag, ts, lsn = values
    return Stamp(epoch, version), (Position(ts, lsn) if ts is not None else None), etag


def _keys(mapping: EntityMapping[Any], identities: Sequence[Identity]) -> str:
    """Spell the identities' columns as a JSON array of objects.

    Where one column is both the partition key and the id, the id counts.
    """
    if len(mapping.key_columns) > 1:
        return dump([key_record(mapping, identity) for identity in identities])
    [name] = mapping.key_columns
    return dump(
        [
            {name: identity.partition_key[2:-2], "id": identity.id}
            if identity.has_text_key
            else key_record(mapping, identity)
            for identity in identities
        ]
    )


@lru_cache(maxsize=256)
def _statement(mapping: EntityMapping[Any]) -> str:
    return _reading(mapping, row_of(mapping), children_of(mapping))


@lru_cache(maxsize=256)
def _stamps_statement(mapping: EntityMapping[Any]) -> str:
    return _reading(mapping, "CASE WHEN t.id IS NOT NULL THEN '' END", ", ''" * len(mapping.children))


def _reading(mapping: EntityMapping[Any], row: str, children: str) -> str:
    table = table_name(mapping.table)
    return f"""
        SELECT t.crossfeed_epoch, t.crossfeed_version, t.crossfeed_etag, t.crossfeed_ts, t.crossfeed_lsn,
            {row}, d.epoch, d.version, d.etag, d.ts, d.lsn {children}
        FROM jsonb_populate_recordset(NULL::{table}, %(keys)s::jsonb) WITH ORDINALITY AS w
        LEFT JOIN {table} t ON {same_identity(mapping, "t", "w")}
        LEFT JOIN crossfeed.tombstone d ON {is_tombstone(mapping, "d", partition_key_of(mapping, "w"), "w.id")}
        ORDER BY w.ordinality
    """
