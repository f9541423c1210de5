"""The buttons of the status page: nothing is done without the token, and nothing but what was seen and chosen."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from core.domain.mappings import ACCOUNTS
from core.phases import Phase
from core.postgres.dead_letters import Direction
from core.postgres.engine import open_engine
from core.postgres.grants import grant
from core.postgres.rights import Process
from core.postgres.samples import Sample, write_sample
from tests.integration.page_steps import TOKEN, form_of, furnish, serving_page
from tests.integration.relay_steps import connect, letters, make_primary, relaying, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

ADMIN = SecretStr(TOKEN)


async def test_without_the_token_nothing_is_done(settings: Settings, engine: AsyncEngine) -> None:
    await furnish(engine)
    before = await letters(engine)
    async with serving_page(settings, engine, admin_token=ADMIN) as site:
        _, page, _ = await site.get()
        for fields, headers in (
            (form_of(page, "discard", 1, 2, 3, token=None), {}),
            (form_of(page, "discard", 1, 2, 3, token=""), {}),
            (form_of(page, "discard", 1, 2, 3, token=TOKEN + " "), {}),
            (form_of(page, "discard", 1, 2, 3, token=None), {"Cookie": f"token={TOKEN}"}),
            (form_of(page, "replay", 1, 2, 3, token=None), {"Authorization": f"Basic {TOKEN}"}),
        ):
            status, answer, _ = await site.post(fields, **headers)
            assert status == 403
            assert "That is not the token; nothing was done." in answer
        status, _, _ = await site.post(form_of(page, "discard", 1, token=None), path=f"/?token={TOKEN}")
        assert status == 403
        assert (await site.post([("number", "1" * 70_000)]))[0] == 413
    async with serving_page(settings, engine) as site:
        _, page_without, _ = await site.get()
        assert "<form" not in page_without
        status, answer, _ = await site.post(form_of(page, "discard", 1, 2, 3))
        assert status == 403
        assert "CROSSFEED_ADMIN_TOKEN is not set" in answer
    assert await letters(engine) == before


async def test_on_a_public_address_the_page_takes_the_token_and_acts_only_if_that_is_allowed_by_name(
    settings: Settings, engine: AsyncEngine
) -> None:
    await furnish(engine)
    before = await letters(engine)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with serving_page(settings, engine, admin_token=ADMIN, is_own=False) as site:
        for path in ("/", "/status", "/status.json"):
            status, answer, headers = await site.get(path)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="Crossfeed"')
            assert "bad/id" not in answer
        status, page, _ = await site.get(**bearer)
        assert status == 200
        assert "<form" not in page
        assert "CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS is not true" in page
        fields = [("number", "1"), ("act", "discard"), ("until", "2100-01-01T00:00:00+00:00"), ("token", TOKEN)]
        assert (await site.post(fields))[0] == 403
        assert (await site.post(fields, **bearer))[0] == 403
    async with serving_page(settings, engine, is_own=False) as site:
        assert (await site.get())[0] == 403
    assert await letters(engine) == before
    allowed = settings.model_copy(update={"admin_on_public_address": True})
    async with serving_page(allowed, engine, is_own=False, admin_token=ADMIN) as site:
        status, _, _ = await site.post(fields)
        assert status == 200
    assert len(await letters(engine)) == len(before) - 1


async def test_who_has_the_token_discards_what_was_chosen_and_nothing_that_was_renewed_since(
    settings: Settings, engine: AsyncEngine
) -> None:
    await furnish(engine)
    async with serving_page(settings, engine, admin_token=ADMIN) as site:
        _, page, _ = await site.get()
        await run(engine, "UPDATE crossfeed.dead_letter SET last_at = clock_timestamp() WHERE number = 2")
        with capture_logs() as logged:
            status, answer, _ = await site.post(form_of(page, "discard", 1, 2, 77))
        assert status == 200
        assert "Discarded 1 dead letter; 2 stay." in answer
        assert TOKEN not in answer + str(logged)
        assert answer.count("renewed or taken away meanwhile") == 2
        assert {"act": "discard", "done": 1, "refused": 2, "event": "page.acted", "log_level": "info"} in logged
        assert (await site.post(form_of(page, "discard")))[0] == 400
    assert await _numbers(engine) == [2, 3]


async def test_a_replay_is_done_where_the_process_may_and_said_of_the_others(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    patient = settings.model_copy(update={"relay_attempts": 1})
    async with relaying(patient, mappings, engine, cosmos):
        await run(engine, "INSERT INTO accounts (id) VALUES ('bad/id')")
        await until(lambda: _has_letters(engine))
    await run(
        engine,
        "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)"
        " VALUES ('to_postgres', 'refused', 'Account', '[\"b\"]', 'b', 'too long')",
    )
    parts: Any = {"store": cosmos, "mappings": mappings}
    [to_cosmos, to_postgres] = await _numbers(engine)
    async with serving_page(settings, engine, admin_token=ADMIN, **parts) as site:
        _, page, _ = await site.get()
        assert "Postgres is the primary now, so its own state counts" in page
        _, answer, _ = await site.post(form_of(page, "replay", to_cosmos, to_postgres))
    assert "Replayed 1 dead letter; 1 stay." in answer
    assert f"{to_postgres}: <span" in answer
    assert "this process may not mirror" in answer
    assert await _numbers(engine) == [to_postgres]
    async with await connect(settings) as session:
        found = await session.execute("SELECT id FROM crossfeed.parked")
        assert await found.fetchall() == [("bad/id",)]
    async with serving_page(
        settings, engine, replays=frozenset((Direction.TO_POSTGRES,)), admin_token=ADMIN, **parts
    ) as site:
        _, answer, _ = await site.post(form_of(page, "replay", to_postgres))
    assert "Postgres is the primary now, so its own state counts" in answer


async def test_a_mirrors_page_reads_the_document_again_and_mirrors_it(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await cosmos.container(ACCOUNTS).upsert_item({"id": "a", "Email": "a@example.com"})
    await run(
        engine,
        "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)"
        " VALUES ('to_postgres', 'refused', 'Account', '[\"a\"]', 'a', 'too long'),"
        " ('to_postgres', 'refused', 'Account', '[\"gone\"]', 'gone', 'too long')",
    )
    parts: Any = {"store": cosmos, "mappings": mappings, "replays": frozenset((Direction.TO_POSTGRES,))}
    async with serving_page(settings, engine, admin_token=ADMIN, **parts) as site:
        _, page, _ = await site.get()
        _, answer, _ = await site.post(form_of(page, "replay", *await _numbers(engine)))
    assert "Replayed 1 dead letter; 1 stay." in answer
    assert "its document is not in Cosmos DB any more; discard it" in answer
    async with await connect(settings) as session:
        found = await session.execute("SELECT id, email FROM accounts")
        assert await found.fetchall() == [("a", "a@example.com")]
    assert len(await letters(engine)) == 1


@pytest.mark.parametrize("process", [Process.RELAY, Process.MIRROR, Process.FUNCTIONS])
async def test_the_rights_of_every_process_are_enough_for_its_page_and_for_its_samples(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, process: Process
) -> None:
    await furnish(engine)
    role = f"page_{uuid.uuid4().hex}"
    await run(engine, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    async with engine.begin() as connection:
        await grant(connection, role, [process], mappings)
    dsn = psycopg.conninfo.make_conninfo(settings.require_postgres(), user=role, password="secret")
    limited = settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})
    try:
        async with open_engine(limited) as narrow:
            await write_sample(narrow, "a", Direction.TO_COSMOS, Sample(0.1, 1))
            async with serving_page(limited, narrow, admin_token=ADMIN) as site:
                status, page, _ = await site.get()
                assert (status, "3 dead letters wait" in page) == (200, True)
                assert "Discarded 1 dead letter." in (await site.post(form_of(page, "discard", 1)))[1]
    finally:
        await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def _numbers(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT number FROM crossfeed.dead_letter ORDER BY number")
        return [number for (number,) in found]


async def _has_letters(engine: AsyncEngine) -> bool:
    return bool(await letters(engine))
