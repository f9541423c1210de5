"""Knows the watermarks of a barrier, which both stores speak of: one that comes out of a feed was read that far."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from core.envelope import is_internal
from core.mapping import RESERVED_ID_PREFIX

if TYPE_CHECKING:
    from core.content import Document

BARRIER: Final = "barrier"
"""The `crossfeed.kind` of these documents."""

_ID: Final = re.compile(rf"{RESERVED_ID_PREFIX}{BARRIER}-[0-9a-f]{{1,64}}-[0-9]{{1,9}}")


def is_barrier_mark(document: Document) -> bool:
    """Whether a document of a feed is the watermark of a barrier, or a copy of one (its `_etag` tells them apart)."""
    id_ = document.get("id")
    # The id first: it is asked of every document of every feed.
    if not isinstance(id_, str) or not id_.startswith(RESERVED_ID_PREFIX):
        return False
    return _ID.fullmatch(id_) is not None and is_internal(document)
