"""Knows the canaries of feed ranges, which both stores speak of: one that comes out of a feed says how late it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.content import ENVELOPE
from core.envelope import Internal, author_of
from core.mapping import RESERVED_ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.content import Document

CANARY: Final = "canary"
"""The `crossfeed.kind` of these documents."""
SENT: Final = "sent"
"""The member of our property that says when it was written, in seconds since 1970 by the clock of Postgres."""

_ID: Final = re.compile(rf"{RESERVED_ID_PREFIX}{CANARY}-[0-9]{{1,9}}")
_END_OF_TIME: Final = 2**40
"""Seconds since 1970; Postgres knows no time that is eight times as far."""


@dataclass(frozen=True, slots=True)
class SeenCanary:
    """A canary that came out of a feed: its id, its `_etag`, and when it was written, in seconds since 1970."""

    id: str
    etag: str
    sent: float


def is_canary(document: Document) -> bool:
    """Whether a document is a canary; somebody else's copy of one is none, whatever it says under whatever id."""
    id_ = document.get("id")
    if not isinstance(id_, str) or not _ID.fullmatch(id_):  # first: it is asked of every document, and costs nothing
        return False
    author = author_of(document)
    return isinstance(author, Internal) and author.kind == CANARY


def seen_in(documents: Iterable[Document]) -> list[SeenCanary]:
    """Return the canaries among the documents of a page, of each id the last one."""
    found = {str(document["id"]): document for document in documents if is_canary(document)}
    return [SeenCanary(id_, str(document.get("_etag", "")), _sent(document)) for id_, document in found.items()]


def _sent(canary: Document) -> float:
    for seconds in (canary[ENVELOPE].get(SENT), canary.get("_ts")):
        if isinstance(seconds, int | float) and 0 <= seconds < _END_OF_TIME:
            return float(seconds)
    return 0.0
