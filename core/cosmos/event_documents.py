"""Says how a domain event looks as a document, and finds those that are there already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.content import Document, check_content, content_of, load_exact
from core.cosmos.failures import DRIVER_ERRORS, read_error
from core.errors import DocumentRefusedError
from core.events import subject_of
from core.identity import check_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.cosmos.client import CosmosStore
    from core.identity import Identity

SEQUENCE: Final = "sequence"
"""CloudEvents' extension for the order of events: the number in the log, as text of 20 digits.

It grows along an aggregate's events as long as Postgres is not restored; the order of the change feed always holds.
"""


@dataclass(frozen=True, slots=True)
class EventMessage:
    """One event of the log.

    Args:
        seq: its number in the log.
        identity: its aggregate.
        event_id: unique among the events of its aggregate.
        event: its CloudEvents envelope, JSON.
        traceparent: of the writer, if there was one.
        age_s: how long ago it was written when it was read, in seconds.

    """

    seq: int
    identity: Identity
    event_id: str
    event: str
    traceparent: str | None
    age_s: float


def document_of(event: EventMessage) -> Document:
    """Return the document of an event: its envelope, with its place in the order.

    Raises:
        DocumentRefusedError: it is no JSON object, or Cosmos DB cannot hold it.

    """
    document = load_exact(event.event)
    if not isinstance(document, dict):
        msg = "the event is no JSON object"
        raise DocumentRefusedError(msg)
    document |= {
        "id": document_id(event.event_id),
        "subject": subject_of(event.identity),
        SEQUENCE: f"{event.seq:020}",
    }
    if event.traceparent is not None:
        document.setdefault("traceparent", event.traceparent)
    check_content(document)
    return document


def document_id(event_id: str) -> str:
    """Return the event's id, or what stands for one that Cosmos DB does not take."""
    try:
        return check_id(event_id)
    except DocumentRefusedError:
        return f"event-{hashlib.blake2b(event_id.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


def is_same_event(there: Document, document: Document) -> bool:
    """Compare two events; one that was put into the log again has another number."""
    return {**content_of(there), SEQUENCE: None} == {**content_of(document), SEQUENCE: None}


async def delivered_ids(store: CosmosStore, identity: Identity, event_ids: Sequence[str]) -> set[str]:
    """Return which of these events of an aggregate are in the container; one that came just now may be missing.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer, or the container does not exist.

    """
    names = {document_id(event_id): event_id for event_id in event_ids}
    container = store.container_named(store.own.events.name)
    found = await find(container, subject_of(identity), [*names], what="VALUE c.id")
    return {names[str(name)] for name in found}


async def find(container: ContainerProxy, subject: str, ids: list[str], what: str = "*") -> list[Any]:
    """Select from the documents of an aggregate that have these ids.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    rows = container.query_items(
        query=f"SELECT {what} FROM c WHERE ARRAY_CONTAINS(@ids, c.id)",  # noqa: S608 - a constant
        parameters=[{"name": "@ids", "value": ids}],
        partition_key=subject,
    )
    try:
        return [row async for row in rows]
    except DRIVER_ERRORS as error:
        raise read_error(error, "reading events") from error


async def erase_events(store: CosmosStore, identity: Identity) -> int:
    """Delete the events of an aggregate from their container; return how many there were.

    Readers of the feed that have not come to them yet will not see them.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer; some may be gone.

    """
    container, subject = store.container_named(store.own.events.name), subject_of(identity)
    erased = 0
    try:
        async for found in container.query_items("SELECT c.id FROM c", partition_key=subject):
            await container.delete_item(str(found["id"]), partition_key=subject)
            erased += 1
    except DRIVER_ERRORS as error:
        raise read_error(error, "erasing the events of an aggregate") from error
    return erased
