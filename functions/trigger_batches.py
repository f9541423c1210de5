"""Applies what a Cosmos DB trigger is handed: one batch, in one transaction, or an error that brings it again.

The host moves its lease on when a function returns, and, for want of a retry policy, also when it raises. So all
triggers have one without an end (functions.feeds), and whatever cannot be applied is a dead letter before this returns:
an error means infrastructure, a conflict, or a fault of the program, and none of them may cost a document.

The phase is read after the host has read the documents. The guarded write does not mind: a row of an earlier epoch
believes a change only that it has read by key itself (core.postgres.authority), and such reads are never older than the
batch (changefeed.fresh).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, assert_never

import structlog

from changefeed.consumers import Consumers
from changefeed.deletes import ObservedDeletes
from changefeed.fresh import FreshContainer, FreshDocuments
from changefeed.mirror import Mirror
from changefeed.progress import Delivery, record_failure
from changefeed.rewritten import as_written
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed_all_versions import current_documents, is_all_versions
from core.errors import CrossfeedError, DocumentRefusedError
from core.key_path import KeyPath
from core.postgres.failures import translated
from core.postgres.mirror_parking import MirrorPatience
from core.postgres.phases import read_phase
from functions.triggers import Feeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.content import Document
    from core.identity import Identity
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from functions.bootstrap import Application
    from functions.runtime import Runtime
    from functions.triggers import Trigger

log = structlog.get_logger()

BATCH_S: Final = 480.0
"""How long a batch may take, in seconds: less than `functionTimeout` of host.json, when the host kills the worker."""
RECORD_S: Final = 5.0
"""How long it may take to record that a batch failed, in seconds."""
_MAX_DIGITS: Final = 400
"""Of an integer that a double could hold; one with more is infinite, and its document a dead letter."""


class BatchFailedError(Exception):
    """A fault of the program stopped a batch, which comes again; the message says where, and no values."""


async def take(runtime: Runtime, trigger: Trigger, payload: str, attempt: int) -> None:
    """Apply one batch.

    Args:
        runtime: the connections.
        trigger: who was handed it.
        payload: the JSON text that the host hands over.
        attempt: how often it has been tried before.

    Raises:
        CrossfeedError: a setting, a store, or somebody else stood in the way; the batch must come again.
        BatchFailedError: a fault of the program; the batch must come again.

    """
    try:
        async with runtime.application() as application:
            await _recorded(runtime, application, trigger, payload)
    except CrossfeedError as error:
        log.warning("trigger.repeats", **_facts(trigger, attempt, error), reason=str(error))
        raise
    except Exception as error:  # noqa: BLE001 - the outermost of a batch
        frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
        log.error("trigger.failed", **_facts(trigger, attempt, error), where=frames)  # noqa: TRY400 - values
        msg = f"{type(error).__name__} at {', '.join(frames)}"
        raise BatchFailedError(msg) from None  # its own text and traceback may quote values


def items_of(payload: str) -> list[Document]:
    """Read what the host hands over. Numbers are read as the SDK reads them.

    Raises:
        ValueError: it is no JSON array of objects.

    """
    try:
        items = json.loads(payload)
    except ValueError:  # slower, and for one document in a world: `int` refuses to read thousands of digits
        items = json.loads(payload, parse_int=_number)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        msg = "the payload is no array of objects"
        raise ValueError(msg)
    return items


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _facts(trigger: Trigger, attempt: int, error: BaseException) -> dict[str, Any]:
    return {"function": trigger.function, "attempt": attempt, "error": type(error).__name__}


async def _recorded(runtime: Runtime, application: Application, trigger: Trigger, payload: str) -> None:
    """Apply what was handed over; a failure is recorded for the health of the trigger, if that can be."""
    began, batch, count = time.monotonic(), _name_of(payload), 0
    try:
        async with asyncio.timeout(BATCH_S):
            items = items_of(payload)
            if items:
                batch, count = _name_of(json.dumps(items[0])), len(items)
                await _apply(runtime, application, trigger, items, batch)
    except Exception as error:
        try:
            async with asyncio.timeout(RECORD_S):
                await record_failure(application.engine, trigger.function, batch, type(error).__name__)
        except (CrossfeedError, TimeoutError):
            log.warning("trigger.failure_not_recorded", function=trigger.function)
        raise
    log.info(
        "trigger.applied",
        function=trigger.function,
        documents=count,
        took_ms=round((time.monotonic() - began) * 1000),
    )


def _name_of(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


async def _apply(
    runtime: Runtime, application: Application, trigger: Trigger, items: Sequence[Document], batch: str
) -> None:
    # Nobody says which mode the trigger has: the items do.
    has_deletes = all(map(is_all_versions, items))
    documents = current_documents(items) if has_deletes else items
    delivery = Delivery(
        trigger.function,
        trigger.container,
        batch,
        documents=len(items),
        newest_ts=max((int(document.get("_ts", 0)) for document in documents), default=0),
        # The feed of deletes has canaries, too, and they say nothing about the other.
        canaries=runtime.dates.observe(documents) if trigger.feeds is Feeds.MIRROR else (),
    )
    await _Batch(runtime, application, trigger, delivery).apply(documents, items if has_deletes else ())


@dataclass(frozen=True, slots=True)
class _Batch:
    runtime: Runtime
    application: Application
    trigger: Trigger
    delivery: Delivery

    async def apply(self, shown: Sequence[Document], all_versions: Sequence[Document]) -> None:
        match self.trigger.feeds:
            case Feeds.MIRROR:
                await self._mirror(shown, all_versions)
            case Feeds.DELETES:
                await self._delete(all_versions, await phase_of(self.application))
            case Feeds.CONSUMERS:
                await self._consume(shown)
            case _:
                assert_never(self.trigger.feeds)

    async def _mirror(self, shown: Sequence[Document], all_versions: Sequence[Document]) -> None:
        application, container = self.application, self.trigger.container
        engine, mappings = application.engine, application.mappings
        phase = await phase_of(application)
        documents = await self._as_written(shown, mappings.in_container(container)[0].paths)
        reader = CosmosDocuments(application.store, mappings)
        fresh = FreshDocuments(reader, _by_identity(mappings, container, [*documents, *shown]))
        patience = MirrorPatience.of(application.settings)
        notices = application.notices
        mirror = Mirror(engine, fresh, mappings, patience, pace=self.runtime.parked, notices=notices)
        if all_versions:
            # A crash in between brings both again.
            await mirror.apply(container, documents, phase)
            await self._delete(all_versions, phase)
        else:
            await mirror.apply(container, documents, phase, self.delivery.acknowledge)

    async def _delete(self, all_versions: Sequence[Document], phase: PhaseRow) -> None:
        """Apply hard deletes; where an extension that is too old for the mode shows documents, there are none."""
        application = self.application
        documents = CosmosDocuments(application.store, application.mappings)
        notices = application.notices
        deletes = ObservedDeletes(application.engine, documents, application.mappings, notices=notices)
        await deletes.apply(self.trigger.container, all_versions, phase, self.delivery.acknowledge)

    async def _consume(self, shown: Sequence[Document]) -> None:
        application = self.application
        handlers = application.settings.load_consumers()
        if handlers is None:
            msg = "CROSSFEED_CONSUMERS was set when the functions were indexed, and is not any more"
            raise CrossfeedError(msg)
        consumers = Consumers(application.engine, handlers, application.settings)
        begun = await consumers.begin()
        found = await self._as_written(shown, (application.store.own.events.path,))
        # An event never changes: one whose document has expired by now is handled as it was shown.
        by_id = {(str(document.get("subject")), str(document.get("id"))): document for document in found}
        documents = [by_id.get((str(item.get("subject")), str(item.get("id"))), item) for item in shown]
        await consumers.apply(self.trigger.container, documents, begun, self.delivery.acknowledge)

    async def _as_written(self, shown: Sequence[Document], paths: Sequence[str]) -> list[Document]:
        container = await self.application.store.existing_container_named(self.trigger.container)
        key_paths = [KeyPath.parse(self.trigger.container, path) for path in paths]
        return await as_written(shown, FreshContainer(container, key_paths), self.runtime.dates)


async def phase_of(application: Application) -> PhaseRow:
    """Read the recorded phase.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    with translated("reading the phase"):
        async with application.engine.connect() as connection:
            return await read_phase(connection)


def _by_identity(mappings: Mappings, container: str, documents: Sequence[Document]) -> dict[Identity, Document]:
    """Return documents by what the guarded write will ask for, the last of each; without a key nobody asks for it."""
    found: dict[Identity, Document] = {}
    for document in documents:
        mapping = mappings.mapping_of(container, document)
        if mapping is not None:
            try:
                found[mapping.identity(document)] = document
            except DocumentRefusedError:
                continue
    return found
