"""Reads under which stamp and `_etag` identities are held, without their rows: all that a comparison needs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.exc import DBAPIError

from core.content import dump
from core.errors import DocumentRefusedError
from core.postgres.engine import fetch
from core.postgres.failures import is_documents_fault
from core.postgres.held import key_record
from core.postgres.names import is_tombstone, partition_key_of, records, same_identity, table_name
from core.stamp import Position, Stamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping


class Standing(NamedTuple):
    """What is held of one identity: the newer of row and tombstone.

    `stamp` is None where there is neither. `etag` and `taken` are of the document it was last taken from, if it was.
    """

    stamp: Stamp | None
    etag: str | None
    taken: Position | None
    is_live: bool


_NOTHING = Standing(None, None, None, is_live=False)


async def read_standings(
    connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity]
) -> list[Standing | None]:
    """Return the standing of each identity, in the given order; None where no row of the table can have its key.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    if not identities:
        return []
    try:
        keys = dump([key_record(mapping, identity) for identity in identities])
        async with connection.begin_nested():
            rows = await fetch(connection, _statement(mapping), {"keys": keys})
    except (DBAPIError, DocumentRefusedError) as error:
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(identities) == 1:
            return [None]
        half = len(identities) // 2
        return [
            *await read_standings(connection, mapping, identities[:half]),
            *await read_standings(connection, mapping, identities[half:]),
        ]
    return [_standing(row[:_COLUMNS], row[_COLUMNS:]) for row in rows]


_COLUMNS = 5
"""Epoch, version, `_etag`, `_ts` and `_lsn`, of the row and then of the tombstone."""


def _standing(row: tuple[Any, ...], tombstone: tuple[Any, ...]) -> Standing:
    if row[0] is None and tombstone[0] is None:
        return _NOTHING
    is_live = row[0] is not None and (tombstone[0] is None or row[:2] > tombstone[:2])
    epoch, version, etag, ts, lsn = row if is_live else tombstone
    return Standing(Stamp(epoch, version), etag, None if ts is None else Position(ts, lsn), is_live)


@lru_cache(maxsize=256)
def _statement(mapping: EntityMapping[Any]) -> str:
    return f"""
        SELECT t.crossfeed_epoch, t.crossfeed_version, t.crossfeed_etag, t.crossfeed_ts, t.crossfeed_lsn,
            d.epoch, d.version, d.etag, d.ts, d.lsn
        FROM {records(mapping, "keys")} WITH ORDINALITY AS w
        LEFT JOIN {table_name(mapping.table)} t ON {same_identity(mapping, "t", "w")}
        LEFT JOIN crossfeed.tombstone d ON {is_tombstone(mapping, "d", partition_key_of(mapping, "w"), "w.id")}
        ORDER BY w.ordinality
    """
