"""A backfill of Cosmos DB: every row and tombstone arrives, beside live writes, however often it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from core.domain.mappings import ACCOUNTS
from core.errors import ConflictError
from core.migration.backfill_state import Counts, Target, Turn, TurnLostError
from core.phases import Phase
from tests.integration.backfill_steps import Pieces, backfill, filled
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import Feed, connect, differences, letters, make_primary, relaying, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings

MANY = "INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, {}) AS n"
FORGET = "UPDATE crossfeed.slot SET seen = pg_current_snapshot(), target = NULL, position = 0"
"""Let the relay take for sent what is there: the log of before is gone, as after capture was installed."""


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


def accounts(number: int) -> list[Identity]:
    return [ACCOUNTS.identity_of(f"a{n}", f"a{n}") for n in range(1, number + 1)]


async def test_every_row_and_every_tombstone_arrives_and_a_second_run_writes_nothing(
    steps: Steps, settings: Settings
) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, MANY.format(35), "DELETE FROM accounts WHERE id IN ('a1', 'a2')", FORGET)
    assert await filled(steps, settings, Target.COSMOS) == Counts(read=35, sent=35)
    assert await differences(steps.engine, steps.store, ACCOUNTS, accounts(35)) == []
    written = await steps.watch()
    assert len(written) == 35
    assert await filled(steps, settings, Target.COSMOS) == Counts(read=35, sent=35)
    assert await steps.watch() == []


async def test_one_that_was_stopped_goes_on_where_it_was_with_the_other_entity_types_to_come(
    steps: Steps, settings: Settings
) -> None:
    await make_primary(steps.engine, Phase.POSTGRES_ONLY)
    await run(steps.engine, MANY.format(45), "INSERT INTO pending_signups (id, email) VALUES ('s', 'e')")
    some = Pieces(2)
    stopped = await backfill(steps, settings, Target.COSMOS).run(some.report, some.stop)
    assert not stopped.finished
    assert stopped.counts.read == 20
    assert some.seen[-1].total >= 45
    done = await backfill(steps, settings, Target.COSMOS).run()
    assert done.finished
    assert done.counts == Counts(read=46, sent=46)
    assert await differences(steps.engine, steps.store, ACCOUNTS, accounts(45)) == []
    begun = await backfill(steps, settings, Target.COSMOS).run(some.report, some.stop)
    assert begun.counts.read == 0
    anew = await backfill(steps, settings, Target.COSMOS).run(restart=True, entities=["PendingSignup"])
    assert (anew.sources, anew.counts.read) == (("PendingSignup",), 1)


@pytest.mark.chaos  # test_publisher_races.py has a short form: what happens between loading and sending
async def test_live_writers_beside_relay_and_backfill_win_every_race(steps: Steps, settings: Settings) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, MANY.format(30), FORGET)
    feed = Feed(steps.store, ACCOUNTS)
    done = asyncio.Event()

    async def write(seed: int) -> None:
        rng = random.Random(seed)
        async with await connect(settings) as session:
            while not done.is_set():
                id_ = f"a{rng.randint(1, 35)}"
                statement: Any = rng.choice(
                    (
                        f"INSERT INTO accounts (id) VALUES ('{id_}') ON CONFLICT DO NOTHING",
                        f"UPDATE accounts SET email = email || 'x' WHERE id = '{id_}'",
                        f"DELETE FROM accounts WHERE id = '{id_}'",
                    )
                )
                with contextlib.suppress(psycopg.errors.UniqueViolation):
                    await session.execute(statement)
                await asyncio.sleep(0.005)

    async with relaying(settings, steps.mappings, steps.engine, steps.store), asyncio.TaskGroup() as group:
        writers = [group.create_task(write(seed)) for seed in range(2)]
        for _ in range(2):
            await filled(steps, settings, Target.COSMOS)
            await feed.read()
        done.set()
        await asyncio.gather(*writers)
        await filled(steps, settings, Target.COSMOS)
        async with asyncio.timeout(20):
            while await differences(steps.engine, steps.store, ACCOUNTS, accounts(30)):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.05)
    await feed.read()
    feed.check_order()
    assert await letters(steps.engine) == []


async def test_what_cosmos_refuses_becomes_a_dead_letter_and_the_rest_arrives(steps: Steps, settings: Settings) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, MANY.format(5), "INSERT INTO accounts (id) VALUES ('x/y')", FORGET)
    assert await filled(steps, settings, Target.COSMOS) == Counts(read=6, sent=5, refused=1)
    assert [letter[:3] for letter in await letters(steps.engine)] == [("to_cosmos", "refused", "x/y")]


async def test_it_is_refused_while_cosmos_is_the_primary_and_waits_while_a_switch_drains(
    steps: Steps, settings: Settings
) -> None:
    with pytest.raises(ConflictError, match="in phase cosmos_only Cosmos DB is the primary"):
        await filled(steps, settings, Target.COSMOS)
    await make_primary(steps.engine)
    await run(steps.engine, MANY.format(15))
    await run(steps.engine, "UPDATE crossfeed.phase SET state = 'draining', switch_id = gen_random_uuid()")
    some = Pieces(2)
    assert (await backfill(steps, settings, Target.COSMOS).run(some.report, some.stop)).counts.read == 0
    await run(steps.engine, "UPDATE crossfeed.phase SET state = 'steady', switch_id = NULL")
    assert await filled(steps, settings, Target.COSMOS) == Counts(read=15, sent=15)


async def test_it_lets_the_relay_pass_that_lags(steps: Steps, settings: Settings) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, MANY.format(15), "UPDATE crossfeed.outbox SET at = at - interval '1 minute'")
    some = Pieces(1)
    assert (await backfill(steps, settings, Target.COSMOS).run(some.report, some.stop)).counts.read == 0
    await run(steps.engine, FORGET)
    assert (await filled(steps, settings, Target.COSMOS)).read == 15


async def test_of_two_at_once_one_is_refused_and_one_that_slept_writes_nothing_down(
    steps: Steps, settings: Settings
) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, MANY.format(5))
    sleeper = Turn(steps.engine, Target.COSMOS, 5.0)
    await sleeper.take()
    with pytest.raises(ConflictError, match="this backfill is under way"):
        await filled(steps, settings, Target.COSMOS)
    await run(steps.engine, "UPDATE crossfeed.backfill SET expires_at = clock_timestamp() - interval '1 second'")
    some = Pieces(1)
    await backfill(steps, settings, Target.COSMOS).run(some.report, some.stop)
    part = await sleeper.next_part()
    assert part is not None
    async with steps.engine.connect() as connection:
        with pytest.raises(TurnLostError):
            await sleeper.move(connection, part, {"id": "z"}, Counts(), done=True)
    with pytest.raises(TurnLostError):
        await sleeper.end()
    assert (await filled(steps, settings, Target.COSMOS)).read >= 5
