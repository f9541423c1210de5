"""G3: the states of one document arrive in commit order, and a document that is refused holds back only itself."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from core.phases import Phase
from outbox.relay import open_relay
from tests.integration.relay_steps import Feed, connect, differences, letters, make_primary, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

KEYS = [f"k{number}" for number in range(4)]
PUT = "INSERT INTO accounts (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET email = accounts.email || 'x'"


@pytest.mark.parametrize("relays", [1, 2])
async def test_versions_never_decrease_under_concurrent_writers_not_even_with_a_second_relay_by_mistake(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, relays: int
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    feed = Feed(cosmos, accounts)
    small = settings.model_copy(update={"relay_page_size": 7})
    stop = asyncio.Event()
    started = [open_relay(small, mappings, engine, cosmos) for _ in range(relays)]
    running = [asyncio.ensure_future(relay.run(stop)) for relay in started]

    async def write(seed: int) -> None:
        rng = random.Random(seed)
        async with await connect(settings) as session:
            for _ in range(60):
                key = rng.choice(KEYS)
                async with session.transaction():
                    await session.execute(PUT if rng.random() < 0.8 else "DELETE FROM accounts WHERE id = %s", [key])

    async def watch() -> None:
        while not stop.is_set():
            await feed.read()

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(*map(write, range(5)))
    identities = [accounts.identity_of(key, key) for key in KEYS]

    async def arrived() -> bool:
        return await differences(engine, cosmos, accounts, identities) == []

    await until(arrived)
    stop.set()
    await asyncio.gather(*running, watching)
    await feed.read()
    assert sorted(feed.stamps) == identities
    feed.check_order()
    assert await letters(engine) == []
    if relays == 1:
        assert started[0].stats.retries == 0  # one read ahead may be superseded by the page before it


BAD = {
    "number": """INSERT INTO accounts (id, settings) VALUES ('number', '{"x": 0.12345678901234567890123}')""",
    "integer": """INSERT INTO accounts (id, subscription) VALUES ('integer', '{"x": 9007199254740993}')""",
    "model": """INSERT INTO accounts (id, subscription) VALUES ('model', '"no object"')""",
    "moment": "INSERT INTO accounts (id, created_at) VALUES ('moment', 'infinity')",
    "size": "INSERT INTO accounts (id, display_name) VALUES ('size', repeat('x', 2200000))",
    "sla/sh": "INSERT INTO accounts (id) VALUES ('sla/sh')",
    "crossfeed-own": "INSERT INTO accounts (id) VALUES ('crossfeed-own')",
}


async def test_a_document_that_is_refused_is_a_dead_letter_and_holds_back_only_itself(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    relay = open_relay(settings.model_copy(update={"relay_attempts": 1}), mappings, engine, cosmos)
    async with engine.begin() as connection:
        for number, statement in enumerate(BAD.values()):
            await connection.exec_driver_sql(statement)
            await connection.exec_driver_sql(f"INSERT INTO accounts (id) VALUES ('good{number}')")
    await relay.drain()
    good = [accounts.identity_of(f"good{number}", f"good{number}") for number in range(len(BAD))]
    assert await differences(engine, cosmos, accounts, good) == []
    found = await letters(engine)
    assert sorted(letter[2] for letter in found) == sorted(BAD)
    assert {letter[:2] for letter in found} == {("to_cosmos", "refused")}
    assert not any("12345" in letter[4] or "no object" in letter[4] for letter in found)  # reasons quote no values
    assert relay.stats.dead_lettered == len(BAD)
    reasons = {letter[2]: letter[4] for letter in found}
    assert "a number that a JSON double cannot hold exactly" in reasons["number"]
    assert "does not fit Account: Subscription" in reasons["model"]

    await run(engine, "UPDATE accounts SET email = 'y' WHERE id = 'model'")
    await relay.drain()
    assert {letter[2]: letter[3] for letter in await letters(engine)}["model"] == 2

    await run(
        engine,
        "UPDATE accounts SET settings = '{}', subscription = '{}', created_at = now(), display_name = ''"
        " WHERE id IN ('number', 'integer', 'model', 'moment', 'size')",
        "DELETE FROM accounts WHERE id IN ('sla/sh', 'crossfeed-own')",
    )
    await relay.drain()
    cured = [accounts.identity_of(id_, id_) for id_ in ("number", "integer", "model", "moment", "size")]
    assert await differences(engine, cosmos, accounts, cured) == []
    # Ids that Cosmos DB cannot hold have no document there whose delete could be sent.
    assert sorted(letter[2] for letter in await letters(engine)) == ["crossfeed-own", "sla/sh"]


async def test_an_older_message_never_takes_a_document_back_across_epochs(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    accounts = mappings.named("Account")
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')", "UPDATE accounts SET email = 'x'")
    await make_primary(engine, Phase.POSTGRES_ONLY)
    await make_primary(engine)  # epoch 4; the messages above are of epoch 2
    relay = open_relay(settings, mappings, engine, cosmos)
    await relay.drain()
    assert await differences(engine, cosmos, accounts, [accounts.identity_of("a", "a")]) == []
    await run(engine, "UPDATE accounts SET email = 'y'")
    await relay.drain()
    assert await differences(engine, cosmos, accounts, [accounts.identity_of("a", "a")]) == []
    assert relay.stats.published == 2
