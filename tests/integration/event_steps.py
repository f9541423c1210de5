"""What the tests of domain events share: a tiny event, what the log holds of it, and what its consumers see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from core.cosmos.event_sink import EventMessage
from core.cosmos.feed import feed_ranges, pages
from core.events import Event, subject_of
from core.identity import Identity

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore


class Said(Event, name="said"):
    """The number says when it was recorded."""

    number: int


def account(id_: str = "a") -> Identity:
    return Identity.of("Account", [id_], id_)


async def log_of_events(engine: AsyncEngine, after: int = 0) -> list[EventMessage]:
    """The events in the log, in its order."""
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT seq, entity, partition_key, id, event_id, event::text, traceparent FROM crossfeed.outbox"
            " WHERE event_id IS NOT NULL AND seq > %(after)s ORDER BY seq",
            {"after": after},
        )
        return [
            EventMessage(seq, Identity(entity, key, id_), event_id, event, parent, 0.0)
            for seq, entity, key, id_, event_id, event, parent in map(tuple, result)
        ]


def numbers(messages: list[EventMessage], of: Identity | None = None) -> list[int]:
    """What was said, of one aggregate or of all."""
    return [json.loads(message.event)["data"]["number"] for message in messages if of in {None, message.identity}]


async def delivered(store: CosmosStore, of: Identity) -> list[int]:
    """What consumers of the container's change feed are told of an aggregate, in their order."""
    container = store.container_named(store.own.events.name)
    return [
        document["data"]["number"]
        for feed_range in await feed_ranges(container)
        async for page in pages(container, feed_range, None, 100)
        for document in page.documents
        if document["subject"] == subject_of(of)
    ]
