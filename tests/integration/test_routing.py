"""Reads in phase 2: Postgres first, then what the switch has left behind in Cosmos DB, which is never resurrected."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account, Accounts
from core.domain.game_session import GameSession, GameSessions
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS
from core.errors import AlreadyExistsError, ConfigurationError, StoreUnavailableError
from core.migration.routing import Routing
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.phases import open_phase, reopen_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import run
from tests.integration.routing_steps import App, barrier_of, enter_phase_2, nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
async def app(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> AsyncIterator[App]:
    """Phase 2 after a switch that accepted documents without a row; whatever is seeded is one."""
    async with App.open(engine, cosmos, mappings, settings, barrier=barrier_of(mappings)) as app:
        yield app


async def rows(engine: AsyncEngine, table: str = "accounts") -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


# -- what was left behind is found, once


async def test_a_document_without_a_row_is_served_and_becomes_a_row_that_is_not_sent_back(
    app: App, engine: AsyncEngine
) -> None:
    await app.foreign(ACCOUNTS, {"id": "a", "Email": "a@x.org", "Extra": [1]})
    async with app.unit() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        assert account.email == "a@x.org"
    assert await rows(engine) == 1
    assert await rows(engine, "crossfeed.outbox") == 0
    async with PostgresUnitOfWork(engine, app.mappings) as work:  # without a fallback
        assert await work[Account].exists("a")


async def test_a_document_of_ours_keeps_its_stamp_and_its_row_goes_on_from_there(app: App, engine: AsyncEngine) -> None:
    async with CosmosUnitOfWork(app.store, app.mappings, app.phase.epoch - 1) as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
    async with app.unit() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        account.display_name = "Ann"
        await work[Account].update(account)
        await work.commit()
    async with engine.connect() as connection:
        stamps = "SELECT crossfeed_epoch, crossfeed_version, o.version FROM accounts JOIN crossfeed.outbox o USING (id)"
        found = await connection.execute(text(stamps))
        assert [tuple(row) for row in found] == [(app.phase.epoch, 2, 2)]


async def test_exists_by_email_falls_back_as_get_by_email_does(app: App) -> None:
    await app.foreign(ACCOUNTS, {"id": "a", "Email": "Ann@X.org"})
    async with app.unit() as work:
        assert await work.of(Accounts).exists_by_email("ann@x.org")
    await app.foreign(ACCOUNTS, {"id": "b", "Email": "Bob@X.org"})
    async with app.unit() as work:
        found = await work.of(Accounts).get_by_email("bob@x.org")
        assert found is not None
        assert found.id == "b"


async def test_lists_counts_and_streams_hold_both_stores_in_one_order(app: App, engine: AsyncEngine) -> None:
    async with app.unit() as work:
        for id_ in ("b", "d"):
            await work[Account].add(Account(id=id_))
        await work.commit()
    await app.foreign(ACCOUNTS, {"id": "a"}, {"id": "c"})
    async with app.unit() as work:
        assert [account.id for account in await work[Account].list()] == ["a", "b", "c", "d"]
        assert await work[Account].count() == 4
        assert [account.id async for account in work[Account].stream()] == ["a", "b", "c", "d"]
    assert await rows(engine) == 4


async def test_an_id_is_found_without_its_partition_key(app: App) -> None:
    await app.foreign(GAME_SESSIONS, {"id": "s", "accountId": "a"})
    async with app.unit() as work:
        assert await work[GameSession].exists("s")
        assert [session.id for session in await work.of(GameSessions).by_account("a")] == ["s"]


async def test_what_is_there_cannot_be_added_once_more(app: App, engine: AsyncEngine) -> None:
    await app.foreign(ACCOUNTS, {"id": "a", "Email": "there@x.org"})
    with pytest.raises(AlreadyExistsError):
        async with app.unit() as work:
            await work[Account].add(Account(id="a", email="new@x.org"))
    async with app.unit() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        assert account.email == "there@x.org"


# -- what does not count


async def test_the_fallback_resurrects_no_deleted_entity(app: App, engine: AsyncEngine) -> None:
    await app.foreign(ACCOUNTS, {"id": "a", "Email": "a@x.org"})
    async with app.unit() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        await work[Account].delete(account)
        await work.commit()
    async with app.unit() as work:  # no relay runs: the document is still there
        assert await app.document(ACCOUNTS, "a") is not None
        assert await work[Account].get_by_id("a") is None
        assert not await work.of(Accounts).exists_by_email("a@x.org")
        assert await work[Account].list() == []
        assert [account async for account in work[Account].stream()] == []
        await work[Account].add(Account(id="a", email="again@x.org"))
        await work.commit()
    assert await rows(engine) == 1


async def test_what_the_same_unit_has_deleted_is_gone_before_its_commit(app: App) -> None:
    await app.foreign(ACCOUNTS, {"id": "a"})
    async with app.unit() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        await work[Account].delete(account)
        assert await work[Account].get_by_id("a") is None
        assert await work[Account].count() == 0


async def test_what_was_written_in_the_very_second_of_the_barrier_is_served(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings
) -> None:
    stored = await cosmos.container(ACCOUNTS).create_item({"id": "a"})
    barrier = barrier_of(mappings, stored["_ts"])
    async with App.open(engine, cosmos, mappings, settings, barrier=barrier) as app, app.unit() as work:
        assert await work[Account].get_by_id("a") is not None


@pytest.mark.parametrize(
    ("envelope", "age_s"),
    [
        pytest.param({}, -1, id="written after the barrier"),
        pytest.param({"deleted": True, "epoch": 1, "version": 3}, 1, id="a tombstone"),
        pytest.param({"kind": "canary", "epoch": 1}, 1, id="one of our own"),
    ],
)
async def test_what_is_no_entity_of_before_the_barrier_is_not_served(  # noqa: PLR0913, PLR0917 - fixtures
    settings: Settings,
    engine: AsyncEngine,
    cosmos: CosmosStore,
    mappings: Mappings,
    envelope: dict[str, Any],
    age_s: int,
) -> None:
    stored = await cosmos.container(ACCOUNTS).create_item({"id": "a", "crossfeed": envelope})
    barrier = barrier_of(mappings, stored["_ts"] + age_s)
    async with App.open(engine, cosmos, mappings, settings, barrier=barrier) as app, app.unit() as work:
        assert await work[Account].get_by_id("a") is None
        assert await work[Account].list() == []
        assert await work[Account].count() == 0
    assert await rows(engine) == 0


# -- when Cosmos DB is asked


async def unreachable() -> CosmosStore:
    message = "no Cosmos DB answers"
    raise ConfigurationError(message)


async def test_what_postgres_holds_is_read_while_cosmos_does_not_answer_and_a_miss_is_not_called_absence(
    app: App, engine: AsyncEngine, settings: Settings
) -> None:
    async with app.unit() as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
    async with Routing(engine, app.mappings, unreachable, settings) as routing, app.unit(routing) as work:
        assert await work[Account].get_by_id("a") is not None
        assert await work[Account].exists("a")
        for ask in (work[Account].get_by_id("b"), work[Account].count(), work[Account].add(Account(id="c"))):
            with pytest.raises(StoreUnavailableError):
                await ask


@pytest.mark.parametrize("way", ["complete", "no switch", "from phase 3"])
async def test_cosmos_is_not_asked_where_the_switch_has_left_nothing_behind(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, way: str
) -> None:
    match way:
        case "complete":
            row = await enter_phase_2(engine, barrier=barrier_of(mappings), complete=True)
        case "no switch":
            row = await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="tests", why="a new installation")
        case _:
            await enter_phase_2(engine, barrier=barrier_of(mappings))
            await open_phase(engine, Phase.POSTGRES_ONLY, who="tests", why="on")
            row = await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="tests", why="back")
    async with (
        Routing(engine, mappings, unreachable, settings) as routing,
        PostgresUnitOfWork(engine, mappings) as unit,
    ):
        work = routing.routed(unit, row)
        assert await work[Account].get_by_id("a") is None
        assert await work[Account].list() == []
        await work[Account].add(Account(id="a"))
        await work.commit()


async def test_the_epochs_of_a_resync_belong_to_the_phase_that_the_switch_opened(
    app: App, engine: AsyncEngine, settings: Settings
) -> None:
    await app.foreign(ACCOUNTS, {"id": "a"})
    async with engine.begin() as connection:
        await connection.execute(text("SELECT crossfeed.open_epoch(2::smallint, 'tests', 'a re-sync')"))
    resynced = PhaseRow(Phase.DUAL_WRITE_POSTGRES_READ, app.phase.epoch + 1, PhaseState.STEADY)
    async with app.unit(phase=resynced) as work:
        assert await work[Account].exists("a")


@pytest.mark.parametrize("phase", [Phase.COSMOS_ONLY, Phase.DUAL_WRITE_COSMOS_READ, Phase.POSTGRES_ONLY])
async def test_in_the_other_phases_the_unit_of_work_is_the_primarys_own(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, phase: Phase
) -> None:
    row = PhaseRow(phase, 1, PhaseState.STEADY)
    async with Routing(engine, mappings, unreachable, settings) as routing:
        for unit in (PostgresUnitOfWork(engine, mappings), CosmosUnitOfWork(cosmos, mappings, 1)):
            assert routing.routed(unit, row) is unit


async def test_a_feed_that_is_read_again_does_not_bury_what_was_left_behind(app: App, engine: AsyncEngine) -> None:
    await app.foreign(ACCOUNTS, {"id": "a"})
    again = Steps(engine, app.store, app.mappings, ACCOUNTS)
    outcome = await again.apply(await again.watch())
    assert (outcome.quarantined, await rows(engine, "crossfeed.tombstone")) == (0, 0)
    async with app.unit() as work:
        assert await work[Account].exists("a")


async def test_what_was_left_behind_gets_the_last_epoch_of_cosmos_db_whatever_was_opened_since(
    app: App, engine: AsyncEngine
) -> None:
    reopened = await reopen_phase(engine, 0, nothing, who="tests", why="as a re-sync does")
    await app.foreign(ACCOUNTS, {"id": "a"})
    async with app.unit(phase=reopened) as work:
        assert await work[Account].exists("a")
    async with engine.connect() as connection:
        stamps = await connection.execute(text("SELECT crossfeed_epoch, crossfeed_version FROM accounts"))
        assert [tuple(row) for row in stamps] == [(app.phase.epoch - 1, 1)]


async def test_a_role_that_may_do_nothing_but_use_its_tables_reads_where_nothing_was_left_behind(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    phase = await enter_phase_2(engine, barrier=barrier_of(mappings), complete=True)
    role = f"application_{uuid.uuid4().hex}"
    grants = (f"GRANT USAGE ON SCHEMA crossfeed TO {role}", f"GRANT SELECT, INSERT ON accounts TO {role}")
    await run(engine, f"CREATE ROLE {role}", *grants)
    async with (
        Routing(engine, mappings, unreachable, settings) as routing,
        PostgresUnitOfWork(engine, mappings) as unit,
    ):
        await unit.connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
        work = routing.routed(unit, phase)
        assert await work[Account].get_by_id("a") is None
        await work[Account].add(Account(id="a"))
        assert await work[Account].count() == 1
    await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
