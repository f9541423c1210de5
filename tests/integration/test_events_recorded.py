"""Events recorded in Postgres are in the log with the transaction, in the commit order of their aggregate."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from core.domain import tables
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS, PENDING_SIGNUPS
from core.domain.pending_signup import PendingSignup
from core.errors import NotFoundError, PrimaryMovedError
from core.identity import Identity
from core.phases import Phase
from core.postgres.events import record
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.event_steps import Said, account, log_of_events, numbers
from tests.integration.relay_steps import connect, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

A = account()


@pytest.fixture
async def primary(engine: AsyncEngine) -> AsyncEngine:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a'), ('b')")
    return engine


async def test_a_message_holds_the_event_by_value_with_the_place_of_its_state(
    primary: AsyncEngine, mappings: Mappings
) -> None:
    span = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(span)):
        async with PostgresUnitOfWork(primary, mappings) as work:
            found = await work[Account].get_by_id("a")
            assert found is not None
            await work[Account].update(found)
            work.record(Said(number=1), of=found)
            await work.commit()
    [message] = await log_of_events(primary)
    envelope = json.loads(message.event)
    assert (message.identity, message.event_id, envelope["data"]) == (A, envelope["id"], {"number": 1})
    assert message.traceparent == envelope["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    async with primary.connect() as connection:
        [row] = await connection.exec_driver_sql(
            "SELECT epoch, version, deleted, slot >= 16 FROM crossfeed.outbox WHERE event_id IS NOT NULL"
        )
    assert tuple(row) == (2, 2, False, True)


async def test_any_session_records_what_it_has_not_flushed_yet(primary: AsyncEngine, settings: Settings) -> None:
    class Row:
        pass

    registry = sa.orm.registry()
    registry.map_imperatively(Row, tables.accounts)
    async with AsyncSession(primary) as session:
        row: Any = Row()
        row.id = "new"
        session.add(row)
        await session.run_sync(record, Said(number=1), of=account("new"), mapping=ACCOUNTS)
        await session.commit()
    async with AsyncSession(primary) as session:
        await session.run_sync(record, Said(number=2), of=A, mapping=ACCOUNTS)
    synchronous = sa.create_engine(settings.require_postgres().replace("postgresql://", "postgresql+psycopg://"))
    with Session(synchronous) as plain:
        record(plain, Said(number=3), of=A, mapping=ACCOUNTS)
        plain.commit()
    with synchronous.begin() as connection:
        record(connection, Said(number=4), of=A, mapping=ACCOUNTS)
        with pytest.raises(NotFoundError), connection.begin_nested():
            record(connection, Said(number=5), of=account("nobody"), mapping=ACCOUNTS)
    synchronous.dispose()
    assert numbers(await log_of_events(primary)) == [1, 3, 4]


async def test_who_records_first_commits_first(primary: AsyncEngine, mappings: Mappings) -> None:
    """With or without a write of the row: the row's lock orders them, so the sequence is the commit order."""
    async with PostgresUnitOfWork(primary, mappings) as first, PostgresUnitOfWork(primary, mappings) as second:
        await first.connection.run_sync(record, Said(number=1), of=A, mapping=ACCOUNTS)
        second.record(Said(number=3), of=A)
        waiting = asyncio.ensure_future(second.commit())
        await asyncio.sleep(0.1)
        assert not waiting.done(), "the second waits for the first one's row"
        await first.connection.run_sync(record, Said(number=2), of=A, mapping=ACCOUNTS)
        await first.commit()
        await waiting
    assert numbers(await log_of_events(primary)) == [1, 2, 3]


async def test_events_of_a_deleted_row_are_ordered_by_its_tombstone(primary: AsyncEngine, mappings: Mappings) -> None:
    await run(primary, "DELETE FROM accounts WHERE id = 'a'")
    async with PostgresUnitOfWork(primary, mappings) as first, PostgresUnitOfWork(primary, mappings) as second:
        await first.connection.run_sync(record, Said(number=1), of=A, mapping=ACCOUNTS)
        second.record(Said(number=2), of=A)
        waiting = asyncio.ensure_future(second.commit())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await first.commit()
        await waiting
    assert numbers(await log_of_events(primary)) == [1, 2]


async def test_many_writers_of_one_aggregate_are_in_commit_order(primary: AsyncEngine, mappings: Mappings) -> None:
    """What each one counted up in the row, under its lock, is what it says."""

    async def one(unit: int) -> None:
        async with PostgresUnitOfWork(primary, mappings) as work:
            for id_ in ("a", "b") if unit % 2 else ("b",):
                counted = await work.connection.exec_driver_sql(
                    "UPDATE accounts SET display_name = (coalesce(nullif(display_name, ''), '0')::int + 1)::text"
                    f" WHERE id = '{id_}' RETURNING display_name::int"
                )
                work.record(Said(number=counted.scalar_one()), of=account(id_))
            await work.commit()

    await asyncio.gather(*map(one, range(16)))
    messages = await log_of_events(primary)
    for identity in (A, account("b")):
        assert numbers(messages, identity) == list(range(1, 17 if identity != A else 9))


async def test_events_are_refused_where_states_would_be(engine: AsyncEngine, mappings: Mappings) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    async with PostgresUnitOfWork(engine, mappings) as work:
        work.record(Said(number=1), of=A)
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        with pytest.raises(PrimaryMovedError):
            await work.commit()
        await work.commit()
    async with PostgresUnitOfWork(engine, mappings, pin=Phase.DUAL_WRITE_POSTGRES_READ) as work:
        work.record(Said(number=2), of=A)
        with pytest.raises(PrimaryMovedError, match="pinned"):
            await work.commit()
    assert await log_of_events(engine) == []


async def test_a_switch_waits_for_a_transaction_that_has_recorded(primary: AsyncEngine, mappings: Mappings) -> None:
    async with PostgresUnitOfWork(primary, mappings) as work:
        await work.connection.run_sync(record, Said(number=1), of=A, mapping=ACCOUNTS)
        switching = asyncio.ensure_future(
            open_phase(primary, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test", patience=5)
        )
        await asyncio.sleep(0.1)
        assert not switching.done()
        await work.commit()
        assert (await switching).epoch == 3
    assert numbers(await log_of_events(primary)) == [1]


async def test_a_moved_key_may_have_events_under_both_names(primary: AsyncEngine, mappings: Mappings) -> None:
    async with PostgresUnitOfWork(primary, mappings) as work:
        signup = PendingSignup(id="s", email="old@x")
        await work[PendingSignup].add(signup)
        await work.commit()
        work.record(Said(number=1), of=signup)
        signup.email = "new@x"
        await work[PendingSignup].update(signup)
        work.record(Said(number=2), of=signup)
        await work.commit()
    found = {message.identity: message for message in await log_of_events(primary)}
    assert set(found) == {Identity.of(PENDING_SIGNUPS.name, [email], "s") for email in ("old@x", "new@x")}


async def test_a_role_without_rights_on_the_log_records_through_the_function(
    primary: AsyncEngine, settings: Settings
) -> None:
    await run(
        primary,
        "DROP ROLE IF EXISTS crossfeed_writer",
        "CREATE ROLE crossfeed_writer",
        "GRANT USAGE ON SCHEMA crossfeed TO crossfeed_writer",
        "GRANT SELECT, UPDATE ON accounts TO crossfeed_writer",
    )
    async with await connect(settings) as psql, psql.transaction():
        await psql.execute("SET LOCAL ROLE crossfeed_writer")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with psql.transaction():
                await psql.execute("DELETE FROM crossfeed.outbox")
        row = await (await psql.execute("SELECT crossfeed_version FROM accounts WHERE id = 'a' FOR UPDATE")).fetchone()
        assert row is not None
        event = '{"data": {"number": 1}}'
        await psql.execute(
            "SELECT crossfeed.record_events('Account', '[\"a\"]', 'a', %s, '{one}', ARRAY[%s::json])", [*row, event]
        )
    assert numbers(await log_of_events(primary)) == [1]
    await run(primary, "DROP OWNED BY crossfeed_writer", "DROP ROLE crossfeed_writer")
