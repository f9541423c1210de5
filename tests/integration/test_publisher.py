"""The publisher sends what Postgres holds now, wherever no message in the log asks for it, and nothing out of date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.errors import PrimaryMovedError, StoreUnavailableError, TransientError
from core.identity import Identity
from core.local.cosmos.faults import WRITES, Match, Refuse, Rule
from core.migration.sending import ABSENT, send
from core.phases import Phase
from outbox.publisher import Publisher
from tests.integration.relay_steps import Feed, connect, differences, letters, make_primary, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Outcome, Publish
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def publisher(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings) -> Publisher:
    return Publisher(engine, cosmos, mappings, settings)


def account(id_: str) -> Identity:
    return ACCOUNTS.identity_of(id_, id_)


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_POSTGRES_READ, Phase.POSTGRES_ONLY])
async def test_rows_arrive_as_documents_and_deletes_as_tombstones_while_postgres_is_the_primary(
    phase: Phase, publisher: Publisher, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine, phase)
    await run(
        engine,
        "INSERT INTO accounts (id, email) VALUES ('a', 'a@x'), ('b', 'b@x')",
        "DELETE FROM accounts WHERE id = 'b'",
    )
    known = [account("a"), account("b")]
    assert await publisher.publish([*known, account("c"), *known]) == {**dict.fromkeys(known), account("c"): ABSENT}
    assert await differences(engine, cosmos, ACCOUNTS, known) == []
    await run(engine, "UPDATE accounts SET email = 'new' WHERE id = 'a'")
    assert await publisher.publish(known) == dict.fromkeys(known)
    assert await differences(engine, cosmos, ACCOUNTS, known) == []


async def test_nothing_is_published_while_cosmos_is_the_primary(publisher: Publisher, engine: AsyncEngine) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    with pytest.raises(PrimaryMovedError, match="not the primary in phase dual_write_cosmos_read"):
        await publisher.publish([account("a")])


async def test_a_row_behind_its_own_tombstone_is_lifted_and_sent_once_no_writer_holds_it(
    publisher: Publisher, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    await run(
        engine,
        "INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version)"
        """ SELECT 'Account', '["a"]', 'a', crossfeed_epoch, crossfeed_version + 3 FROM accounts""",
    )
    impatient = Publisher(engine, cosmos, mappings, settings, patience_s=0.05)
    async with await connect(settings) as writer:
        await writer.execute("BEGIN")
        await writer.execute("SELECT FROM accounts WHERE id = 'a' FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="a writer has locked the row of Account"):
            await impatient.publish([account("a")])
        await writer.execute("COMMIT")
    assert await publisher.publish([account("a")]) == {account("a"): None}
    assert await differences(engine, cosmos, ACCOUNTS, [account("a")]) == []


async def test_what_is_refused_is_named_and_becomes_a_dead_letter_and_holds_up_nothing(
    publisher: Publisher, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a'), ('b/c')")
    bad = Identity("Account", '["b/c"]', "b/c")
    refused = await send(engine, publisher, [account("a"), bad, account("gone")])
    assert list(refused) == [bad]
    assert [letter[:4] for letter in await letters(engine)] == [("to_cosmos", "refused", "b/c", 1)]
    assert await differences(engine, cosmos, ACCOUNTS, [account("a")]) == []


async def test_a_process_that_slept_after_loading_sends_the_state_of_now(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id, email) VALUES ('a', 'old')")
    now = 0.0
    publisher = Publisher(engine, cosmos, mappings, settings, clock=lambda: now)
    write = publisher._sink.write

    async def asleep(items: Sequence[Publish], **how: Any) -> list[Outcome]:
        nonlocal now
        if now == 0.0:
            now = settings.relay_lease_s * 2
            await run(engine, "UPDATE accounts SET email = 'new'")
        return await write(items, **how)

    publisher._sink.write = asleep  # type: ignore[method-assign]
    feed = Feed(cosmos, ACCOUNTS)
    assert await publisher.publish([account("a")]) == {account("a"): None}
    await feed.read()
    assert [stamp.version for stamp in feed.stamps[account("a")]] == [2]


async def test_a_store_that_fails_for_a_while_is_waited_for_and_one_that_stays_away_is_told_of(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, own_cosmos_server: CosmosServer
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 30) n")
    known = [account(f"a{number}") for number in range(1, 31)]
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        flaky = Rule(do=Refuse(status=503), on=Match(operations=WRITES), probability=0.3, times=20)
        own_cosmos_server.faults.add(flaky)
        assert await Publisher(engine, store, mappings, here).publish(known) == dict.fromkeys(known)
        assert await differences(engine, store, ACCOUNTS, known) == []
        await run(engine, "UPDATE accounts SET email = 'y' WHERE id IN ('a7', 'a8')")
        ill = Match(operations=WRITES, partition_key=("a7",))
        own_cosmos_server.faults.add(Rule(do=Refuse(status=503), on=ill, times=5))
        impatient = Publisher(engine, store, mappings, here, patience_s=0.3)  # gives one up for now that is so ill
        assert await impatient.publish([account("a7"), account("a8")]) == dict.fromkeys([account("a7"), account("a8")])
        own_cosmos_server.faults.add(Rule(do=Refuse(status=503)))
        await run(engine, "UPDATE accounts SET email = 'x'")
        with pytest.raises(TransientError):
            await Publisher(engine, store, mappings, here, patience_s=0.1).publish(known)
