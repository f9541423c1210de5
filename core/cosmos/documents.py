"""Reads and conditionally writes single documents, as everything that writes to Cosmos DB does.

Writes ask for the whole answer although only its ETag is used (4.17.1 of the client). The client files a session token
under the container that the answer's body names; for an answer without a body (`no_response`) to the first request of
a container it knows no name, and files the tokens of all such containers under one and the same. A read is then sent
with the token of another container, and refused (404/1002) until that container has come as far. Of a transactional
batch the client keeps no session token at all: a read after it could miss it, and a read after one that was refused
could miss what it was refused for. So it is told of it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosBatchOperationError

from core.cosmos.failures import DRIVER_ERRORS, Missing, failure_of, read_error
from core.cosmos.watermarks import WATERMARK_TTL_S, write_marks, write_watermarks
from core.envelope import internal_document
from core.errors import OutcomeUnknownError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity, KeyPart
    from core.mappings import Mappings


Charged: TypeAlias = Callable[[Mapping[str, Any], int], None]

_PRESENCE = "presence"
_PRESENCE_TTL_S = 3600


def _not_counted(headers: Mapping[str, Any], operations: int) -> None:
    pass


class Documents(Protocol):
    """What needs to look at a document itself, whoever wrote it, asks this."""

    async def read(self, identity: Identity) -> Document | None:
        """Return the document with its system properties (`_etag`, `_ts`, `_lsn`), or None where there is none.

        `_lsn` is how far the replica was that answered: past the document's own, and before all of its later ones.

        Tombstones and Crossfeed's own documents are returned as well.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...


@dataclass(frozen=True, slots=True)
class Looked:
    """What a point read found, None where there is none, and the `_lsn` of the replica that answered, if it told."""

    document: Document | None
    lsn: int | None


class CosmosDocuments:
    """The documents of all mapped containers, by point reads and conditional writes.

    Args:
        store: the opened database.
        mappings: of everything that will be read and written.
        charged: told the headers of every answer that is no error, and how many documents the request was about.

    """

    def __init__(self, store: CosmosStore, mappings: Mappings, charged: Charged = _not_counted) -> None:
        self._store = store
        self._mappings = mappings
        self._charged = charged

    async def read(self, identity: Identity) -> Document | None:
        """See Documents."""
        return (await self.look(identity)).document

    async def look(self, identity: Identity) -> Looked:
        """Read a document, and say how far the replica was that answered.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        container = await self._container(identity)
        return await look(container, identity.id, identity.parts, f"{identity.entity} {identity.id!r}", self._charged)

    async def reach(self, container: str, epoch: int) -> None:
        """Let no read of this container from now on be older than the opening of an epoch.

        The watermarks of the epoch are written, once more perhaps: no session goes back behind its own writes, and
        whoever moved the primary had ended all writes of before.

        Args:
            container: its name.
            epoch: opened before this call.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        if (container, epoch) not in self._store.reached:
            mapping = self._mappings.in_container(container)[0]
            try:
                await write_watermarks(self._store, mapping, epoch, WATERMARK_TTL_S)
            except OutcomeUnknownError as error:  # written or not: it will be written again
                raise StoreUnavailableError(str(error)) from error
            self._store.reached.add((container, epoch))

    async def catch_up(self, container: str) -> frozenset[str]:
        """Let no read of this container from now on be older than this call, whatever was written by whomever.

        A session that is new has seen nothing, and one that is old nothing of late: a replica that is behind may
        answer it, for minutes even from another region. No session goes back behind its own writes, so a document of
        ours is written into every feed range, always the same few. (At session consistency or stronger.)

        Args:
            container: its name.

        Returns:
            The ids of those documents: whoever reads a feed range as far as one of them has read what was there.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        await self._store.existing_container_named(container)
        mapping = self._mappings.in_container(container)[0]
        try:
            mark = partial(internal_document, _PRESENCE, 0)
            marks = await write_marks(self._store, mapping, _PRESENCE, _PRESENCE_TTL_S, mark)
        except OutcomeUnknownError as error:  # written or not: it will be written again
            raise StoreUnavailableError(str(error)) from error
        return frozenset(mark.id for mark in marks.values())

    async def prepare(self, identity: Identity) -> None:
        """Make sure that there is its container, so that no request stands between the next call and its write.

        Raises:
            StoreUnavailableError: there is none, or Cosmos DB did not answer.

        """
        await self._container(identity)

    async def create(self, identity: Identity, document: Document) -> str:
        """Write a document where there is none; return its ETag. Lets the client's errors (DRIVER_ERRORS) through."""
        container = await self._container(identity)
        answer = await container.create_item(document)
        return self._etag(answer.get_response_headers())

    async def replace(self, identity: Identity, document: Document, etag: str) -> str:
        """Write a document in place of exactly the one with this ETag; return the new ETag.

        Lets the client's errors (DRIVER_ERRORS) through.
        """
        container = await self._container(identity)
        answer = await container.replace_item(
            identity.id, document, etag=etag, match_condition=MatchConditions.IfNotModified
        )
        return self._etag(answer.get_response_headers())

    async def transact(self, identity: Identity, operations: Sequence[tuple[Any, ...]]) -> list[str]:
        """Do all operations, as the client takes them, in the logical partition of an identity; return the new ETags.

        Lets the client's errors (DRIVER_ERRORS) through.
        """
        return await transact(await self._container(identity), key_value(identity.parts), operations, self._charged)

    def _etag(self, headers: Mapping[str, Any]) -> str:
        self._charged(headers, 1)
        return str(headers["etag"])

    async def _container(self, identity: Identity) -> ContainerProxy:
        return await self._store.existing_container(self._mappings.named(identity.entity))


async def look(
    container: ContainerProxy, id_: str, parts: list[KeyPart], what: str, charged: Charged = _not_counted
) -> Looked:
    """Read a document of a container that exists, and say how far the replica was that answered.

    Args:
        container: the container.
        id_: the document's id.
        parts: its partition key, a value per level.
        what: the document, for messages.
        charged: told the headers of the answer.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    try:
        document = await container.read_item(id_, partition_key=key_value(parts))
    except DRIVER_ERRORS as error:
        if isinstance(failure_of(error), Missing):
            headers: Mapping[str, Any] = getattr(error, "headers", None) or {}
            charged(headers, 1)
            return Looked(None, _lsn_of(headers))
        raise read_error(error, f"reading {what}") from error
    headers = document.get_response_headers()
    charged(headers, 1)
    lsn = _lsn_of(headers)
    return Looked(dict(document) if lsn is None else {**document, "_lsn": lsn}, lsn)


async def transact(
    container: ContainerProxy,
    partition_key: Any,  # noqa: ANN401 - as the SDK takes it
    operations: Sequence[tuple[Any, ...]],
    charged: Charged = _not_counted,
) -> list[str]:
    """Do all operations, as the client takes them, in one logical partition, or none; return the new ETags.

    Lets the client's errors (DRIVER_ERRORS) through.
    """
    try:
        results = await container.execute_item_batch(operations, partition_key=partition_key)
    except CosmosBatchOperationError as error:
        _keep_session(container, {}, error.headers or {})
        raise
    headers = results.get_response_headers()
    charged(headers, len(operations))
    _keep_session(container, results[0].get("resourceBody") or {}, headers)
    return [str(result["eTag"]) for result in results]


def _lsn_of(headers: Mapping[str, Any]) -> int | None:
    lsn = str(headers.get("lsn", ""))
    return int(lsn) if lsn.isdecimal() else None


def _keep_session(container: ContainerProxy, document: Document, headers: Mapping[str, str]) -> None:
    """Let the client know how far the partition is that answered a batch, with one of the batch's documents if any."""
    connection: Any = container.client_connection
    if connection.session is not None:  # None where the account's consistency is not that of sessions
        connection.session.update_session(connection, document, headers)


def key_value(parts: list[KeyPart]) -> Any:  # noqa: ANN401 - the SDK's own type has no name that may be imported
    """Return a partition key as the SDK takes it: one value, or a list of them for a hierarchical key."""
    return parts[0] if len(parts) == 1 else parts
