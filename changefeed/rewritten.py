"""Undoes what a host of Azure Functions may do to documents: its JSON can respell every text that looks like a date.

`dateParseHandling: None` in host.json forbids it, but not every extension version honours that. So documents that hold
such a text are read again by key, until a canary (core.cosmos.canaries) has come through this very host unaltered.
A document of ours whose hash verifies was not altered either.

A key may look like a date, too. Then it cannot be trusted to lead to the document, and `_rid` does.
"""

from __future__ import annotations

import asyncio
import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import structlog

from core.canary_marks import is_canary, seen_in
from core.content import ENVELOPE, content_of
from core.cosmos.canaries import is_unaltered
from core.envelope import Ours, author_of, is_internal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.canary_marks import SeenCanary
    from core.content import Document
    from core.identity import KeyPart

log = structlog.get_logger()

T = TypeVar("T")

AT_ONCE: Final = 16
"""How many documents of a batch are read again at the same time."""

# What Newtonsoft.Json takes for a date: 19 to 40 characters of ISO 8601, or Microsoft's own spelling of old.
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT.{8,29}|/Date\(.*\)/", re.DOTALL)


class Rereader(Protocol):
    """Reads the documents of one container again."""

    def key_of(self, document: Document) -> Sequence[KeyPart] | None:
        """Return id and partition key, None where it has none that can be read: it is left to whoever applies it."""
        ...

    async def by_key(self, document: Document, key: Sequence[KeyPart]) -> Document | None:
        """Return what is under this key, not older than shown, with its system properties; None if it is gone.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer, or one that is behind did.

        """
        ...

    async def by_rid(self, document: Document) -> Document | None:
        """Do the same by `_rid`, which is not the user's."""
        ...


class Spelling(Enum):
    """What is known of the host."""

    UNKNOWN = "unknown"
    UNALTERED = "unaltered"
    REWRITTEN = "rewritten"


class HostDates:
    """What the host of this process does to dates, by the canaries that came through it.

    For as long as the process lives: a worker is started by one host, and ends with it.
    """

    def __init__(self) -> None:
        self.spelling = Spelling.UNKNOWN

    def observe(self, documents: Sequence[Document]) -> list[SeenCanary]:
        """Look at the canaries of a batch; return them."""
        for document in documents:
            if is_canary(document):
                self._learn(Spelling.UNALTERED if is_unaltered(document) else Spelling.REWRITTEN)
        return seen_in(documents)

    def _learn(self, spelling: Spelling) -> None:
        if spelling is not self.spelling:
            self.spelling = spelling
            if spelling is Spelling.REWRITTEN:
                log.warning(
                    "trigger.host_rewrites_dates",
                    cure='extensions.cosmosDB.serializerSettings.dateParseHandling: "None" in host.json',
                )


async def as_written(documents: Sequence[Document], reader: Rereader, dates: HostDates) -> list[Document]:
    """Return a batch as it stands in Cosmos DB, in its order; what is there no longer is left out.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer; repeat.

    """
    if dates.spelling is Spelling.UNALTERED:
        return list(documents)
    permits = asyncio.Semaphore(AT_ONCE)

    async def again(document: Document) -> Document | None:
        key = reader.key_of(document)
        if key is None or not _may_be_altered(document, key):
            return document
        async with permits:
            return await (reader.by_rid(document) if holds_a_date(list(key)) else reader.by_key(document, key))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(again(document)) for document in documents]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [document for document in (task.result() for task in tasks) if document is not None]


def _may_be_altered(document: Document, key: Sequence[KeyPart]) -> bool:
    if is_internal(document):
        return False
    # Neither the id nor the events that ride along are part of the hash.
    if holds_a_date([*key, document.get(ENVELOPE)]):
        return True
    return holds_a_date(content_of(document)) and not isinstance(author_of(document), Ours)


def holds_a_date(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether a text in a JSON value, at any depth, could have been taken for a date."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            if _DATE.fullmatch(found):
                return True
        elif isinstance(found, dict):
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
    return False
