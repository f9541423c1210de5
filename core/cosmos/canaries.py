"""Writes a canary into every feed range of a container: it shows whether a reader of the feed lives, and what it does.

A canary carries texts that look like dates. Whoever reads the feed by way of JSON that takes such texts for dates
shows another spelling of them: seven digits of which the last is a zero lose it, another offset becomes the local one.
Seven digits that all count would pass unharmed, and prove nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.canary_marks import CANARY, SENT
from core.content import ENVELOPE
from core.cosmos.failures import DRIVER_ERRORS, write_error
from core.cosmos.watermarks import write_marks
from core.envelope import internal_document
from core.identity import Identity
from core.mapping import RESERVED_ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.watermarks import Watermark
    from core.mapping import EntityMapping
    from core.mappings import Mappings

CANARY_TTL_S: Final = 24 * 3600
"""How long a canary lives, in seconds; one that was not written for so long is of a range or a slot that is no more."""

DATES: Final = (
    "2026-01-31T08:00:00.1234560Z",
    "2026-01-31T08:00:00.0000000+05:45",
    "2026-01-31T08:00:00.0000000",
    "/Date(1769846400000)/",
)
"""What every canary holds, to the letter."""


async def write_canaries(
    store: CosmosStore,
    mapping: EntityMapping[Any],
    carried: tuple[float, int],
    ttl: int = CANARY_TTL_S,
    held: Collection[str] = (),
) -> dict[str, Watermark]:
    """Write the canary of every feed range of the mapping's container, again and again under the same few ids.

    Args:
        store: the opened database.
        mapping: whose container.
        carried: what they carry: when they were written, in seconds since 1970 by the clock of Postgres, and the epoch.
        ttl: how long they live unless they are written again, in seconds.
        held: the ids of those that are left as they are (see `core.cosmos.watermarks.write_marks`).

    Returns:
        What is there, by the key of its feed range.

    Raises:
        StoreUnavailableError: Cosmos DB did not take one of them; some may have been written.
        OutcomeUnknownError: one of them was not answered; some may have been written.

    """
    sent, epoch = carried

    def mark(placeholder: Document) -> Document:
        document = internal_document(CANARY, epoch, placeholder)
        document[ENVELOPE] |= {SENT: sent, "dates": list(DATES)}
        return document

    return await write_marks(store, mapping, CANARY, ttl, mark, held=held)


class SlotCanaries:
    """The documents of the canaries of slots: where the documents, or the events, of the slot go.

    Every container gets the canaries of some slots, always the same ones, as long as there are as many slots.

    Args:
        store: the opened database.
        mappings: all mappings of the process.

    """

    def __init__(self, store: CosmosStore, mappings: Mappings) -> None:
        self._store = store
        self._mappings = mappings

    async def write(self, slot: int, epoch: int, *, of_events: bool) -> None:
        """Write the canary of a slot once more.

        Raises:
            StoreUnavailableError: Cosmos DB did not take it.
            OutcomeUnknownError: it was not answered.
            CrossfeedError: Cosmos DB refuses it.

        """
        id_ = f"{RESERVED_ID_PREFIX}slot-{slot}"
        own = self._store.own.events
        if of_events:
            name, document = own.name, {"id": id_, own.path.lstrip("/"): id_, "ttl": CANARY_TTL_S}
        else:
            containers = self._mappings.containers
            mapping = self._mappings.in_container(containers[slot % len(containers)])[0]
            identity = Identity.of(mapping.name, [id_] * len(mapping.paths), id_)
            name, document = mapping.container, mapping.placeholder(identity, CANARY_TTL_S)
        try:
            await self._store.container_named(name).upsert_item(internal_document(CANARY, epoch, document))
        except DRIVER_ERRORS as error:
            raise write_error(error, f"writing the canary of slot {slot} to {name!r}") from error


def is_unaltered(canary: Document) -> bool:
    """Whether a canary shows its dates as they were written."""
    return bool(canary[ENVELOPE].get("dates") == list(DATES))
