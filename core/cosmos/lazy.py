"""Opens Cosmos DB when it is first needed, once, and closes it with its owner."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from core.cosmos.client import CosmosStore, open_cosmos

if TYPE_CHECKING:
    from types import TracebackType

    from core.mappings import Mappings
    from core.settings import Settings


class LazyCosmos:
    """One database of Cosmos DB, perhaps not opened yet.

    Args:
        settings: which.
        mappings: whose containers must be there.

    """

    def __init__(self, settings: Settings, mappings: Mappings) -> None:
        self._settings = settings
        self._mappings = mappings
        self._store: CosmosStore | None = None
        self._opened = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def store(self) -> CosmosStore:
        """Return the opened database, having looked at its containers the first time.

        Raises:
            ConfigurationError: it is not what this process expects.
            StoreUnavailableError: it did not answer.

        """
        async with self._opening:
            if self._store is None:
                async with AsyncExitStack() as opening:
                    store = await opening.enter_async_context(open_cosmos(self._settings))
                    await store.check(self._mappings)
                    self._opened.push_async_exit(opening.pop_all())
                self._store = store
            return self._store
