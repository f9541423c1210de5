"""Reads an account out of its file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.state.account import Account, Database
from core.local.cosmos.state.container import Container
from core.local.cosmos.state.partition import Change, Document, HistoryEntry, PhysicalPartition
from core.local.cosmos.state.unique_keys import unique_values
from core.local.cosmos.storage.file import StorageError, open_file, unusable
from core.local.cosmos.storage.journal import RID_BITS, FileJournal, numbers

if TYPE_CHECKING:
    from pathlib import Path

    from core.local.cosmos.clock import Clock


def open_account(file: Path, clock: Clock | None = None) -> Account:
    """Return the account that `file` holds, an empty one if it is new; changes are stored until `account.close()`.

    `clock` gives the account's time; one that stands at the system's time is moved to where the account's stood.

    Raises:
        StorageError: the file is in use, is no file of this server, has a newer format, cannot be written, is damaged.
    """
    connection = open_file(file)
    account = Account(clock)
    journal = FileJournal(connection, account)
    try:
        _read(connection, account, journal)
        account.clock.observers.append(journal.clock_moved)
    except sqlite3.Error as error:
        journal.close()
        raise unusable(file, error) from error
    except ValueError as error:
        journal.close()
        message = f"{file} is damaged: {error}."
        raise StorageError(message) from error
    except BaseException:
        journal.close()
        raise
    return account


def _read(connection: sqlite3.Connection, account: Account, journal: FileJournal) -> None:
    account.journal = journal
    row = connection.execute("SELECT last_etag, last_rid, clock_offset FROM account").fetchone()
    if row is None:
        row = (account.last_etag, account.last_rid, account.clock.offset)
        connection.execute("INSERT INTO account VALUES (1, ?, ?, ?)", row)
    account.last_etag, account.last_rid, offset = row
    if not account.clock.offset:
        account.clock.offset = offset
    connection.execute("UPDATE account SET clock_offset = ?", (account.clock.offset,))
    owners: dict[int, Database] = {}
    for number, properties in connection.execute("SELECT * FROM databases ORDER BY number"):
        values = orjson.loads(properties)
        owners[number] = account.databases[values["id"]] = Database(values["id"], number.to_bytes(4, "big"), values)
    for resource, properties in connection.execute("SELECT resource, properties FROM offers ORDER BY position"):
        account.offers[resource] = orjson.loads(properties)
    for row in connection.execute("SELECT * FROM containers ORDER BY number").fetchall():
        _read_container(connection, account, owners[row[1]], row)


def _read_container(connection: sqlite3.Connection, account: Account, owner: Database, row: tuple[Any, ...]) -> None:
    number, _, text, next_range, generation, keeps_history = row
    properties = orjson.loads(text)
    rid_bytes = owner.rid_bytes + (0x80000000 | number).to_bytes(4, "big")
    container = Container(properties, rid_bytes, properties["_self"], 1, account.clock)
    container.next_range, container.generation, container.keeps_history = next_range, generation, bool(keeps_history)
    partitions = []
    select = "SELECT * FROM partitions WHERE container = ? ORDER BY minimum"
    for _, id_, minimum, maximum, parents, born, lsn, history_start, last_rid, last_etag in connection.execute(
        select, (number,)
    ):
        partition = PhysicalPartition(id_, minimum, maximum, tuple(orjson.loads(parents)), lsn=lsn)
        partition.history_start, partition.generation = history_start, born
        partitions.append(partition)
        container.last_rid = max(container.last_rid, last_rid)
        account.last_etag = max(account.last_etag, last_etag)
    container.arrange(partitions)
    _read_documents(connection, container)
    _read_history(connection, container)
    container.restart_expiry()
    account.adopt(container, owner)


def _read_documents(connection: sqlite3.Connection, container: Container) -> None:
    found: dict[str, list[tuple[int, int, Document]]] = {partition.id: [] for partition in container.partitions}
    select = "SELECT * FROM documents WHERE number BETWEEN ? AND ?"
    for number, lsn, place, id_, key, epk, etag, ts, body in connection.execute(select, numbers(container)):
        rid = number & ((1 << RID_BITS) - 1)
        document = Document(id_=id_, key=key, epk=epk, raw=body, etag=etag, ts=ts, rid=rid, expires=None)
        document.lsn = lsn
        if container.unique_keys:
            document.unique = unique_values(container.unique_keys, orjson.loads(body))
        found[container.partition_of(epk).id].append((lsn, place, document))
    for partition in container.partitions:
        partition.load([document for _, _, document in sorted(found[partition.id], key=_when)])


def _when(entry: tuple[int, int, Document]) -> tuple[int, int]:
    return entry[:2]


def _read_history(connection: sqlite3.Connection, container: Container) -> None:
    select = "SELECT * FROM history WHERE container = ? ORDER BY position"
    for _, _, lsn, key, epk, time, expired, previous_lsn, new, old in connection.execute(select, (container.number,)):
        before, after = _version(key, epk, old), _version(key, epk, new)
        if before is not None:
            before.lsn = previous_lsn
        shown = after or before
        assert shown is not None
        entry = HistoryEntry(Change(before, after, ttl_expired=bool(expired)), shown, lsn, time)
        partition = container.partition_of(epk)
        if lsn > partition.history_start:
            partition.remember_change(entry)


def _version(key: bytes, epk: str, raw: bytes | None) -> Document | None:
    """Return a version of a document that the history shows: nothing but its bytes and its place is asked of it."""
    if raw is None:
        return None
    return Document(id_="", key=key, epk=epk, raw=raw, etag="", ts=0, rid=0, expires=None)
