"""Reads and conditionally writes single documents, as everything that writes to Cosmos DB does.

Writes ask for the whole answer although only its ETag is used (4.17.1 of the client). The client files a session token
under the container that the answer's body names; for an answer without a body (`no_response`) to the first request of
a container it knows no name, and files the tokens of all such containers under one and the same. A read is then sent
with the token of another container, and refused (404/1002) until that container has come as far. Of a transactional
batch the client keeps no session token at all: a read after it could miss it. So it is told of it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from azure.core import MatchConditions

from core.cosmos.failures import DRIVER_ERRORS, Missing, failure_of, read_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity, KeyPart
    from core.mappings import Mappings


class Documents(Protocol):
    """What needs to look at a document itself, whoever wrote it, asks this."""

    async def read(self, identity: Identity) -> Document | None:
        """Return the document with its system properties (`_etag`, `_ts`), or None where there is none.

        Tombstones and Crossfeed's own documents are returned as well.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...


class CosmosDocuments:
    """The documents of all mapped containers, by point reads and conditional writes."""

    def __init__(self, store: CosmosStore, mappings: Mappings) -> None:
        self._store = store
        self._mappings = mappings

    async def read(self, identity: Identity) -> Document | None:
        """See Documents."""
        container = await self._container(identity)
        try:
            document = await container.read_item(identity.id, partition_key=key_value(identity.parts))
        except DRIVER_ERRORS as error:
            if isinstance(failure_of(error), Missing):
                return None
            raise read_error(error, f"reading {identity.entity} {identity.id!r}") from error
        return dict(document)

    async def create(self, identity: Identity, document: Document) -> str:
        """Write a document where there is none; return its ETag. Lets the client's errors (DRIVER_ERRORS) through."""
        container = await self._container(identity)
        answer = await container.create_item(document)
        return str(answer.get_response_headers()["etag"])

    async def replace(self, identity: Identity, document: Document, etag: str) -> str:
        """Write a document in place of exactly the one with this ETag; return the new ETag.

        Lets the client's errors (DRIVER_ERRORS) through.
        """
        container = await self._container(identity)
        answer = await container.replace_item(
            identity.id, document, etag=etag, match_condition=MatchConditions.IfNotModified
        )
        return str(answer.get_response_headers()["etag"])

    async def transact(self, identity: Identity, operations: Sequence[tuple[Any, ...]]) -> list[str]:
        """Do all operations, as the client takes them, in the logical partition of an identity; return the new ETags.

        Lets the client's errors (DRIVER_ERRORS) through.
        """
        container = await self._container(identity)
        results = await container.execute_item_batch(operations, partition_key=key_value(identity.parts))
        connection: Any = container.client_connection
        if connection.session is not None:  # None where the account's consistency is not that of sessions
            connection.session.update_session(
                connection, results[0].get("resourceBody") or {}, results.get_response_headers()
            )
        return [str(result["eTag"]) for result in results]

    async def _container(self, identity: Identity) -> ContainerProxy:
        return await self._store.existing_container(self._mappings.named(identity.entity))


def key_value(parts: list[KeyPart]) -> Any:  # noqa: ANN401 - the SDK's own type has no name that may be imported
    """Return a partition key as the SDK takes it: one value, or a list of them for a hierarchical key."""
    return parts[0] if len(parts) == 1 else parts
