"""G4 across a switch: a reader whose session is younger than the switch takes no row back to before it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from changefeed.processor import Processor
from core.cosmos.client import CosmosStore, open_cosmos
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.errors import TransientError
from core.local.cosmos.faults import ByVersions, Lag, Match, Rule
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.phases import open_phase
from outbox.relay import open_relay
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import letters, make_primary, run
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos import CosmosServer
    from core.settings import Settings

ONLY_ACCOUNTS = Mappings([ACCOUNTS])


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share."""
    return own_cosmos_server


@pytest.fixture
async def cosmos(settings: Settings) -> AsyncIterator[CosmosStore]:
    async with open_cosmos(settings) as store:
        await store.provision(ONLY_ACCOUNTS)
        yield store


async def names(engine: AsyncEngine) -> dict[str, str]:
    async with engine.connect() as connection:
        return dict(map(tuple, await connection.exec_driver_sql("SELECT id, display_name FROM accounts")))


@pytest.mark.parametrize("has_watermarks", [True, False])
async def test_a_fresh_reader_on_a_replica_from_before_the_switch_takes_no_row_back(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, cosmos_server: CosmosServer, *, has_watermarks: bool
) -> None:
    """The row was last written while Postgres was primary: nothing that it took says how far a replica must be."""
    cosmos_server.faults.add(Rule(do=Lag(), on=Match(database="of nobody")))  # so that there is a past from here on
    await make_primary(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    await run(engine, "INSERT INTO accounts (id, display_name) VALUES ('a', 'one')")
    relay = open_relay(settings, ONLY_ACCOUNTS, engine, cosmos)
    for name in ("two", "three"):
        await relay.drain()
        await run(engine, f"UPDATE accounts SET display_name = '{name}'")
    await relay.drain()
    if has_watermarks:
        await switch_phase(engine, cosmos, ONLY_ACCOUNTS, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    else:  # it has moved the primary, and not come further yet
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    cosmos_server.faults.add(Rule(do=Lag(behind=ByVersions(least=2, most=2)), name="behind"))
    async with open_cosmos(settings) as fresh:
        for _ in range(2):
            with suppress(TransientError):  # it waits for the replica
                await Processor(engine, fresh, ONLY_ACCOUNTS).run_once()
            assert await names(engine) == {"a": "three"}
        cosmos_server.faults.remove("behind")
        await Processor(engine, fresh, ONLY_ACCOUNTS).run_once()
    assert await names(engine) == {"a": "three"}
    assert await letters(engine) == []


async def test_a_fresh_reader_on_a_replica_from_before_the_switch_calls_no_state_a_late_write(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, cosmos_server: CosmosServer
) -> None:
    """It shows a state that Cosmos DB was entitled to take, and that a newer one replaced before the switch."""
    cosmos_server.faults.add(Rule(do=Lag(), on=Match(database="of nobody")))
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    steps = Steps(engine, cosmos, ONLY_ACCOUNTS, ACCOUNTS)
    await steps.add(Account(id="a", display_name="one"))
    await steps.change("a", display_name="two")
    await steps.change("a", display_name="three")
    await Processor(engine, cosmos, ONLY_ACCOUNTS).run_once()
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await run(engine, "UPDATE accounts SET display_name = 'four'")
    await open_relay(settings, ONLY_ACCOUNTS, engine, cosmos).drain()
    cosmos_server.faults.add(Rule(do=Lag(behind=ByVersions(least=2, most=2)), name="behind"))
    async with engine.begin() as connection:  # whoever starts anew reads the feed from the beginning
        await connection.exec_driver_sql("DELETE FROM crossfeed.feed_range")
    async with open_cosmos(settings) as fresh:
        with suppress(TransientError):  # it waits for the replica
            await Processor(engine, fresh, ONLY_ACCOUNTS).run_once()
        assert await letters(engine) == []
        cosmos_server.faults.remove("behind")
        await Processor(engine, fresh, ONLY_ACCOUNTS).run_once()
    assert await letters(engine) == []
    assert await names(engine) == {"a": "four"}
