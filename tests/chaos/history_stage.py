"""Where histories are played: each has stores of its own, and whatever they need besides."""

from __future__ import annotations

import shutil
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.local.cosmos.faults.client import FaultsClient
from core.postgres.engine import open_engine
from core.settings import Settings
from tests.chaos.history_run import World, play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from core.mappings import Mappings
    from tests import stores
    from tests.chaos.history_fleet import Forge
    from tests.chaos.history_plan import Plan


class Stage:
    """Where histories are played.

    Args:
        postgres: the server; each history has a database of its own.
        copies: makes them.
        cosmos: the account; likewise.
        mappings: of the documents.
        forge: where processes come from.
        directory: for logs.
        cache_url: a Redis through which all processes read, under a prefix of the history's own; None: none.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what they share
        self,
        postgres: stores.PostgresServer,
        copies: stores.Copies,
        cosmos: stores.CosmosServer,
        mappings: Mappings,
        forge: Forge,
        directory: Path,
        cache_url: str | None = None,
    ) -> None:
        self._postgres = postgres
        self._copies = copies
        self._cosmos = cosmos
        self._mappings = mappings
        self._forge = forge
        self._directory = directory
        self._cache_url = cache_url

    async def play(self, plan: Plan) -> str:
        """Play a history, return its story; fail if anything was wrong with it, and leave its logs."""
        directory = self._directory / f"history-{plan.seed}-{uuid.uuid4().hex[:8]}"
        directory.mkdir()
        async with self._world() as world:
            result = await play(plan, world, self._forge, directory)
        print(result.story)
        if result.violations:
            first = "\n".join([*result.violations[:10], "The operator:", *result.commands, str(directory)])
            pytest.fail(f"CROSSFEED_CHAOS_SEED={plan.seed}: {len(result.violations)} violations, {first}")
        shutil.rmtree(directory)
        return result.story

    @asynccontextmanager
    async def _world(self) -> AsyncIterator[World]:
        name = f"history_{uuid.uuid4().hex}"
        await self._copies.create(name)
        settings = Settings.load(
            postgres_dsn=urlsplit(self._postgres.dsn)._replace(path=f"/{name}").geturl(),
            cosmos_endpoint=self._cosmos.endpoint,
            cosmos_key=self._cosmos.key,
            cosmos_database=name,
            mappings="core.domain.mappings:MAPPINGS",
            cache_url=None if self._cache_url is None else SecretStr(self._cache_url),
            cache_prefix=name,
            cache_timeout_ms=2000,  # the machine is shared
        )
        try:
            async with (
                open_engine(settings) as engine,
                open_cosmos(settings) as store,
                FaultsClient(self._cosmos.endpoint, self._cosmos.key) as faults,
            ):
                await store.provision(self._mappings)
                yield World(settings, self._mappings, engine, store, faults)
        finally:
            await self._copies.drop(name)
