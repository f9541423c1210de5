"""G1: a committed write to a mapped table has its message and a rolled-back one has none, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, registry

from core.domain import tables
from core.domain.account import Account
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.relay_steps import Logged, connect, logged, make_primary, run, versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

    Writer = Callable[[Settings, AsyncEngine, Mappings], Awaitable[None]]


class AccountRow:
    """What an application maps with SQLAlchemy, without a word about Crossfeed."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry().map_imperatively(AccountRow, tables.accounts)


async def by_unit_of_work(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    account = Account(id="a", email="one")
    async with PostgresUnitOfWork(engine, mappings) as work:
        await work[Account].add(account)
        await work.commit()
    async with PostgresUnitOfWork(engine, mappings) as work:
        account.email = "two"
        await work[Account].update(account)
        await work.commit()
    async with PostgresUnitOfWork(engine, mappings) as work:
        await work[Account].delete(account)
        await work.commit()


async def by_async_session(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    async with AsyncSession(engine) as session:
        row = AccountRow(id="a", email="one")
        session.add(row)
        await session.commit()
        row.email = "two"  # type: ignore[attr-defined]
        await session.commit()
        await session.delete(row)
        await session.commit()


async def by_sync_session(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    dsn = settings.require_postgres()
    sync = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with Session(sync) as session:
        row = AccountRow(id="a", email="one")
        session.add(row)
        session.commit()
        row.email = "two"  # type: ignore[attr-defined]
        session.commit()
        session.delete(row)
        session.commit()
    sync.dispose()


async def by_raw_sql(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    async with await connect(settings) as psql:
        await psql.execute("INSERT INTO accounts (id, email) VALUES ('a', 'one')")
        await psql.execute("UPDATE accounts SET email = 'two'")
        await psql.execute("DELETE FROM accounts")


async def by_prepared_statement(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    async with await connect(settings) as psql:
        await psql.execute("PREPARE put (text) AS INSERT INTO accounts (id, email) VALUES ('a', $1)")
        await psql.execute("EXECUTE put ('one')")
        await psql.execute("UPDATE accounts SET email = %s", ["two"], prepare=True)
        await psql.execute("DELETE FROM accounts WHERE id = %s", ["a"], prepare=True)


async def by_on_conflict(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    put = "INSERT INTO accounts (id, email) VALUES ('a', %s) ON CONFLICT (id) DO UPDATE SET email = excluded.email"
    async with await connect(settings) as psql:
        await psql.execute(put, ["one"])
        await psql.execute(put, ["two"])
        await psql.execute("INSERT INTO accounts (id) VALUES ('a') ON CONFLICT DO NOTHING")
        await psql.execute("DELETE FROM accounts")


async def by_merge(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    merge = """MERGE INTO accounts t USING (VALUES ('a', '{0}')) AS s (id, email) ON t.id = s.id
        WHEN MATCHED AND s.email = 'gone' THEN DELETE
        WHEN MATCHED THEN UPDATE SET email = s.email
        WHEN NOT MATCHED THEN INSERT (id, email) VALUES (s.id, s.email)"""
    async with await connect(settings) as psql:
        if psql.info.server_version < 150000:
            pytest.skip("MERGE came with Postgres 15")
        for email in ("one", "two", "gone"):
            await psql.execute(merge.format(email))


async def by_copy(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    async with await connect(settings) as psql:
        async with psql.cursor() as cursor, cursor.copy("COPY accounts (id, email) FROM STDIN") as copy:
            await copy.write_row(("a", "one"))
        await psql.execute("UPDATE accounts SET email = 'two'")
        await psql.execute("DELETE FROM accounts")


@pytest.mark.parametrize(
    "write",
    [
        by_unit_of_work,
        by_async_session,
        by_sync_session,
        by_raw_sql,
        by_prepared_statement,
        by_on_conflict,
        by_merge,
        by_copy,
    ],
)
async def test_every_write_has_its_message_whoever_wrote_it(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, write: Writer
) -> None:
    await make_primary(engine)
    await write(settings, engine, mappings)
    key = '["a"]'
    assert await logged(engine) == [
        Logged(key, "a", 1, deleted=False),
        Logged(key, "a", 2, deleted=False),
        Logged(key, "a", 3, deleted=True),
    ]


async def test_a_statement_of_many_rows_has_a_message_for_each(settings: Settings, engine: AsyncEngine) -> None:
    await make_primary(engine)
    copying = "COPY accounts (id) FROM STDIN"
    async with await connect(settings) as psql, psql.cursor() as cursor, cursor.copy(copying) as copy:
        for number in range(50):
            await copy.write_row((f"a{number}",))
    await run(engine, "UPDATE accounts SET email = 'x' WHERE id < 'a2'", "UPDATE accounts SET email = 'y' WHERE false")
    updated = sum(f"a{number}" < "a2" for number in range(50))
    found = await logged(engine)
    assert sorted(found) == sorted(
        [Logged(f'["a{number}"]', f"a{number}", 1, deleted=False) for number in range(50)]
        + [Logged(f'["a{number}"]', f"a{number}", 2, deleted=False) for number in range(50) if f"a{number}" < "a2"]
    )
    assert len(found) == 50 + updated


async def test_what_is_rolled_back_has_no_message(settings: Settings, engine: AsyncEngine) -> None:
    await make_primary(engine)
    async with await connect(settings) as psql:
        await psql.execute("BEGIN; INSERT INTO accounts (id) VALUES ('kept'); SAVEPOINT one")
        await psql.execute("INSERT INTO accounts (id) VALUES ('dropped'); ROLLBACK TO one")
        await psql.execute("SAVEPOINT two; INSERT INTO accounts (id) VALUES ('released'); RELEASE two")
        await psql.execute("SAVEPOINT three; UPDATE accounts SET email = 'x' WHERE id = 'kept'")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await psql.execute("INSERT INTO accounts (id) VALUES ('kept')")
        await psql.execute("ROLLBACK TO three")
        await psql.execute("COMMIT")
        await psql.execute("BEGIN; INSERT INTO accounts (id) VALUES ('gone'); DELETE FROM accounts; ROLLBACK")
    assert await logged(engine) == [
        Logged('["kept"]', "kept", 1, deleted=False),
        Logged('["released"]', "released", 1, deleted=False),
    ]
    assert await versions(engine, "accounts") == {"kept": 1, "released": 1}


async def test_versions_grow_by_exactly_one_whatever_the_writer_sets(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(
        engine,
        "INSERT INTO accounts (id, crossfeed_epoch, crossfeed_version) VALUES ('a', 77, 99)",
        "UPDATE accounts SET crossfeed_version = 50, crossfeed_epoch = 1",
        "UPDATE accounts SET crossfeed_version = 3",
        "UPDATE accounts SET crossfeed_version = NULL, crossfeed_epoch = NULL",
        "UPDATE accounts SET crossfeed_version = 0",
    )
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql("SELECT epoch, version FROM crossfeed.outbox ORDER BY seq")
        assert [tuple(row) for row in result] == [(2, version) for version in range(1, 6)]
        stamp = await connection.exec_driver_sql("SELECT crossfeed_epoch, crossfeed_version FROM accounts")
        assert tuple(stamp.one()) == (2, 5)


async def test_a_key_that_is_used_again_goes_on_from_its_tombstone(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')", "UPDATE accounts SET email = 'x'")
    await run(engine, "DELETE FROM accounts", "INSERT INTO accounts (id) VALUES ('a')", "DELETE FROM accounts")
    await run(engine, "INSERT INTO accounts (id) VALUES ('a') ON CONFLICT (id) DO UPDATE SET email = 'y'")
    assert [(item.version, item.deleted) for item in await logged(engine)] == [
        (1, False),
        (2, False),
        (3, True),
        (4, False),
        (5, True),
        (6, False),
    ]


async def test_a_message_holds_the_key_and_nothing_else_of_the_row(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id, email, display_name) VALUES ('a', 'secret@example.org', 'secret')")
    async with engine.connect() as connection:
        text = (await connection.exec_driver_sql("SELECT to_json(o)::text FROM crossfeed.outbox o")).scalar_one()
    assert "secret" not in text


async def test_what_the_mirror_writes_is_neither_stamped_nor_logged_while_postgres_is_primary_too(
    engine: AsyncEngine,
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a'), ('b')")
    before = await logged(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
        await connection.exec_driver_sql(
            "INSERT INTO accounts (id, crossfeed_epoch, crossfeed_version) VALUES ('c', 7, 40)"
        )
        await connection.exec_driver_sql("UPDATE accounts SET email = 'x', crossfeed_version = 9 WHERE id = 'a'")
        await connection.exec_driver_sql("DELETE FROM accounts WHERE id = 'b'")
    assert await logged(engine) == before
    assert await versions(engine, "accounts") == {"a": 9, "c": 40}
    await run(engine, "UPDATE accounts SET email = 'y'")
    assert len(await logged(engine)) == len(before) + 2
