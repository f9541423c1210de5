"""Reads and loads the pages of one group of slots: one, or one after the other while those before are sent."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from core.postgres.failures import translated
from outbox.log_reader import Batch, read_batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from outbox.cursor import Cursor, SlotGroup
    from outbox.ports import Kind, Wiring


@dataclass(frozen=True, slots=True)
class Page:
    """One page on its way. `parkings`: how often failures had been recorded when it was read."""

    batch: Batch
    loaded: Any
    read_at: float
    parkings: int

    @property
    def messages(self) -> int:
        """How many messages it holds."""
        return len(self.batch.messages) + len(self.batch.events)

    @property
    def oldest_at(self) -> float:
        """When its first message was written, by the clock; when it was read if it has none."""
        batch = self.batch
        age_s = batch.messages[0].age_s if batch.messages else batch.events[0].age_s if batch.events else 0.0
        return self.read_at - age_s


class Pages:
    """Pages of one group.

    Args:
        group: whose slots.
        kind: what is done with its messages.
        wiring: what streams share.
        parkings: says how often failures have been recorded.

    """

    def __init__(self, group: SlotGroup, kind: Kind, wiring: Wiring, parkings: Callable[[], int]) -> None:
        self._group = group
        self._kind = kind
        self._wiring = wiring
        self._parkings = parkings

    async def next(self, cursor: Cursor) -> Page:
        """Read and load the page behind a cursor.

        Raises:
            TransientError: Postgres did not answer, or the lease is lost.
            ConflictError: the phase was changed meanwhile.
            ConfigurationError: a message is of an entity type without a mapping.

        """
        read_at, parkings = self._wiring.clock(), self._parkings()
        with translated("reading the outbox"):
            async with self._wiring.line.use() as connection:
                batch = await self._read(connection, cursor)
                return Page(batch, await self._kind.load(connection, batch), read_at, parkings)

    async def load(self, batch: Batch) -> Page:
        """Load a page that was read. Raises as `next`."""
        return await self._load(batch, self._wiring.clock(), self._parkings())

    @contextlib.asynccontextmanager
    async def ahead(self, cursor: Cursor) -> AsyncIterator[asyncio.Queue[asyncio.Future[Page]]]:
        """Read and load the pages that follow while one is sent; what is not wanted any more is cancelled."""
        pages: asyncio.Queue[asyncio.Future[Page]] = asyncio.Queue(maxsize=1)
        begun: list[asyncio.Future[Page]] = []

        async def read_on(cursor: Cursor) -> None:
            while True:
                read_at, parkings = self._wiring.clock(), self._parkings()
                try:
                    with translated("reading the outbox"):
                        async with self._wiring.engine.connect() as connection:
                            await connection.execution_options(isolation_level="AUTOCOMMIT")
                            batch = await self._read(connection, cursor)
                except Exception as error:  # noqa: BLE001 - raised where the page is waited for
                    failed: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
                    failed.set_exception(error)
                    begun.append(failed)
                    await pages.put(failed)
                    return
                page = asyncio.ensure_future(self._load(batch, read_at, parkings))
                begun[:] = [*(one for one in begun if not one.done()), page]
                await pages.put(page)
                if not batch.more:
                    return
                cursor = batch.next

        reading = asyncio.ensure_future(read_on(cursor))
        try:
            yield pages
        finally:
            waiting = [pages.get_nowait() for _ in range(pages.qsize())]
            unwanted: list[asyncio.Future[Any]] = [reading, *begun, *waiting]
            for task in unwanted:
                task.cancel()
            await asyncio.gather(*unwanted, return_exceptions=True)

    async def _read(self, connection: AsyncConnection, cursor: Cursor) -> Batch:
        self._wiring.stats.passes += 1
        wiring = self._wiring
        page_size, is_watched = wiring.settings.relay_page_size, wiring.is_watched
        return await read_batch(connection, replace(self._group, cursor=cursor), page_size, is_watched=is_watched)

    async def _load(self, batch: Batch, read_at: float, parkings: int) -> Page:
        with translated("loading a page"):
            async with self._wiring.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                return Page(batch, await self._kind.load(connection, batch), read_at, parkings)
