"""Waits until the follower holds everything that the drained primary took: the position is read after the drain.

From Cosmos DB: a watermark in every feed range comes out of the mirror, once more if the ranges changed meanwhile. From
Postgres: every slot's cursor is past a snapshot. Nothing is parked, either way.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from core.barrier_marks import BARRIER
from core.cosmos.feed import feed_ranges
from core.cosmos.watermarks import write_marks
from core.envelope import internal_document
from core.errors import OutcomeUnknownError, TransientError
from core.postgres.failures import translated
from core.postgres.watermarks_seen import seen_marks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.migration.ports import Behind, LogBarrier

    Waits = Callable[[str], None]
    """Told what is waited for."""

T = TypeVar("T")

LOOK_S: Final = 0.02
"""How often it is looked whether what is waited for is there, in seconds: writers wait meanwhile."""

_MARK_TTL_S: Final = 3600
_LONGEST_WAIT_S: Final = 1.0

_PARKED = "SELECT count(*) FROM crossfeed.mirror_parked"


async def documents_arrived(
    engine: AsyncEngine, store: CosmosStore, mappings: Mappings, epoch: int, waits: Waits
) -> dict[str, int]:
    """Wait, for ever, until the mirror has applied everything that Cosmos DB holds now.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        epoch: the recorded epoch.
        waits: told what is waited for.

    Returns:
        Of each container the `_ts` of the watermark that was written first, in whole seconds since 1970: what has an
        older one has arrived.

    """
    containers = mappings.containers
    found = await asyncio.gather(
        *(_through(engine, store, mappings.in_container(name)[0], epoch, waits) for name in containers)
    )
    await nothing_is_parked(engine, waits)
    return dict(zip(containers, found, strict=True))


async def nothing_is_parked(engine: AsyncEngine, waits: Waits) -> None:
    """Wait, for ever, until the mirror keeps no document back."""
    while count := await patiently(partial(_count_parked, engine), waits):
        waits(f"{count} documents that another one's state keeps out of Postgres (crossfeed.mirror_parked)")
        await asyncio.sleep(LOOK_S)


async def messages_arrived(engine: AsyncEngine, log: LogBarrier, waits: Waits) -> None:
    """Wait, for ever, until the relay has delivered everything that is committed in Postgres now.

    Args:
        engine: the database.
        log: its log.
        waits: told what is waited for.

    """
    snapshot = await patiently(partial(_snapshot, engine, log), waits)
    while behind := await patiently(partial(_behind, engine, log, snapshot), waits):
        slots = f"slots {', '.join(map(str, behind.slots))} of the log" if behind.slots else ""
        parked = f"{behind.parked} messages that Cosmos DB refuses (crossfeed.parked)" if behind.parked else ""
        waits(" and ".join(part for part in (slots, parked) if part))
        await asyncio.sleep(LOOK_S)


async def patiently(step: Callable[[], Awaitable[T]], waits: Waits) -> T:
    """Repeat what infrastructure failed, for ever: whoever waits sets the limit, and is told what has failed."""

    def tell(state: RetryCallState) -> None:
        waits(str(state.outcome.exception()) if state.outcome is not None else "")

    attempts = AsyncRetrying(
        retry=retry_if_exception_type((TransientError, OutcomeUnknownError)),
        wait=wait_random_exponential(multiplier=LOOK_S, max=_LONGEST_WAIT_S),
        before_sleep=tell,
        reraise=True,
    )

    async def attempt() -> T:  # of what is no coroutine function tenacity awaits nothing
        return await step()

    return await attempts(attempt)


async def _through(
    engine: AsyncEngine, store: CosmosStore, mapping: EntityMapping[Any], epoch: int, waits: Waits
) -> int:
    """Let one watermark for each feed range of a container come out of the mirror; return the least `_ts` of them."""
    container = store.container(mapping)
    while True:
        # A name of its own: a watermark that somebody writes again comes out of the feed once only, as the later one.
        name = f"{BARRIER}-{uuid.uuid4().hex}"
        write = partial(write_marks, store, mapping, name, _MARK_TTL_S, partial(internal_document, BARRIER, epoch))
        written = await patiently(write, waits)
        etags = {mark.etag for mark in written.values()}
        while left := etags - await patiently(partial(_seen, engine, mapping.container, etags), waits):
            waits(f"the mirror: {len(left)} of {len(etags)} feed ranges of {mapping.container!r} have not come through")
            await asyncio.sleep(LOOK_S)
        # Written into a range that was split, it came out of one of the parts, and says nothing of the others.
        ranges = await patiently(partial(feed_ranges, container), waits)
        if {found.key for found in ranges} == set(written):
            return min(mark.ts for mark in written.values())


async def _seen(engine: AsyncEngine, container: str, etags: set[str]) -> set[str]:
    with translated("looking for watermarks"):
        async with engine.connect() as connection:
            return await seen_marks(connection, container, etags)


async def _count_parked(engine: AsyncEngine) -> int:
    with translated("looking for parked documents"):
        async with engine.connect() as connection:
            count: int = (await connection.exec_driver_sql(_PARKED)).scalar_one()
    return count


async def _snapshot(engine: AsyncEngine, log: LogBarrier) -> str:
    with translated("reading the position of the log"):
        async with engine.connect() as connection:
            return await log.snapshot(connection)


async def _behind(engine: AsyncEngine, log: LogBarrier, snapshot: str) -> Behind:
    with translated("reading the cursors"):
        async with engine.connect() as connection:
            return await log.behind(connection, snapshot)
