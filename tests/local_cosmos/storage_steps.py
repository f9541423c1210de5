"""An account in a file, and what tests do to it without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.local.cosmos.state.transaction import Transaction
from core.local.cosmos.storage.journal import FileJournal
from core.local.cosmos.storage.restore import open_account

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container


BY_PK: dict[str, Any] = {"partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, "defaultTtl": -1}


def filled_account(file: Path) -> Account:
    """Return an account in a file, with a few documents in `db/items` and a second container."""
    account = open_account(file)
    account.create_database({"id": "db"}, None, None)
    account.create_container("db", {"id": "items", **BY_PK}, 12_000, None)
    account.create_container("db", {"id": "more", **BY_PK}, 12_000, None)
    put(account, *[{"id": str(n), "pk": "p", "n": n} for n in range(3)])
    put(account, {"id": "brief", "pk": "q", "ttl": 100})
    return account


def items(account: Account) -> Container:
    return account.container("db", "items")


def put(account: Account, *bodies: dict[str, Any]) -> None:
    transaction = Transaction(account, items(account), (bodies[0]["pk"],))
    for body in bodies:
        transaction.upsert(dict(body))
    transaction.commit()


def remove(account: Account, id_: str) -> None:
    transaction = Transaction(account, items(account), ("p",))
    transaction.delete(id_)
    transaction.commit()


def connection_of(account: Account) -> sqlite3.Connection:
    assert isinstance(account.journal, FileJournal)
    return account.journal._connection
