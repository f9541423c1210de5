"""What a step asks before it is made: whatever is wrong is refused by the check that is about it, with a cure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import create_async_engine

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.local.cosmos import CosmosServer
from core.migration.preflight import preflight
from core.migration.report import StepOptions
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.postgres.switching import begin_switch
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, quick_town
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.checks import Check
    from core.migration.parity import Parity
    from core.settings import Settings

ONE = Phase.DUAL_WRITE_COSMOS_READ


@pytest.fixture
def town(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Town:
    """An installation whose primary moves."""
    return quick_town(settings, engine, cosmos, mappings)


async def asked(town: Town, to: Phase, on_parity: Any = lambda _: None, **options: Any) -> dict[str, Check]:
    """Return all checks by their names."""
    told = StepOptions(foreign_quiet_s=options.pop("foreign_quiet_s", 0), settle_s=0.2, **options)
    checks = await preflight(
        town.engine, town.store, town.mappings, town.settings, await town.row(), to, told, on_parity=on_parity
    )
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.detail
        assert bool(check.cure) is not check.ok, check
    return {check.name: check for check in checks}


async def refused(town: Town, to: Phase, **options: Any) -> dict[str, str]:
    """Return what refuses a step, and what was found."""
    return {name: check.detail for name, check in (await asked(town, to, **options)).items() if not check.ok}


async def put_document(town: Town, **document: Any) -> None:
    await town.store.container(ACCOUNTS).upsert_item(document)


async def test_the_first_step_asks_for_the_word_that_writers_know_postgres(town: Town) -> None:
    assert list(await refused(town, ONE)) == ["writers"]
    assert await refused(town, ONE, writers_restarted=True) == {}


async def test_a_step_to_no_neighbour_is_refused(town: Town) -> None:
    assert "is not a neighbour" in (await refused(town, Phase.POSTGRES_ONLY))["order"]


async def test_a_move_of_the_primary_needs_a_live_relay_and_a_live_mirror(town: Town) -> None:
    await town.put(COSMOS)
    found = await refused(town, POSTGRES)
    assert list(found) == ["relay", "mirror"]
    assert "nobody reads the feed of 'Accounts'" in found["mirror"]
    await run(
        town.engine,
        "INSERT INTO crossfeed.canary (direction, container, part, written, seen)"
        " SELECT 'to_postgres', name, 'c', 'e', 'e'"
        " FROM unnest(ARRAY['Accounts', 'GameSessions', 'PendingSignups', 'UserProfiles']) AS name",
    )
    assert list(await refused(town, POSTGRES)) == ["relay", "mirror"]  # whoever wrote them has ended since
    await run(
        town.engine,
        "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
        " SELECT container, container, 1, 1, 1 FROM crossfeed.canary",
    )
    assert list(await refused(town, POSTGRES)) == ["relay"]  # the triggers of Azure Functions are a mirror, too


async def test_a_phase_that_cosmos_db_was_not_told_of_refuses_to_move_the_primary(town: Town) -> None:
    await town.put(COSMOS)
    assert (await asked(town, POSTGRES))["announced"].ok
    await open_phase(town.engine, Phase.COSMOS_ONLY, who="test", why="test")
    await open_phase(town.engine, ONE, who="test", why="test")
    check = (await asked(town, POSTGRES))["announced"]
    assert (check.ok, check.cure) == (False, "run: crossfeed phase resume")
    assert (await asked(town, Phase.COSMOS_ONLY))["announced"].ok


async def test_what_differs_refuses_a_step_that_leaves_it_behind_and_its_comparison_is_told(town: Town) -> None:
    await town.put(COSMOS)
    told: list[Parity] = []
    async with town.relaying(), town.mirroring():
        await town.add("a")
        await town.add("b")
        checks = await asked(town, POSTGRES, told.append)
        assert [check for check in checks.values() if not check.ok] == []
        assert list(checks)[-1] == "parity"
        assert [parity.is_equal for parity in told] == [True]
        async with town.engine.begin() as connection:
            await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
            await connection.exec_driver_sql("DELETE FROM accounts WHERE id = 'a'")
        [(name, detail)] = (await refused(town, POSTGRES)).items()
    assert name == "parity"
    assert "1 missing, a for one" in detail


async def test_what_is_put_aside_refuses_unless_it_is_accepted(town: Town) -> None:
    await town.put(COSMOS)
    await run(
        town.engine,
        "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)"
        " VALUES ('to_postgres', 'refused', 'Account', '[\"x\"]', 'x', 'a reason')",
        "INSERT INTO crossfeed.mirror_parked (entity, partition_key, id, etag, ts, lsn, reason, retry_at)"
        " VALUES ('Account', '[\"y\"]', 'y', 'e', 1, 1, 'its e-mail is taken', now())",
    )
    found = await asked(town, POSTGRES)
    assert "Account x: a reason" in found["dead letters"].detail
    assert "--accept-dead-letters 1" in found["dead letters"].cure
    assert found["parked"].detail == "Account y: its e-mail is taken"
    assert (await asked(town, POSTGRES, accept_dead_letters=1))["dead letters"].ok
    await town.put(POSTGRES)
    assert (await asked(town, COSMOS))["dead letters"].ok  # they are of the other direction


async def test_foreign_writers_must_have_been_quiet_for_a_while(town: Town) -> None:
    await town.put(COSMOS)
    await town.add("ours")
    assert (await asked(town, POSTGRES, foreign_quiet_s=60))["foreign writers"].ok
    [ours] = [item async for item in town.store.container(ACCOUNTS).query_items("SELECT * FROM c WHERE c.id = 'ours'")]
    await put_document(town, **{**ours, "DisplayName": "written over, the envelope is kept"})
    found = (await asked(town, POSTGRES, foreign_quiet_s=60))["foreign writers"]
    assert (found.ok, "ours, written in the last 60 s over" in found.detail) == (False, True)
    await put_document(town, id="legacy")
    found = (await asked(town, POSTGRES, foreign_quiet_s=60))["foreign writers"]
    assert (found.ok, "by no process of ours" in found.detail) == (False, True)
    found = (await asked(town, POSTGRES, foreign_quiet_s=0))["foreign writers"]
    assert (found.ok, "their last writes: Accounts" in found.detail) == (True, True)


async def test_nor_may_they_write_on_the_way_back_where_their_word_would_become_the_primarys(town: Town) -> None:
    await town.put(POSTGRES)
    assert (await asked(town, COSMOS, foreign_quiet_s=60))["foreign writers"].ok
    await put_document(town, id="rogue")
    found = (await asked(town, COSMOS, foreign_quiet_s=60))["foreign writers"]
    assert (found.ok, "by no process of ours" in found.detail) == (False, True)


async def test_a_direction_that_lags_refuses(town: Town) -> None:
    await town.put(COSMOS)
    late = Town(
        town.settings.model_copy(update={"mirror_max_lag_s": 1e-6, "relay_max_lag_s": 1e-6}),
        *(town.engine, town.store, town.mappings),
    )
    assert (await asked(late, POSTGRES))["mirror lag"].ok
    await run(
        town.engine,
        "INSERT INTO crossfeed.feed_range (feed, lower_bound, upper_bound) VALUES ('mirror/Accounts', '', 'FF')",
    )
    await put_document(town, id="unread")
    assert "Accounts is" in (await refused(late, POSTGRES))["mirror lag"]
    await town.put(POSTGRES)
    await run(town.engine, "INSERT INTO accounts (id) VALUES ('unsent')")
    assert "1 messages wait" in (await refused(late, COSMOS))["relay lag"]
    assert (await asked(town, COSMOS))["relay lag"].ok


async def test_triggers_and_rights_refuse_every_step(town: Town) -> None:
    await run(town.engine, "ALTER TABLE accounts DISABLE TRIGGER crossfeed_refuse")
    assert "crossfeed_refuse of accounts" in (await refused(town, ONE, writers_restarted=True))["triggers"]
    await run(town.engine, "ALTER TABLE accounts ENABLE TRIGGER crossfeed_refuse")
    assert town.settings.postgres_dsn is not None
    role, dsn = town.settings.cosmos_database, town.settings.postgres_dsn.get_secret_value()
    await run(town.engine, f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data, pg_write_all_data")
    with_role = town.settings.model_copy(
        update={"postgres_dsn": SecretStr(f"postgresql://{role}:x@" + dsn.rpartition("@")[2])}
    )
    async with open_engine(with_role) as engine:
        found = await refused(
            Town(with_role, engine, town.store, town.mappings), Phase.DUAL_WRITE_COSMOS_READ, writers_restarted=True
        )
    await run(town.engine, f"DROP ROLE {role}")
    assert list(found) == ["rights"]
    assert f"the role {role} does not own accounts" in found["rights"]


async def test_a_switch_that_is_under_way_refuses_every_step(town: Town) -> None:
    await town.put(COSMOS)
    await begin_switch(town.engine, POSTGRES, who="somebody", why="a test")
    assert "is draining, begun by somebody" in (await refused(town, Phase.COSMOS_ONLY))["pending switch"]


async def test_clocks_that_differ_refuse(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    here = time.time
    monkeypatch.setattr("core.migration.preflight_cosmos.time.time", lambda: here() - 60)
    detail = (await refused(town, ONE, writers_restarted=True))["clocks"]
    assert "Cosmos DB +60" in detail
    assert "Postgres +60" in detail


async def test_containers_without_ttl_and_a_store_that_is_away_are_named(
    engine: AsyncEngine, settings: Settings, mappings: Mappings
) -> None:
    async with CosmosServer() as server:
        there = settings.model_copy(update={"cosmos_endpoint": server.endpoint})
        async with open_cosmos(there) as store:
            await store.provision(mappings)
            database = store.client.get_database_client(there.cosmos_database)
            properties = await store.container(ACCOUNTS).read()
            await database.replace_container(ACCOUNTS.container, properties["partitionKey"], default_ttl=None)
            town = Town(there, engine, store, mappings)
            assert "has no TTL" in (await refused(town, ONE, writers_restarted=True))["containers"]
            await server.stop()
            found = await refused(town, ONE, writers_restarted=True)
    assert list(found) == ["account"]


async def test_without_postgres_that_is_what_refuses(town: Town) -> None:
    engine = create_async_engine("postgresql+psycopg://me@127.0.0.1:9/none")
    found = await preflight(
        engine, town.store, town.mappings, town.settings, await town.row(), ONE, StepOptions(writers_restarted=True)
    )
    await engine.dispose()
    [check] = [check for check in found if not check.ok and check.name == "migrations"]
    assert "failed: Connection refused" in check.detail
