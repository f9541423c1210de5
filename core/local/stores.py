"""Boots both embedded stores at once, for `crossfeed local` and the demo."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import ConfigurationError, CrossfeedError
from core.local.cosmos_process import cosmos_process
from core.local.postgres import EmbeddedPostgres
from core.local.postgres_home import EmbeddedPostgresError, LocalExtraMissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class LocalStores:
    """Where the two stores are. The DSN holds a password."""

    postgres_dsn: str
    cosmos_endpoint: str
    cosmos_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a process that uses these stores."""
        return {
            "CROSSFEED_POSTGRES_DSN": self.postgres_dsn,
            "CROSSFEED_COSMOS_ENDPOINT": self.cosmos_endpoint,
            "CROSSFEED_COSMOS_KEY": self.cosmos_key,
        }


@asynccontextmanager
async def open_local_stores(directory: Path | None = None) -> AsyncIterator[LocalStores]:
    """Boot both stores; they end with the context, or with this process.

    Args:
        directory: where Postgres keeps its data; None: a temporary one that is removed. Cosmos DB lives in memory.

    Raises:
        ConfigurationError: the extra `local` is not installed.
        CrossfeedError: one of them did not start.

    """
    async with AsyncExitStack() as stack:
        server = EmbeddedPostgres(directory)
        try:
            async with asyncio.TaskGroup() as group:
                cosmos = group.create_task(stack.enter_async_context(cosmos_process()))
                group.create_task(stack.enter_async_context(server))
        except* LocalExtraMissingError as errors:
            raise ConfigurationError(str(errors.exceptions[0])) from errors
        except* (EmbeddedPostgresError, CrossfeedError) as errors:
            raise CrossfeedError(str(errors.exceptions[0])) from errors
        endpoint, key = cosmos.result()
        yield LocalStores(server.dsn, endpoint, key)
