"""Everything that talks to Postgres works behind PgBouncer in transaction mode, where no session belongs to anybody."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from changefeed.processor import Processor
from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.switching import finish_switch, flip
from core.postgres.writers import wait_for_writers
from functions.readiness import Readiness
from outbox.relay import open_relay
from tests.integration.relay_steps import differences, letters, make_primary, until
from tests.integration.switching_steps import COSMOS, POSTGRES, drain, nothing, release, renew, start_in
from tests.integration.test_endpoints import StandIn
from tests.pgbouncer import PgBouncerMissingError, pgbouncer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

SESSIONS = 3
"""Server sessions that all clients share: far fewer than clients, so that they change hands all the time."""


@pytest.fixture
async def pooled(settings: Settings) -> AsyncIterator[Settings]:
    """The test's settings, with a PgBouncer in between."""
    try:
        with pgbouncer(settings.require_postgres(), pool_size=SESSIONS) as dsn:
            yield settings.model_copy(update={"postgres_dsn": SecretStr(dsn), "relay_lease_s": 1.0})
    except PgBouncerMissingError as error:
        pytest.skip(str(error))


async def test_relays_mirror_and_units_of_work_share_a_few_sessions_of_a_pool(
    pooled: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    accounts = mappings.of(Account)
    stop = asyncio.Event()
    async with open_engine(pooled) as engine, open_engine(pooled) as other:
        await make_primary(engine)
        relays = [open_relay(pooled, mappings, one, cosmos) for one in (engine, other)]
        async with asyncio.TaskGroup() as group:
            moving = [group.create_task(relay.run(stop)) for relay in relays]
            async with Crossfeed.open(pooled, mappings) as db:

                async def write(writer: int) -> None:
                    for number in range(15):
                        id_ = f"{writer}-{number}"
                        async with db.unit_of_work() as work:
                            await work[Account].add(Account(id=id_, display_name="one"))
                            await work.commit()
                        async with db.unit_of_work() as work:
                            found = await work[Account].get_by_id(id_)
                            assert found is not None
                            await work[Account].update(found.model_copy(update={"display_name": "two"}))
                            await work.commit()

                await asyncio.gather(*map(write, range(8)))
            identities = [accounts.identity_of(f"{w}-{n}", f"{w}-{n}") for w in range(8) for n in range(15)]
            await until(lambda: sum(relay.stats.messages for relay in relays) >= 240)
            assert not any(task.done() for task in moving)
            assert (await Readiness(pooled, engine, cosmos, StandIn()).verdict()).problems == ()
            stop.set()
        assert await differences(engine, cosmos, accounts, identities) == []
        await _back_to_postgres(engine, cosmos, mappings)
        assert await letters(engine) == []


async def _back_to_postgres(engine: Any, cosmos: CosmosStore, mappings: Mappings) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await cosmos.container(mappings.of(Account)).create_item({"id": "new", "DisplayName": "of Cosmos DB"})
    processor = Processor(engine, cosmos, mappings)
    await processor.run_once()
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT display_name FROM accounts WHERE id = 'new'")
        assert found.scalar_one() == "of Cosmos DB"
        prepared = await connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements")
        assert prepared.scalar_one() == 0  # the next statement may meet another session


async def test_a_switch_goes_there_and_back_through_a_pool(pooled: Settings) -> None:
    async with open_engine(pooled) as engine:
        await start_in(engine, COSMOS)
        for to in (POSTGRES, COSMOS):
            me = uuid.uuid4()
            assert (await renew(engine, me))[3] == (to is POSTGRES)
            switch = await drain(engine, to)
            await release(engine, me)
            await wait_for_writers(engine, switch.id, patience=0)
            await flip(engine, switch.id, nothing)
            await finish_switch(engine, switch.id, {})
            assert (await renew(engine))[3] == (to is COSMOS)
        async with engine.connect() as connection:
            waits = await connection.exec_driver_sql("SELECT current_setting('lock_timeout')")
            assert waits.scalar_one() == "0", "what a step sets is its own"
