"""Writes every change of an account to its file, each in one SQLite transaction."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.cosmos.state.account import Account, Database
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import Change, Document, PhysicalPartition

RID_BITS = 38  # of a document's number in the file, below its container's: one key, and no second index
_log = logging.getLogger(__name__)


class FileJournal:
    """The journal of an account in its SQLite file; see state.journal.Journal."""

    def __init__(self, connection: sqlite3.Connection, account: Account) -> None:
        self._connection = connection
        self._account = account
        self._is_failing = False

    def close(self) -> None:
        """Close the file; every change is refused from then on."""
        if self.clock_moved in self._account.clock.observers:
            self._account.clock.observers.remove(self.clock_moved)
        self._connection.close()

    def documents_changed(
        self, container: Container, partition: PhysicalPartition, changes: list[Change], now: float, *, trimmed: bool
    ) -> None:
        """Store what one transaction changes in a partition; `trimmed`: the partition has just dropped old history."""
        lsn = partition.lsn + 1
        base = container.number << RID_BITS
        latest: dict[int, tuple[int, Document | None]] = {}
        for place, change in enumerate(changes):
            if change.new is not None:
                latest[change.new.rid] = (place, change.new)
            elif change.old is not None:
                latest[change.old.rid] = (place, None)
        rows = [
            (base | rid, lsn, place, new.id, new.key, new.epk, new.etag, new.ts, new.raw)
            for rid, (place, new) in latest.items()
            if new is not None
        ]
        history_start = partition.history_start if container.keeps_history else lsn
        counters = (lsn, history_start, container.last_rid, self._account.last_etag, container.number, partition.id)
        with self._transaction() as connection:
            if rows:
                connection.executemany(_PUT_DOCUMENT, rows)
            if len(rows) < len(latest):
                gone = [(base | rid,) for rid, (_, new) in latest.items() if new is None]
                connection.executemany("DELETE FROM documents WHERE number = ?", gone)
            connection.execute(_COUNT, counters)
            if container.keeps_history:
                connection.executemany(_ADD_HISTORY, [_history(container, change, lsn, now) for change in changes])
            if trimmed:
                bounds = (container.number, history_start, partition.minimum, partition.maximum)
                connection.execute(_TRIM_HISTORY, bounds)

    def history_kept(self, container: Container) -> None:
        """Store that a container keeps its history from now on."""
        with self._transaction() as connection:
            connection.execute("UPDATE containers SET keeps_history = 1 WHERE number = ?", (container.number,))

    def partitions_replaced(
        self, container: Container, parents: list[PhysicalPartition], children: list[PhysicalPartition]
    ) -> None:
        """Store that `children` take the place of `parents`; documents and their history go with their keys."""
        with self._transaction() as connection:
            rows = [(container.number, parent.id) for parent in parents]
            connection.executemany("DELETE FROM partitions WHERE container = ? AND id = ?", rows)
            self._add_partitions(container, children)
            connection.execute(
                "UPDATE containers SET next_range = next_range + ?, generation = generation + 1 WHERE number = ?",
                (len(children), container.number),
            )

    def container_created(self, container: Container, offer: dict[str, Any] | None) -> None:
        """Store a container that has no documents, with its offer if it has one of its own."""
        with self._transaction() as connection:
            owner = int.from_bytes(container.rid_bytes[:4], "big")
            properties = _json(container.properties)
            row = (container.number, owner, properties, container.next_range, container.generation)
            connection.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, 0)", row)
            self._add_partitions(container, container.partitions)
            self._account_changed(offer)

    def container_changed(self, container: Container, properties: dict[str, Any]) -> None:
        """Store a container's new properties."""
        with self._transaction() as connection:
            row = (_json(properties), container.number)
            connection.execute("UPDATE containers SET properties = ? WHERE number = ?", row)
            self._account_changed(None)

    def container_deleted(self, container: Container) -> None:
        """Remove a container with all that is in it."""
        with self._transaction():
            self._remove(container)
            self._account_changed(None)

    def database_created(self, database: Database, offer: dict[str, Any] | None) -> None:
        """Store a database that has no containers, with its offer if it has one."""
        with self._transaction() as connection:
            row = (int.from_bytes(database.rid_bytes, "big"), _json(database.properties))
            connection.execute("INSERT INTO databases VALUES (?, ?)", row)
            self._account_changed(offer)

    def database_deleted(self, database: Database) -> None:
        """Remove a database with all its containers."""
        with self._transaction() as connection:
            for container in database.containers.values():
                self._remove(container)
            number = int.from_bytes(database.rid_bytes, "big")
            connection.execute("DELETE FROM databases WHERE number = ?", (number,))
            connection.execute("DELETE FROM offers WHERE resource = ?", (database.rid,))
            self._account_changed(None)

    def offer_changed(self, offer: dict[str, Any]) -> None:
        """Store an offer's new content."""
        with self._transaction():
            self._account_changed(offer)

    def clock_moved(self, offset: float) -> None:
        """Store how far the clock is ahead of the system's, in seconds."""
        with self._transaction() as connection:
            connection.execute("UPDATE account SET clock_offset = ?", (offset,))

    def _account_changed(self, offer: dict[str, Any] | None) -> None:
        account = self._account
        counters = (account.last_etag, account.last_rid)
        self._connection.execute("UPDATE account SET last_etag = ?, last_rid = ?", counters)
        if offer is not None:
            self._connection.execute(_PUT_OFFER, (offer["offerResourceId"], _json(offer)))

    def _add_partitions(self, container: Container, partitions: list[PhysicalPartition]) -> None:
        for p in partitions:
            place = (container.number, p.id, p.minimum, p.maximum, _json(p.parents), p.generation)
            counters = (p.lsn, p.history_start, container.last_rid, self._account.last_etag)
            self._connection.execute("INSERT INTO partitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", place + counters)

    def _remove(self, container: Container) -> None:
        number = (container.number,)
        self._connection.execute("DELETE FROM containers WHERE number = ?", number)
        self._connection.execute("DELETE FROM partitions WHERE container = ?", number)
        self._connection.execute("DELETE FROM history WHERE container = ?", number)
        self._connection.execute("DELETE FROM documents WHERE number BETWEEN ? AND ?", numbers(container))
        self._connection.execute("DELETE FROM offers WHERE resource = ?", (container.properties["_rid"],))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if not self._is_failing:  # a full disk fails every write: it is logged once
                self._is_failing = True
                _log.error("cosmos.change_not_stored: %s", error)
            message = f"The change could not be stored, and was undone: {error}."
            raise CosmosError(500, message) from error
        except BaseException:
            self._roll_back()
            raise
        self._is_failing = False

    def _roll_back(self) -> None:
        # After some errors, a full disk among them, SQLite has done it already; a closed file has no transaction.
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            _log.exception("cosmos.rollback_failed")


def numbers(container: Container) -> tuple[int, int]:
    """Return the first and the last number that documents of a container may have in the file."""
    first = container.number << RID_BITS
    return first, first | ((1 << RID_BITS) - 1)


def _history(container: Container, change: Change, lsn: int, now: float) -> tuple[object, ...]:
    old, new = change.old, change.new
    shown = new or old
    assert shown is not None
    # What was written earlier in the same transaction has no LSN yet.
    previous = 0 if old is None else old.lsn or lsn
    image = (None if new is None else new.raw, None if old is None else old.raw)
    return (container.number, lsn, shown.key, shown.epk, now, change.ttl_expired, previous, *image)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


_PUT_DOCUMENT = (
    "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET lsn = excluded.lsn, "
    "place = excluded.place, id = excluded.id, etag = excluded.etag, ts = excluded.ts, body = excluded.body"
)
_COUNT = "UPDATE partitions SET lsn = ?, history_start = ?, last_rid = ?, last_etag = ? WHERE container = ? AND id = ?"
_ADD_HISTORY = "INSERT INTO history VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TRIM_HISTORY = "DELETE FROM history WHERE container = ? AND lsn <= ? AND epk >= ? AND epk < ?"
_PUT_OFFER = (
    "INSERT INTO offers VALUES (NULL, ?, ?) ON CONFLICT (resource) DO UPDATE SET properties = excluded.properties"
)
