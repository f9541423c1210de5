"""What an operator gets wrong, and a disk that is full: a clear error each, and nothing is lost."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from changefeed.reconcile import Reconcile
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, MAPPINGS
from core.errors import ConfigurationError, MappingError
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.rights import Process, rights_of
from functions.bootstrap import bootstrap
from outbox.relay import open_relay
from tests.integration.reconcile_steps import hasty
from tests.integration.relay_steps import connect, differences, letters, make_primary, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


async def test_a_message_of_an_entity_without_a_mapping_stops_the_relay_and_stays(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(
        engine, "INSERT INTO accounts (id) VALUES ('a')", "INSERT INTO game_sessions (id, account_id) VALUES ('s', 'a')"
    )
    known = Mappings(mapping for mapping in MAPPINGS if mapping is not GAME_SESSIONS)
    with pytest.raises(MappingError, match="GameSession"):
        async with asyncio.timeout(20):
            await open_relay(settings, known, engine, cosmos).run(asyncio.Event())
    await open_relay(settings, mappings, engine, cosmos).drain()
    session, account = GAME_SESSIONS.identity_of("a", "s"), ACCOUNTS.identity_of("a", "a")
    assert await differences(engine, cosmos, GAME_SESSIONS, [session]) == []
    assert await differences(engine, cosmos, ACCOUNTS, [account]) == []
    assert await letters(engine) == []


class Role:
    """A role that may do nothing until it is told."""

    def __init__(self, name: str, session: psycopg.AsyncConnection[Any]) -> None:
        self.name = name
        self._session = session

    async def grant(self, what: str, privilege: str) -> None:
        await self._session.execute(f'GRANT {privilege} ON {what} TO "{self.name}"'.encode())

    async def revoke(self, what: str, privilege: str) -> None:
        await self._session.execute(f'REVOKE {privilege} ON {what} FROM "{self.name}"'.encode())


@pytest.fixture
async def role(settings: Settings) -> AsyncIterator[Role]:
    name = f"relay_{uuid.uuid4().hex}"
    async with await connect(settings) as session:
        await session.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret'".encode())
        yield Role(name, session)
        await session.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'.encode())


def as_role(settings: Settings, role: Role) -> Settings:
    uri = urlsplit(settings.require_postgres())
    dsn = uri._replace(netloc=f"{role.name}:secret@{uri.hostname}:{uri.port}").geturl()
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def test_missing_rights_are_named_at_the_start_with_the_statements_that_grant_them(
    settings: Settings, role: Role, cosmos: CosmosStore, mappings: Mappings
) -> None:
    for what, privilege in rights_of(Process.RELAY, mappings):
        await role.grant(what, privilege)
    await role.revoke("crossfeed.slot", "UPDATE")
    await role.revoke("accounts", "SELECT")
    with pytest.raises(ConfigurationError) as refused:
        async with bootstrap(as_role(settings, role), process=Process.RELAY, store=cosmos):
            pass
    assert f'GRANT UPDATE ON crossfeed.slot TO "{role.name}"' in str(refused.value)
    assert f'GRANT SELECT ON accounts TO "{role.name}"' in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_a_role_with_the_rights_that_are_asked_for_can_do_everything(
    settings: Settings, engine: AsyncEngine, role: Role, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    for what, privilege in rights_of(Process.RELAY, mappings):
        await role.grant(what, privilege)
    given = as_role(settings, role).model_copy(update={"relay_attempts": 2, "relay_retry_first_s": 0.05})
    async with (
        open_engine(given) as limited,
        bootstrap(given, process=Process.RELAY, engine=limited, store=cosmos) as application,
    ):
        stop = asyncio.Event()
        running = asyncio.ensure_future(application.relay.run(stop))
        await run(
            engine,
            "INSERT INTO accounts (id) VALUES ('a'), ('b'), ('bad/id')",
            "DELETE FROM accounts WHERE id = 'b'",
            # A row behind its own tombstone, which is lifted above it.
            "INSERT INTO accounts (id) VALUES ('low')",
            "INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version)"
            " SELECT 'Account', '[\"low\"]', 'low', epoch, 1 FROM crossfeed.phase",
        )
        await until(lambda: _has_letters(engine))
        await until(lambda: application.relay.stats.lifted == 1)
        stop.set()
        await running
    identities = [ACCOUNTS.identity_of(id_, id_) for id_ in ("a", "b", "low")]
    assert await differences(engine, cosmos, ACCOUNTS, identities) == []


async def test_a_mirror_needs_none_of_a_relays_rights(
    settings: Settings, engine: AsyncEngine, role: Role, cosmos: CosmosStore, mappings: Mappings
) -> None:
    phase = await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    for what, privilege in rights_of(Process.MIRROR, mappings):
        await role.grant(what, privilege)
    async with CosmosUnitOfWork(cosmos, mappings, phase.epoch) as work:
        for id_ in ("a", "b", "c"):
            await work[Account].add(Account(id=id_))
            await work.commit()
    async with bootstrap(as_role(settings, role), process=Process.MIRROR, store=cosmos) as application:
        await application.processor.run_once()
        async with CosmosUnitOfWork(cosmos, mappings, phase.epoch) as work:
            [gone] = [one for one in await work[Account].list() if one.id == "b"]
            await work[Account].delete(gone)
            await work.commit()
        await application.processor.run_once()
        await cosmos.container(ACCOUNTS).delete_item("c", "c")
        report = await Reconcile(application.engine, cosmos, mappings, hasty(settings)).run()
        assert sum(one.counts.removed for one in report.containers) == 1
    identities = [ACCOUNTS.identity_of(id_, id_) for id_ in ("a", "b")]
    assert await differences(engine, cosmos, ACCOUNTS, identities) == []


async def _has_letters(engine: AsyncEngine) -> bool:
    return bool(await letters(engine))


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    relay = open_relay(settings.model_copy(update={"relay_lease_s": 1.0}), mappings, engine, cosmos)
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    try:
        await run(engine, "INSERT INTO accounts (id) VALUES ('before')")
        await until(lambda: relay.stats.published >= 1)
        # As Postgres says it: no file can be extended, so neither cursor nor letter nor message can be written.
        for table in ("slot", "dead_letter", "parked", "relay"):
            await run(
                engine,
                f"CREATE FUNCTION full_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
                " 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$",
                f"CREATE TRIGGER a_full BEFORE INSERT OR UPDATE ON crossfeed.{table} FOR EACH STATEMENT"
                f" EXECUTE FUNCTION full_{table}()",
            )
        await run(engine, "INSERT INTO accounts (id) VALUES ('during'), ('bad/id')")
        await until(lambda: relay.health().last_error is not None or relay.health().lease_left_s <= 0)
        await asyncio.sleep(1.2)
        assert not running.done()
        for table in ("slot", "dead_letter", "parked", "relay"):
            await run(engine, f"DROP TRIGGER a_full ON crossfeed.{table}")
        await run(engine, "INSERT INTO accounts (id) VALUES ('after')")
        await until(lambda: relay.stats.published >= 3)
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)
    await relay.drain()
    identities = [ACCOUNTS.identity_of(id_, id_) for id_ in ("before", "during", "after")]
    assert await differences(engine, cosmos, ACCOUNTS, identities) == []
