"""Writes a canary into every feed range of a container: it shows whether a reader of the feed lives, and what it does.

A canary carries texts that look like dates. Whoever reads the feed by way of JSON that takes such texts for dates
shows another spelling of them: seven digits of which the last is a zero lose it, another offset becomes the local one.
Seven digits that all count would pass unharmed, and prove nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from core.content import ENVELOPE
from core.cosmos.watermarks import write_marks
from core.envelope import Internal, author_of, internal_document
from core.mapping import RESERVED_ID_PREFIX

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.watermarks import Watermark
    from core.mapping import EntityMapping

CANARY: Final = "canary"
"""The `crossfeed.kind` of these documents."""

_ID: Final = re.compile(rf"{RESERVED_ID_PREFIX}{CANARY}-[0-9]{{1,9}}")

DATES: Final = (
    "2026-01-31T08:00:00.1234560Z",
    "2026-01-31T08:00:00.0000000+05:45",
    "2026-01-31T08:00:00.0000000",
    "/Date(1769846400000)/",
)
"""What every canary holds, to the letter."""


async def write_canaries(store: CosmosStore, mapping: EntityMapping[Any], epoch: int, ttl: int) -> dict[str, Watermark]:
    """Write the canary of every feed range of the mapping's container, again and again under the same few ids.

    Args:
        store: the opened database.
        mapping: whose container.
        epoch: the recorded epoch.
        ttl: how long they live unless they are written again, in seconds.

    Returns:
        What was written, by the key of its feed range.

    Raises:
        StoreUnavailableError: Cosmos DB did not take one of them; some may have been written.
        OutcomeUnknownError: one of them was not answered; some may have been written.

    """

    def mark(placeholder: Document) -> Document:
        document = internal_document(CANARY, epoch, placeholder)
        document[ENVELOPE]["dates"] = list(DATES)
        return document

    return await write_marks(store, mapping, CANARY, ttl, mark)


def is_canary(document: Document) -> bool:
    """Whether a document is a canary; somebody else's copy of one is none, whatever it says under whatever id."""
    id_ = document.get("id")
    if not isinstance(id_, str) or not _ID.fullmatch(id_):  # first: it is asked of every document, and costs nothing
        return False
    author = author_of(document)
    return isinstance(author, Internal) and author.kind == CANARY


def is_unaltered(canary: Document) -> bool:
    """Whether a canary shows its dates as they were written."""
    return bool(canary[ENVELOPE].get("dates") == list(DATES))
