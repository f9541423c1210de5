"""Keeps what a comparison needs of all documents, and of the rows that may differ from them, on disk.

It is a private database of SQLite in a temporary file that nobody else can open, about 200 bytes a document, so that
memory does not grow with the container.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from core.errors import TransientError
from core.identity import Identity
from core.migration.digests import FIRST_BITS, Digest, etag_token, key_hash, stamp_token, state_hash, unsigned
from core.migration.documents_side import Shown
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from core.mapping import EntityMapping

T = TypeVar("T")

_SIGN: Final = 1 << 63
_FETCHED: Final = 2000

_TABLES = (
    """
    CREATE TABLE shown (
        key INTEGER NOT NULL, token INTEGER NOT NULL, partition_key TEXT NOT NULL, id TEXT NOT NULL,
        is_live INTEGER NOT NULL, is_published INTEGER NOT NULL, epoch INTEGER, version INTEGER, etag TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE held (
        bucket INTEGER NOT NULL, partition_key TEXT NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL,
        version INTEGER NOT NULL, etag TEXT
    )
    """,
)
_KEEP = "INSERT INTO shown VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_HOLD = "INSERT INTO held VALUES (?, ?, ?, ?, ?, ?)"
_STATES = "SELECT key, token, is_live FROM shown WHERE key & ? IN (SELECT value FROM json_each(?))"
# What was shown last comes last.
_BY_BUCKET = """
    SELECT bucket, 0 AS place, partition_key, id, epoch, version, etag, NULL, NULL FROM held
    UNION ALL
    SELECT key & ?1, rowid, partition_key, id, epoch, version, etag, is_live, is_published FROM shown
    WHERE key & ?1 IN (SELECT value FROM json_each(?2))
    ORDER BY 1, 2
"""


class Row(NamedTuple):
    """A row, as far as a comparison of states looks at it; `etag` is that of the document it was last taken from."""

    identity: Identity
    stamp: Stamp
    etag: str | None


class Spool:
    """The documents of one mapping with their digests in the buckets of the first comparison, and rows beside them.

    Args:
        mapping: of the documents.
        database: an SQLite database of its own.

    """

    def __init__(self, mapping: EntityMapping[Any], database: sqlite3.Connection) -> None:
        self._mapping = mapping
        self._database = database
        for table in _TABLES:
            database.execute(table)
        self.digests: dict[int, Digest] = {}

    def keep(self, some: Sequence[Shown]) -> None:
        """Take in documents, in the order in which they were shown."""
        rows = []
        for one in some:
            key = key_hash(self._mapping, one.identity)
            token = stamp_token(one.stamp) if one.is_published and one.stamp else etag_token(one.etag)
            epoch, version = one.stamp or (None, None)
            rows.append(
                (
                    *map(_signed, (key, token)),
                    *one.identity[1:],
                    one.is_live,
                    one.is_published,
                    epoch,
                    version,
                    one.etag,
                )
            )
            if one.is_live:
                _count(self.digests, key & ((1 << FIRST_BITS) - 1), key, token)
        self._database.executemany(_KEEP, rows)

    def finer(self, parent: int, buckets: set[int], mask: int) -> dict[int, Digest]:
        """Return the digests in the buckets of `mask` of what is in `buckets` of the mask `parent`."""
        digests: dict[int, Digest] = {}
        for key, token, is_live in self._database.execute(_STATES, (parent, json.dumps(sorted(buckets)))):
            if is_live:
                _count(digests, unsigned(key) & mask, unsigned(key), unsigned(token))
        return digests

    def hold(self, rows: Sequence[tuple[int, Row]]) -> None:
        """Take in rows with their buckets, in any order."""
        self._database.executemany(_HOLD, [(bucket, *row.identity[1:], *row.stamp, row.etag) for bucket, row in rows])

    async def pairs(self, mask: int, buckets: set[int]) -> AsyncGenerator[tuple[Row | None, Shown | None]]:
        """Yield row and document of every identity in some buckets of a mask, None for what there is not."""
        with closing(self._database.cursor()) as cursor:
            await asyncio.to_thread(cursor.execute, _BY_BUCKET, (mask, json.dumps(sorted(buckets))))
            at: int | None = None
            pairs: dict[Identity, tuple[Row | None, Shown | None]] = {}
            while found := await asyncio.to_thread(cursor.fetchmany, _FETCHED):
                for bucket, _, *facts in found:
                    if bucket != at:
                        for pair in pairs.values():
                            yield pair
                        at, pairs = bucket, {}
                    self._put(pairs, facts)
            for pair in pairs.values():
                yield pair

    def _put(self, pairs: dict[Identity, tuple[Row | None, Shown | None]], facts: Sequence[Any]) -> None:
        partition_key, id_, epoch, version, etag, is_live, is_published = facts
        identity = Identity(self._mapping.name, partition_key, id_)
        row, _ = pairs.get(identity, (None, None))
        stamp = None if epoch is None else Stamp(epoch, version)
        if is_live is None:
            assert stamp is not None
            pairs[identity] = Row(identity, stamp, etag), None
        else:
            pairs[identity] = row, Shown(identity, stamp, bool(is_published), etag, bool(is_live))


def _count(digests: dict[int, Digest], bucket: int, key: int, token: int) -> None:
    count, xor = digests.get(bucket, (0, 0))
    digests[bucket] = Digest(count + 1, xor ^ state_hash(key, token))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= _SIGN else number


@contextmanager
def spooling(mappings: Sequence[EntityMapping[Any]]) -> Iterator[dict[EntityMapping[Any], Spool]]:
    """Yield an empty spool for each mapping; what they keep is gone afterwards, whatever happens.

    Raises:
        TransientError: there is no room for it.

    """
    opened = [sqlite3.connect("", check_same_thread=False, isolation_level=None) for _ in mappings]
    try:
        for database in opened:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
        yield {mapping: Spool(mapping, database) for mapping, database in zip(mappings, opened, strict=True)}
    except sqlite3.OperationalError as error:
        msg = f"keeping what was read in the temporary directory: {error}; it needs about 200 bytes a document"
        raise TransientError(msg) from error
    finally:
        for database in opened:
            database.close()
