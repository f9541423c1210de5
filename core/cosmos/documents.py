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
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosBatchOperationError

from core.cosmos.failures import DRIVER_ERRORS, Missing, failure_of, read_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity, KeyPart
    from core.mappings import Mappings


Charged: TypeAlias = Callable[[Mapping[str, Any], int], None]


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
        container = await self._container(identity)
        try:
            document = await container.read_item(identity.id, partition_key=key_value(identity.parts))
        except DRIVER_ERRORS as error:
            if isinstance(failure_of(error), Missing):
                self._charged(getattr(error, "headers", None) or {}, 1)
                return None
            raise read_error(error, f"reading {identity.entity} {identity.id!r}") from error
        headers = document.get_response_headers()
        self._charged(headers, 1)
        lsn = headers.get("lsn", "")
        return {**document, "_lsn": int(lsn)} if lsn.isdecimal() else dict(document)

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


def _keep_session(container: ContainerProxy, document: Document, headers: Mapping[str, str]) -> None:
    """Let the client know how far the partition is that answered a batch, with one of the batch's documents if any."""
    connection: Any = container.client_connection
    if connection.session is not None:  # None where the account's consistency is not that of sessions
        connection.session.update_session(connection, document, headers)


def key_value(parts: list[KeyPart]) -> Any:  # noqa: ANN401 - the SDK's own type has no name that may be imported
    """Return a partition key as the SDK takes it: one value, or a list of them for a hierarchical key."""
    return parts[0] if len(parts) == 1 else parts
