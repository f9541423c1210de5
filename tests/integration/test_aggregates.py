"""Aggregates with tables below their root: they are written, moved and deleted whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from psycopg import errors as pg

from core.cosmos.client import open_cosmos
from core.errors import ConcurrencyError
from core.phases import Phase
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.aggregate_steps import MAPPED, Line, Order, install, lines, orders
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import connect, logged, make_primary, run, versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[CosmosStore]:
    async with open_cosmos(settings) as opened:
        await opened.provision(MAPPED)
        yield opened


@pytest.mark.parametrize("foreign_key", ["NO ACTION", "RESTRICT", "CASCADE"])
async def test_an_aggregate_is_deleted_and_moved_whole_whatever_its_foreign_key_does(
    engine: AsyncEngine, foreign_key: str
) -> None:
    mapped = orders(foreign_key)
    await install(engine, mapped)
    await make_primary(engine)
    order = Order(id="o", lines=[Line(item="old")])
    async with PostgresUnitOfWork(engine, mapped) as work:
        await work[Order].add(order)
        await work.commit()
    async with PostgresUnitOfWork(engine, mapped) as work:
        order.id = "p"
        await work[Order].update(order)
        order.lines = [Line(item="new")]
        await work[Order].update(order)
        await work.commit()
    assert await lines(engine) == [("p", "new")]
    async with PostgresUnitOfWork(engine, mapped) as work:
        await work[Order].delete(order)
        await work.commit()
    assert await versions(engine, "orders") == {}
    assert await lines(engine) == []


async def test_an_aggregate_written_by_its_repository_is_one_message(shop: AsyncEngine) -> None:
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        order = await work[Order].get_by_id("o")
        assert order is not None
        order.lines = [Line(item="new"), Line(item="newer")]
        await work[Order].update(order)
        await work.commit()
    assert [(item.id, item.version) for item in await logged(shop)] == [("o", 1), ("o", 2)]
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        await work[Order].delete(order)
        await work.commit()
    assert [(item.version, item.deleted) for item in (await logged(shop))[2:]] == [(3, True)]


async def test_a_refused_write_leaves_the_lines_alone(shop: AsyncEngine) -> None:
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        order = await work[Order].get_by_id("o")
    assert order is not None
    await run(shop, "UPDATE order_lines SET item = 'theirs'")
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        with pytest.raises(ConcurrencyError):
            await work[Order].delete(order)
        with pytest.raises(ConcurrencyError):
            await work[Order].update(order)
        await work.commit()
    assert await lines(shop) == [("o", "theirs")]


async def test_two_writers_of_one_aggregates_lines_do_not_lock_each_other_out(
    shop: AsyncEngine, settings: Settings
) -> None:
    sessions = [await connect(settings) for _ in range(4)]

    async def write(number: int) -> None:
        for n in range(25):
            await sessions[number].execute(f"INSERT INTO order_lines VALUES ('o', {number * 100 + n + 1}, 'x')")

    await asyncio.gather(*(write(number) for number in range(4)))
    for session in sessions:
        await session.close()
    assert await versions(shop, "orders") == {"o": 101}


async def test_the_mirror_deletes_an_aggregate_with_its_lines(installed: AsyncEngine, store: CosmosStore) -> None:
    await open_phase(installed, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    steps = Steps(installed, store, MAPPED, MAPPED.of(Order))
    await steps.add(Order(id="o", lines=[Line(item="x")]))
    await steps.apply(steps.history[-1:])
    older = steps.history[-1:]
    await steps.delete("o")
    outcome = await steps.apply(steps.history[-1:])
    assert (outcome.buried, outcome.dead_lettered) == (1, 0)
    assert (await versions(installed, "orders"), await lines(installed)) == ({}, [])
    await steps.apply(older)
    assert await lines(installed) == []


async def test_a_line_of_an_order_that_is_not_committed_yet_is_refused(shop: AsyncEngine, settings: Settings) -> None:
    one, two = await connect(settings), await connect(settings)
    await one.execute("BEGIN")
    await one.execute("INSERT INTO orders VALUES ('new')")
    with pytest.raises(pg.ForeignKeyViolation):
        await two.execute("INSERT INTO order_lines VALUES ('new', 0, 'x')")
    await one.execute("COMMIT")
    await one.close()
    await two.close()
