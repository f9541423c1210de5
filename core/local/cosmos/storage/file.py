"""Opens the SQLite file of an account for one process alone."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION = 0x43664462  # "CfDb", where SQLite and `file` look for it
FORMAT = 1
_WAIT = 0.5  # seconds for a process that is just ending
_CHECKPOINT_PAGES = 8192  # 32 MB: the log's size, and how often the disk is waited for
_CACHE_KIB = 16 * 1024

SCHEMA = (
    """CREATE TABLE account (
        one INTEGER PRIMARY KEY CHECK (one = 1), last_etag INTEGER, last_rid INTEGER, clock_offset REAL
    )""",
    "CREATE TABLE databases (number INTEGER PRIMARY KEY, properties TEXT)",
    """CREATE TABLE containers (
        number INTEGER PRIMARY KEY, "database" INTEGER, properties TEXT,
        next_range INTEGER, generation INTEGER, keeps_history INTEGER
    )""",
    "CREATE TABLE offers (position INTEGER PRIMARY KEY, resource TEXT UNIQUE, properties TEXT)",
    # The counters of container and account stand here too: what every write of a document changes is one row.
    """CREATE TABLE partitions (
        container INTEGER, id TEXT, minimum TEXT, maximum TEXT, parents TEXT, generation INTEGER,
        lsn INTEGER, history_start INTEGER, last_rid INTEGER, last_etag INTEGER,
        PRIMARY KEY (container, id)
    ) WITHOUT ROWID""",
    # `place` is the position within the transaction. The partition is not kept, it follows from `epk`.
    """CREATE TABLE documents (
        number INTEGER PRIMARY KEY, lsn INTEGER, place INTEGER,
        id TEXT, "key" BLOB, epk TEXT, etag TEXT, ts INTEGER, body BLOB
    )""",
    """CREATE TABLE history (
        position INTEGER PRIMARY KEY, container INTEGER, lsn INTEGER, "key" BLOB, epk TEXT,
        "time" REAL, expired INTEGER, previous_lsn INTEGER, new BLOB, old BLOB
    )""",
    "CREATE INDEX history_by_lsn ON history (container, lsn)",
)


class StorageError(Exception):
    """The file of an account cannot be used; the message names it and says why."""


class FileInUseError(StorageError):
    """Another process has the file."""


def open_file(file: Path) -> sqlite3.Connection:
    """Open or make the file; until it is closed, or the process ends in any way, no other process can open it.

    Raises:
        StorageError: in use, no file of this server, one of a newer format, not writable, damaged.
    """
    try:
        if file.is_dir():
            message = f"{file} is a directory, not a file."
            raise StorageError(message)
        if not file.absolute().parent.is_dir():
            message = f"{file} cannot be made: there is no directory {file.absolute().parent}."
            raise StorageError(message)
        # Absolute, because SQLite gives `:memory:` a meaning of its own.
        connection = sqlite3.connect(file.absolute(), timeout=_WAIT, isolation_level=None, check_same_thread=False)
    except (sqlite3.Error, OSError, ValueError) as error:
        message = f"{file} cannot be opened: {error}."
        raise StorageError(message) from error
    try:
        _prepare(connection, file)
    except sqlite3.Error as error:
        connection.close()
        raise unusable(file, error) from error
    except StorageError:
        connection.close()
        raise
    return connection


def unusable(file: Path, error: sqlite3.Error) -> StorageError:
    """Return the error that says why SQLite cannot use the file."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return FileInUseError(f"{file} is in use: another server has it open.")
        case sqlite3.SQLITE_NOTADB:
            return StorageError(f"{file} is not a file of the embedded Cosmos DB.")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StorageError(f"{file} cannot be written: {error}.")
        case sqlite3.SQLITE_CORRUPT:
            return StorageError(f"{file} is damaged: {error}.")
    return StorageError(f"{file} cannot be used: {error}.")


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    # Taken by the first access and kept. The lock is the process's: when it is killed, the lock is gone.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN IMMEDIATE")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0]
    connection.execute("COMMIT")
    if not is_empty and application != APPLICATION:
        message = f"{file} is not a file of the embedded Cosmos DB."
        raise StorageError(message)
    if not is_empty and version != FORMAT:
        message = f"{file} has format {version}; this version reads format {FORMAT}: use the version that wrote it."
        raise StorageError(message)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {2 * _CHECKPOINT_PAGES * 4096}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if is_empty:
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
