"""Boots the embedded stores at once, for `crossfeed local` and the demo."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import ConfigurationError, CrossfeedError
from core.local.cosmos_process import cosmos_process
from core.local.postgres import EmbeddedPostgres
from core.local.postgres_home import EmbeddedPostgresError, LocalExtraMissingError, prepare_home, server_account
from core.local.valkey import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

COSMOS_FILE = "cosmos.sqlite"


@dataclass(frozen=True, slots=True)
class LocalStores:
    """Where the two stores are, and the cache where there is one. DSN and URL hold passwords."""

    postgres_dsn: str
    cosmos_endpoint: str
    cosmos_key: str
    cache_url: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a process that uses these stores."""
        return {
            "CROSSFEED_POSTGRES_DSN": self.postgres_dsn,
            "CROSSFEED_COSMOS_ENDPOINT": self.cosmos_endpoint,
            "CROSSFEED_COSMOS_KEY": self.cosmos_key,
            **({} if self.cache_url is None else {"CROSSFEED_CACHE_URL": self.cache_url}),
        }


@asynccontextmanager
async def open_local_stores(directory: Path | None = None, *, with_cache: bool = False) -> AsyncIterator[LocalStores]:
    """Boot both stores; they end with the context, or with this process.

    Args:
        directory: where both keep their data; None: a temporary one that is removed, and Cosmos DB lives in memory.
        with_cache: boot a Valkey as well, which keeps nothing.

    Raises:
        ConfigurationError: the extra `local` is not installed, or the directory cannot be made.
        CrossfeedError: one of them did not start.

    """
    async with AsyncExitStack() as stack:
        try:
            file = None if directory is None else await asyncio.to_thread(_cosmos_file, directory)
        except OSError as error:
            msg = f"the directory {directory} cannot be used: {error.strerror}"
            raise ConfigurationError(msg) from error
        except EmbeddedPostgresError as error:
            raise CrossfeedError(str(error)) from error
        server = EmbeddedPostgres(directory)
        try:
            cache = stack.enter_context(EmbeddedValkey()) if with_cache else None
            async with asyncio.TaskGroup() as group:
                cosmos = group.create_task(stack.enter_async_context(cosmos_process(file)))
                group.create_task(stack.enter_async_context(server))
        except* LocalExtraMissingError as errors:
            raise ConfigurationError(str(errors.exceptions[0])) from errors
        except* (EmbeddedPostgresError, CrossfeedError) as errors:
            raise CrossfeedError(str(errors.exceptions[0])) from errors
        endpoint, key = cosmos.result()
        yield LocalStores(server.dsn, endpoint, key, None if cache is None else cache.url)


def _cosmos_file(directory: Path) -> Path:
    """Return Cosmos DB's file in the directory, made as Postgres needs it: whichever comes first, both can use it."""
    return prepare_home(directory.expanduser().absolute(), server_account()) / COSMOS_FILE
