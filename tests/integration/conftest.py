"""Databases that tests of more than one module begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.aggregate_steps import MAPPED, install, one_order

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


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
