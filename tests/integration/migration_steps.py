"""An installation that moves: relay and mirror run, one application writes, and the switch is the test's own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from changefeed.processor import Processor
from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.errors import OutcomeUnknownError
from core.migration.report import StepOptions
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.armed import trigger_problems
from core.postgres.phases import read_phase
from core.postgres.switch_record import Switch, pending_switch, switch_history
from functions.bootstrap import Application
from functions.migrating import migration_of
from outbox.relay import open_relay
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.checks import Check
    from core.migration.report import Report
    from core.migration.switch import Migration
    from core.repository import UnitOfWork
    from core.settings import Settings

COSMOS = Phase.DUAL_WRITE_COSMOS_READ
POSTGRES = Phase.DUAL_WRITE_POSTGRES_READ
OPTIONS = StepOptions(timeout_s=60, pause_budget_s=20, foreign_quiet_s=0, settle_s=0.5, writers_restarted=True)


@dataclass(frozen=True)
class Town:
    """One installation."""

    settings: Settings
    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings

    @property
    def migration(self) -> Migration:
        """A switch of a process of its own."""
        settings, mappings, engine, store = self.settings, self.mappings, self.engine, self.store
        relay, processor = open_relay(settings, mappings, engine, store), Processor(engine, store, mappings)
        return migration_of(Application(settings, mappings, engine, store, relay, processor))

    async def to(self, phase: Phase, **changes: Any) -> Report:
        """Step, as an operator does."""
        return await self.migration.step(phase, who="me", why="a test", options=replace(OPTIONS, **changes))

    async def put(self, phase: Phase) -> None:
        """Be in a phase, whatever it takes."""
        await switch_phase(self.engine, self.store, self.mappings, phase, who="test", why="test")

    async def resume(self) -> Report:
        """Go on with a switch that was left, as an operator does."""
        return await self.migration.resume(who="you", options=OPTIONS)

    async def is_as_before(self, phase: Phase, epoch: int) -> bool:
        """Whether a phase's primary takes writes, in this epoch, as if there had been no switch."""
        row = await self.row()
        async with self.engine.connect() as connection:
            wrong = await trigger_problems(connection)
        return (row, wrong) == (PhaseRow(phase, epoch, PhaseState.STEADY), [])

    async def add(self, id_: str) -> None:
        """Add an account, as an application that was just started."""
        async with Crossfeed.open(self.settings, self.mappings) as db, db.unit_of_work() as work:
            await work[Account].add(Account(id=id_))
            await work.commit()

    async def claims(self, id_: str) -> list[Any]:
        """Return what the document of an account says of itself."""
        query = f"SELECT VALUE c.crossfeed FROM c WHERE c.id = '{id_}'"
        return [item async for item in self.store.container(self.mappings.of(Account)).query_items(query)]

    async def watermarks(self) -> set[int]:
        """Return the epochs that are announced in all containers."""
        query = "SELECT VALUE c.crossfeed.epoch FROM c WHERE c.crossfeed.kind = 'watermark'"
        containers = [self.store.container_named(name) for name in self.mappings.containers]
        found = [{int(str(epoch)) async for epoch in container.query_items(query)} for container in containers]
        return set.intersection(*found)

    async def row(self) -> PhaseRow:
        async with self.engine.connect() as connection:
            return await read_phase(connection)

    async def pending(self) -> Switch | None:
        async with self.engine.connect() as connection:
            return await pending_switch(connection)

    async def last(self) -> Switch:
        """Return the newest switch."""
        async with self.engine.connect() as connection:
            found = [step.switch for step in await switch_history(connection, 10) if step.switch is not None]
        return found[0]

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        """Run a relay meanwhile."""
        async with _running(open_relay(self.settings, self.mappings, self.engine, self.store)):
            yield

    @asynccontextmanager
    async def mirroring(self) -> AsyncIterator[None]:
        """Run a mirror meanwhile."""
        async with _running(Processor(self.engine, self.store, self.mappings, poll_ms=10, lease_s=2)):
            yield

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[list[str]]:
        """Let an application add accounts meanwhile; yields the ids of those that were acknowledged."""
        acknowledged: list[str] = []

        async def write(db: Crossfeed) -> None:
            for number in range(100_000):
                id_ = f"a{number}"

                async def add(work: UnitOfWork, id_: str = id_) -> None:
                    await work[Account].add(Account(id=id_))
                    await work.commit()

                with suppress(OutcomeUnknownError):  # nobody was told that it was written
                    await db.transact(add)
                    acknowledged.append(id_)
                await asyncio.sleep(0.005)

        async with Crossfeed.open(self.settings, self.mappings) as db:
            task = asyncio.create_task(write(db))
            try:
                yield acknowledged
            finally:
                failed = task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if failed:
                    task.result()

    async def accounts(self) -> set[str]:
        """Return the ids of all accounts that Postgres holds."""
        async with self.engine.connect() as connection:
            return set((await connection.exec_driver_sql("SELECT id FROM accounts")).scalars())

    async def documents(self) -> set[str]:
        """Return the ids of all accounts that Cosmos DB holds."""
        live = "NOT IS_DEFINED(c.crossfeed.kind) AND NOT IS_DEFINED(c.crossfeed.deleted)"
        query = f"SELECT VALUE c.id FROM c WHERE {live}"
        container = self.store.container(self.mappings.of(Account))
        return {str(item) async for item in container.query_items(query)}


async def asks_nothing(*_: object, **__: object) -> list[Check]:
    """Stand for the checks before a step, where what happens after them is what a test is about."""
    return []


def quick_town(settings: Settings, engine: AsyncEngine, store: CosmosStore, mappings: Mappings) -> Town:
    """Return an installation whose leases are short."""
    quick = settings.model_copy(update={"relay_lease_s": 2.0, "write_lease_s": 5.0, "transact_deadline_s": 300.0})
    return Town(quick, engine, store, mappings)


@asynccontextmanager
async def _running(what: Any) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(what.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task
