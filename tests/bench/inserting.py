"""Inserts rows as an application with SQLAlchemy does, so that Crossfeed and its peers pay from the same purse.

Runs in the peers' environments too, so it imports nothing but SQLAlchemy.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLIENTS = 8
_serial = count(int(time.time() * 1000))


async def transactions_per_s(
    engine: AsyncEngine,
    table: str,
    seconds: float,
    publish: Callable[[AsyncSession, str], Awaitable[Any]] | None = None,
) -> float:
    """Insert rows into `table` (id, email) by so many clients, one a transaction, and `publish` each in it."""
    statement = sa.text(f"INSERT INTO {table} (id, email) VALUES (:id, :email)")
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    done = 0
    began = time.perf_counter()

    async def client() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            id_ = f"id-{next(_serial)}"
            async with sessions() as session, session.begin():
                await session.execute(statement, {"id": id_, "email": "someone@example.org"})
                if publish is not None:
                    await publish(session, id_)
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return done / (time.perf_counter() - began)
