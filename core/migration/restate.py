"""Makes Postgres say a state anew, where what says which state it is (stamp, `_etag`) would keep a repair out.

Each is a guarded write: the mapped tables and the phase first, then the identities, then whatever is decided.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.content import dump
from core.envelope import Ours, author_of
from core.postgres.authority import Change
from core.postgres.engine import fetch
from core.postgres.guarded import lock_and_check, lock_identities
from core.postgres.held import key_record, read_held
from core.postgres.mirrored_rows import bury, heal
from core.postgres.names import records, same_identity, table_name
from core.stamp import AFTER_ALL, Position, Stamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.held import Held

_MIRRORING = "SELECT set_config('crossfeed.mirroring', %(state)s, true)"


async def count_rows(connection: AsyncConnection, mapping: EntityMapping[Any]) -> int:
    """Return how many rows a mapped table has."""
    [(count,)] = await fetch(connection, f"SELECT count(*) FROM {table_name(mapping.table)}", {})
    return int(count)


async def forget_taken(
    connection: AsyncConnection, mappings: Mappings, identities: Sequence[Identity], phase: PhaseRow
) -> None:
    """Forget from which documents rows were taken, so that the next apply reads them by key and takes them again.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet.
        mappings: all mappings of the process.
        identities: of one container.
        phase: the recorded phase; Cosmos DB is the primary in it.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.

    """
    if not identities:
        return
    async for mapping, held in _guarded(connection, mappings, identities, phase):
        keys = dump([key_record(mapping, one.identity) for one in held])
        await connection.exec_driver_sql(_MIRRORING, {"state": "on"})
        await connection.exec_driver_sql(_forget(mapping), {"keys": keys})
        await connection.exec_driver_sql(_MIRRORING, {"state": "off"})


async def restamp(
    connection: AsyncConnection, mappings: Mappings, identities: Sequence[Identity], phase: PhaseRow
) -> None:
    """Give rows a new stamp, so that what is sent of them is newer than what was sent under the old one.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet.
        mappings: all mappings of the process.
        identities: of one container; whatever has no row is left alone.
        phase: the recorded phase; Postgres is the primary in it.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.

    """
    if not identities:
        return
    async for mapping, held in _guarded(connection, mappings, identities, phase):
        for one in held:
            if one.row is not None:
                await heal(connection, mapping, one)


async def bury_absent(
    connection: AsyncConnection, mappings: Mappings, versions: Mapping[Identity, int], phase: PhaseRow
) -> None:
    """Write the tombstones of identities of which Postgres holds nothing newer, and no row, and log them.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet.
        mappings: all mappings of the process.
        versions: of identities of one container, the versions in this epoch that their tombstones must exceed.
        phase: the recorded phase; Postgres is the primary in it.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.

    """
    if not versions:
        return
    async for mapping, held in _guarded(connection, mappings, list(versions), phase):
        absent = [
            one
            for one in held
            if one.row is None and (one.stamp is None or one.stamp <= Stamp(phase.epoch, versions[one.identity]))
        ]
        buried = [
            (
                Change(one.identity, {}, "", Position(0, AFTER_ALL), deleted=True),
                Stamp(phase.epoch, versions[one.identity]),
            )
            for one in absent
        ]
        await connection.exec_driver_sql(_MIRRORING, {"state": "on"})
        await bury(connection, mapping, buried)
        await connection.exec_driver_sql(_MIRRORING, {"state": "off"})
        for one in absent:
            await heal(connection, mapping, one)


def version_claimed(document: Document, phase: PhaseRow) -> int:
    """Return the version in this epoch that a document has for certain, 0 where it has none: see `bury_absent`."""
    author = author_of(document)
    return author.stamp.version if isinstance(author, Ours) and author.stamp.epoch == phase.epoch else 0


async def _guarded(
    connection: AsyncConnection, mappings: Mappings, identities: Sequence[Identity], phase: PhaseRow
) -> AsyncIterator[tuple[EntityMapping[Any], list[Held]]]:
    """Take the locks of a guarded write, then yield what is held, mapping by mapping."""
    types = mappings.in_container(mappings.named(identities[0].entity).container)
    await lock_and_check(connection, types, phase)
    await lock_identities(connection, identities)
    for mapping in types:
        of_type = [identity for identity in identities if identity.entity == mapping.name]
        if of_type:
            yield mapping, await read_held(connection, mapping, of_type)


@lru_cache(maxsize=256)
def _forget(mapping: EntityMapping[Any]) -> str:
    return f"""
        UPDATE {table_name(mapping.table)} t SET crossfeed_etag = NULL, crossfeed_ts = NULL, crossfeed_lsn = NULL
        FROM {records(mapping, "keys")} AS r WHERE {same_identity(mapping, "t", "r")}
    """
