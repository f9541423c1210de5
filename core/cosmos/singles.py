"""Writes one document at a time: tries the write that fits what is known of it, looks where that was wrong."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, assert_never

import structlog

from core.cosmos.examine import names
from core.cosmos.failures import (
    DRIVER_ERRORS,
    Changed,
    CosmosUnavailableError,
    Exists,
    Missing,
    Unacceptable,
    Unanswered,
    Unavailable,
    failure_of,
)
from core.cosmos.publish import Postponed, Refused, Superseded, Unchanged, Written
from core.cosmos.views import Absent, Seen

if TYPE_CHECKING:
    from core.cosmos.calls import Call
    from core.cosmos.documents import CosmosDocuments
    from core.cosmos.examine import Examiner
    from core.cosmos.lanes import Lane
    from core.cosmos.publish import Outcome, Publish, Quarantine
    from core.cosmos.views import View, Views

_log = structlog.get_logger()

MAX_ROUNDS = 16
"""How often one document is read again because somebody else wrote it in between, before it counts as contended."""


class SingleWriter:
    """Writes documents one by one.

    Args:
        documents: reads and writes them.
        views: what is known of them.
        examiner: judges what is found.
        quarantine: knows whether Postgres still is primary.

    """

    def __init__(self, documents: CosmosDocuments, views: Views, examiner: Examiner, quarantine: Quarantine) -> None:
        self._documents = documents
        self._views = views
        self._examiner = examiner
        self._quarantine = quarantine

    async def look(self, item: Publish, call: Call, lane: Lane) -> View | Outcome:
        """Read what is there and judge it.

        Raises:
            CosmosUnavailableError: Cosmos DB did not answer.
            CrossfeedError: see Examiner.judge.

        """
        identity = item.identity
        found = await lane.send(
            partial(self._documents.read, identity), call.may_read, identity.partition_key, backlog=call.backlog
        )
        return await self._examiner.judge(item, found)

    async def write(self, item: Publish, call: Call, lane: Lane, *, look_first: bool = False) -> Outcome:
        """Write a state if it is newer than what is there; return what became of it.

        Raises:
            CosmosUnavailableError: infrastructure failed, or others write this document all the time.
            CrossfeedError: see Examiner.judge, and whatever the call's `check` raises.

        """
        view: View | Outcome | None = None if look_first else self._views.expected(item)
        key_conflicts = 0
        for turn in range(MAX_ROUNDS):
            match view:
                case None:
                    view = await self.look(item, call, lane)
                case Seen() | Absent():
                    key_conflicts += isinstance(view, Absent) and view.looked
                    view = await self._try(item, view, call, lane, is_next=turn > 0)
                    if view is None and key_conflicts > 1:
                        return refused(item, 409, "another document of its partition holds one of its unique keys")
                case Written() | Unchanged() | Superseded() | Refused() | Postponed():
                    return view
                case other:
                    assert_never(other)
        msg = f"{item.identity.entity} {item.identity.id!r} was written by others too often in a row"
        raise CosmosUnavailableError(msg)

    async def _try(
        self, item: Publish, view: View, call: Call, lane: Lane, *, is_next: bool
    ) -> Written | Refused | Absent | None:
        """Try the one conditional write that fits the view; None: the view was wrong, look again."""
        try:
            etag = await lane.send(
                partial(self._send, item, view, call),
                call.may_read,
                item.identity.partition_key,
                backlog=call.backlog,
                is_next=is_next,
            )
        except DRIVER_ERRORS as error:
            self._views.forget(item.identity)
            match failure_of(error):
                case Exists() if isinstance(view, Seen):
                    return refused(item, 409, "another document of its partition holds one of its unique keys")
                case Exists() | Changed():
                    return None
                case Missing():
                    return Absent(looked=False)
                case Unacceptable(status, reason):
                    return refused(item, status, reason)
                case Unavailable(reason, retry_after_s):
                    raise CosmosUnavailableError(f"writing {item.identity.entity}: {reason}", retry_after_s) from error
                case Unanswered(reason):  # repeating it is harmless here: its own stamp will be found
                    raise CosmosUnavailableError(f"writing {item.identity.entity}: {reason}") from error
                case other:
                    assert_never(other)
        self._views.keep(item.identity, Seen(etag, item.stamp))
        return Written(etag)

    async def _send(self, item: Publish, view: View, call: Call) -> str:
        await self._documents.prepare(item.identity)
        if isinstance(view, Absent):
            await self._quarantine.confirm(item)
            call.may_write()
            return await self._documents.create(item.identity, item.document)
        call.may_write()
        return await self._documents.replace(item.identity, item.document, view.etag)


def refused(item: Publish, status: int, reason: str) -> Refused:
    """Say that a document will never be taken, and log it."""
    _log.warning("cosmos.write_refused", **names(item), status=status, reason=reason)
    return Refused(status, reason)
