"""Databases that tests of more than one module begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.phases import Phase
from core.postgres.phases import open_phase
from tests.integration.aggregate_steps import MAPPED, install, one_order
from tests.integration.cache_steps import open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.valkey import EmbeddedValkey
    from tests.integration.cache_steps import Client


@pytest.fixture
async def installed(engine: AsyncEngine) -> AsyncEngine:
    """A database with the tables of orders, captured."""
    await install(engine, MAPPED)
    return engine


@pytest.fixture
async def shop(installed: AsyncEngine) -> AsyncEngine:
    """Postgres primary, one order with one line, written by the repository."""
    await one_order(installed)
    return installed


@pytest.fixture
async def opened(engine: AsyncEngine) -> AsyncEngine:
    """A database whose primary is Postgres."""
    await open_phase(engine, Phase.POSTGRES_ONLY, who="tests", why="the cache")
    return engine


@pytest.fixture
async def clients(opened: AsyncEngine, valkey: EmbeddedValkey) -> AsyncIterator[tuple[Client, Client]]:
    """Two processes of one installation that read through the cache."""
    async with open_client(opened, valkey) as one, open_client(opened, valkey) as other:
        yield one, other
