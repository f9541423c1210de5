"""Least privilege: a role that was given a process's rights can run it, and has no other in the schema."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from core import Crossfeed, Entity, EntityMapping
from core.domain.account import Account
from core.domain.events import AccountRegistered
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.errors import ConfigurationError
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import capture
from core.postgres.grants import grant
from core.postgres.rights import Process, check_rights
from functions.bootstrap import bootstrap
from functions.instance_facts import facts_of_instance
from tests.integration.relay_steps import until
from tests.integration.routing_steps import barrier_of, enter_phase_2
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


@pytest.fixture
async def role(engine: AsyncEngine) -> AsyncIterator[str]:
    """A role that may log in and nothing else, with a name that has to be quoted."""
    name = f'least-"{uuid.uuid4().hex}"'
    spelled = '"' + name.replace('"', '""') + '"'
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE ROLE {spelled} LOGIN PASSWORD 'secret'")
    yield name
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"DROP OWNED BY {spelled}; DROP ROLE {spelled}")


def under(settings: Settings, role: str) -> Settings:
    dsn = psycopg.conninfo.make_conninfo(settings.require_postgres(), user=role, password="secret")
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def given(engine: AsyncEngine, role: str, mappings: Mappings, *processes: Process) -> list[str]:
    async with engine.begin() as connection:
        return await grant(connection, role, processes, mappings)


@pytest.mark.parametrize("process", [Process.RELAY, Process.MIRROR, Process.FUNCTIONS])
async def test_a_process_starts_under_a_role_that_was_given_its_rights(
    process: Process, settings: Settings, engine: AsyncEngine, role: str, cosmos: CosmosStore
) -> None:
    await given(engine, role, Mappings(MAPPINGS), process)
    async with bootstrap(under(settings, role), process=process, store=cosmos) as application:
        assert await facts_of_instance(application.engine) is not None  # what its metrics say


async def use(db: Crossfeed, id_: str) -> None:
    """Do whatever an application does."""
    async with db.unit_of_work() as work:
        account = Account(id=id_)
        await work[Account].add(account)
        work.record(AccountRegistered(email="ada@example.com", display_name="Ada"), of=account)
        await work.commit()
    async with db.unit_of_work() as work:
        mine = await work[Account].get_by_id(id_)
        assert mine is not None
        mine.display_name = "Ada"
        await work[Account].update(mine)
        await work.commit()
    async with db.unit_of_work() as work:
        mine = await work[Account].get_by_id(id_)
        assert mine is not None
        await work[Account].delete(mine)
        await work.commit()
    async with db.unit_of_work() as work:
        await work[Account].add(Account(id=id_))
        await work.commit()


async def _has_row(engine: AsyncEngine, id_: str) -> bool:
    async with engine.connect() as connection:
        found = await connection.execute(sa.text("SELECT FROM accounts WHERE id = :id"), {"id": id_})
        return found.first() is not None


async def test_an_application_under_its_own_role_writes_and_reads_in_every_phase(
    settings: Settings, engine: AsyncEngine, role: str, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await given(engine, role, mappings, Process.APPLICATION)
    for phase in Phase:
        if phase is Phase.DUAL_WRITE_POSTGRES_READ:
            await cosmos.container(ACCOUNTS).upsert_item({"id": "left behind", "DisplayName": "Eve"})
            await switch_phase(engine, cosmos, mappings, Phase.COSMOS_ONLY, who="test", why="test")
            await enter_phase_2(engine, barrier=barrier_of(mappings))
        elif phase is not Phase.COSMOS_ONLY:
            await switch_phase(engine, cosmos, mappings, phase, who="test", why="test")
        async with Crossfeed.open(under(settings, role), MAPPINGS) as db:
            assert (await db.phase()).phase is phase
            await use(db, f"of-{phase.name.lower()}")
            if phase is Phase.DUAL_WRITE_POSTGRES_READ:
                async with db.unit_of_work() as work:
                    left = await work[Account].get_by_id("left behind")
                    assert left is not None
                    assert left.display_name == "Eve"
                    await work.commit()
                await until(lambda: _has_row(engine, "left behind"))


async def test_rights_that_are_no_longer_needed_are_taken_and_granting_twice_is_granting_once(
    settings: Settings, engine: AsyncEngine, role: str, mappings: Mappings
) -> None:
    both = await given(engine, role, mappings, Process.RELAY, Process.MIRROR)
    assert await given(engine, role, mappings, Process.RELAY, Process.MIRROR) == both
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f'GRANT SELECT ON accounts, pg_authid TO "{role.replace(chr(34), chr(34) * 2)}"'
        )
    await given(engine, role, mappings, Process.APPLICATION)
    async with await psycopg.AsyncConnection.connect(
        under(settings, role).require_postgres(), autocommit=True
    ) as session:
        await session.execute("SELECT phase FROM crossfeed.phase")
        await session.execute("SELECT FROM pg_authid LIMIT 1")  # nothing of ours: it stays
        for table in ("feed_range", "slot", "inbox", "lineage", "switch"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await session.execute(f"SELECT FROM crossfeed.{table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await session.execute("UPDATE crossfeed.phase SET epoch = 99")


async def test_a_role_that_is_not_there_or_a_superuser_is_refused_with_the_cure(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    async with engine.begin() as connection:
        with pytest.raises(ConfigurationError, match='CREATE ROLE "nobody" LOGIN'):
            await grant(connection, "nobody", [Process.RELAY], mappings)
        owner = str((await connection.exec_driver_sql("SELECT current_user::text")).scalar_one())
        with pytest.raises(ConfigurationError, match="is a superuser"):
            await grant(connection, owner, [Process.RELAY], mappings)


async def test_the_owner_keeps_its_rights_with_which_every_function_runs(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    name = f"owner_{uuid.uuid4().hex}"
    async with engine.connect() as connection:  # rolled back
        await connection.exec_driver_sql(f"CREATE ROLE {name}")
        await connection.exec_driver_sql(f"ALTER TABLE crossfeed.outbox OWNER TO {name}")
        with pytest.raises(ConfigurationError, match="owns the schema crossfeed, or a part of it"):
            await grant(connection, name, [Process.APPLICATION], mappings)


async def test_a_server_that_knows_no_managed_identities_creates_no_role_for_one(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    name = f"id-{uuid.uuid4().hex}"
    with pytest.raises(Exception, match='security label provider "pgaadauth" is not loaded'):
        async with engine.begin() as connection:
            await grant(connection, name, [Process.RELAY], mappings, uuid.uuid4())
    async with engine.connect() as connection:
        found = await connection.execute(sa.text("SELECT FROM pg_roles WHERE rolname = :name"), {"name": name})
        assert found.first() is None


class Thing(Entity):
    """In a schema of its own, of a name that has to be quoted."""


_THINGS = sa.Table("Things", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), schema="my shop")


async def test_a_mapped_table_in_another_schema_can_be_reached(
    settings: Settings, engine: AsyncEngine, role: str
) -> None:
    things = EntityMapping(Thing, table=_THINGS, container="Things", partition_key="/id")
    async with engine.begin() as connection:
        await connection.exec_driver_sql('CREATE SCHEMA "my shop"')
        await connection.run_sync(_THINGS.metadata.create_all)
        await connection.run_sync(capture.install, things)
        await grant(connection, role, [Process.RELAY], [things])
        await connection.exec_driver_sql(f'SET LOCAL ROLE "{role.replace(chr(34), chr(34) * 2)}"')
        await check_rights(connection, Process.RELAY, [things])
        await connection.exec_driver_sql('SELECT FROM "my shop"."Things"')
        await connection.exec_driver_sql("RESET ROLE")
        await connection.exec_driver_sql(
            f'REVOKE USAGE ON SCHEMA "my shop" FROM "{role.replace(chr(34), chr(34) * 2)}"'
        )
        await connection.exec_driver_sql(f'SET LOCAL ROLE "{role.replace(chr(34), chr(34) * 2)}"')
        with pytest.raises(ConfigurationError, match='GRANT USAGE ON schema "my shop"'):
            await check_rights(connection, Process.RELAY, [things])
