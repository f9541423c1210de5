"""Writes documents of one logical partition, all or nothing."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import bad_request, conflict, not_found, precondition_failed, too_large
from core.local.cosmos.state.partition import Change, Document
from core.local.cosmos.state.partition_key import canonical
from core.local.cosmos.state.unique_keys import unique_values
from core.local.cosmos.values import exact, too_deep

if TYPE_CHECKING:
    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.epk import PartitionKeyValue

MAX_DOCUMENT = 2 * 1024 * 1024
MAX_ID_BYTES = 1023
_SYSTEM = ("_rid", "_self", "_etag", "_attachments", "_ts", "_lsn")
_FORBIDDEN = frozenset("/\\?#")


class Transaction:
    """Operations on one logical partition that become visible together with one LSN at `commit`.

    Operations raise CosmosError: 400, 404, 409, 412, 413 as Cosmos DB answers them. After an error call `rollback`.
    """

    __slots__ = ("_account", "_changes", "_container", "epk", "key", "now", "partition")

    def __init__(self, account: Account, container: Container, key: PartitionKeyValue) -> None:
        self._account = account
        self._container = container
        self.key = canonical(key)
        self.epk = container.key_definition.epk(key)
        self.partition = container.partition_of(self.epk)
        self.now = account.clock.now()
        self._changes: list[Change] = []

    def find(self, id_: str) -> Document | None:
        """Return a document, or None."""
        return self.partition.get(self.key, id_)

    def read(self, id_: str) -> Document:
        """Return a document; 404 if there is none."""
        document = self.partition.get(self.key, id_)
        if document is None:
            raise not_found(f"Entity with the specified id does not exist in the system. id: {id_}")
        return document

    def create(self, body: dict[str, Any]) -> Document:
        """Insert a document; 409 if its id or a unique key is taken."""
        if self.find(checked_id(body)) is not None:
            raise conflict()
        return self._put(None, body)

    def upsert(self, body: dict[str, Any], if_match: str | None = None) -> tuple[Document, bool]:
        """Insert or replace a document; the flag says that it was inserted. `if_match` is ignored for an insert."""
        old = self.find(checked_id(body))
        if old is not None and if_match is not None:
            check_match(old, if_match)
        return self._put(old, body), old is None

    def replace(self, id_: str, body: dict[str, Any], if_match: str | None = None) -> Document:
        """Replace a document that is there; a new id in `body` renames it."""
        old = self.read(id_)
        if if_match is not None:
            check_match(old, if_match)
        if checked_id(body) != id_ and self.find(body["id"]) is not None:
            raise conflict()
        return self._put(old, body)

    def delete(self, id_: str, if_match: str | None = None) -> None:
        """Delete a document that is there."""
        old = self.read(id_)
        if if_match is not None:
            check_match(old, if_match)
        change = Change(old, None)
        self.partition.put(change)
        self._changes.append(change)

    def commit(self) -> int:
        """Make the changes visible under one new LSN and return it; without changes the current one.

        If they cannot be stored (500), they are undone.
        """
        if not self._changes:
            return self.partition.lsn
        try:
            lsn = self._container.commit(self.partition, self._changes, self.now)
        except BaseException:
            self.rollback()
            raise
        self._changes = []
        return lsn

    def rollback(self) -> None:
        """Undo all operations."""
        for change in reversed(self._changes):
            self.partition.revert(change)
        self._changes = []

    def _put(self, old: Document | None, body: dict[str, Any]) -> Document:
        container = self._container
        key = container.key_definition.of_document(body)
        # Compared as bytes: to Python, 1 is equal to true.
        if canonical(key) != self.key:
            raise bad_request(
                "PartitionKey extracted from document doesn't match the one specified in the header.", 1001
            )
        rid = container.next_rid() if old is None else old.rid
        for name in _SYSTEM:
            body.pop(name, None)
        ts = int(self.now)
        expires = container.expiry(body, ts)
        name = b64encode(container.rid_bytes + rid.to_bytes(8, "little")).decode().replace("/", "-")
        etag = self._account.next_etag(ts)
        body["_rid"] = name
        body["_self"] = f"{container.self_link}docs/{name}/"
        body["_etag"] = etag
        body["_attachments"] = "attachments/"
        body["_ts"] = ts
        try:
            raw = exact(orjson.dumps(body))
        except TypeError as error:
            raise bad_request("The document is nested too deeply, or holds a number that is too large.") from error
        if too_deep(body, raw):
            raise bad_request("The document is nested too deeply.")
        if len(raw) > MAX_DOCUMENT:
            raise too_large()
        document = Document(
            id_=body["id"], key=self.key, epk=self.epk, raw=raw, etag=etag, ts=ts, rid=rid, expires=expires
        )
        if container.unique_keys:
            document.unique = self._unique_values(body, old)
        change = Change(old, document)
        self.partition.put(change)
        self._changes.append(change)
        return document

    def _unique_values(self, body: dict[str, Any], old: Document | None) -> tuple[tuple[object, ...], ...]:
        found = unique_values(self._container.unique_keys, body)
        for index, values in enumerate(found):
            owner = self.partition.unique.get((self.key, index, values))
            if owner is not None and owner is not old:
                raise conflict("Unique index constraint violation.")
        return found


def checked_id(body: dict[str, Any]) -> str:
    """Return the id of a document.

    Raises:
        CosmosError: 400 for an id that is missing or that Cosmos DB refuses.
    """
    id_ = body.get("id")
    if not isinstance(id_, str):
        raise bad_request("The input content is invalid because the required properties - 'id; ' - are missing.")
    if not id_ or len(id_.encode()) > MAX_ID_BYTES or not _FORBIDDEN.isdisjoint(id_):
        raise bad_request(
            "The input name is invalid. Ensure to provide a unique non-empty string less than '1024' characters. "
            "It must not hold '/', '\\', '?' or '#'."
        )
    return id_


def check_match(document: Document, if_match: str) -> None:
    """Compare an If-Match header.

    Raises:
        CosmosError: 412 if it names another version.
    """
    if if_match not in {"*", document.etag}:
        raise precondition_failed()
