"""A backfill of Postgres: every document is taken, beside live writes, however often it is interrupted."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.errors import ConfigurationError, ConflictError
from core.migration.backfill_state import Counts, Target, Turn
from core.migration.backfill_to_postgres import SKEW_S
from core.phases import Phase
from core.postgres.phases import read_phase
from tests.integration.backfill_steps import Pieces, backfill, filled, rows
from tests.integration.mirror_steps import Steps, same
from tests.integration.reconcile_steps import legacy
from tests.integration.relay_steps import letters, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


async def test_every_document_is_taken_and_deletes_are_and_a_second_run_changes_nothing(
    steps: Steps, settings: Settings
) -> None:
    for number in range(12):
        await steps.foreign(legacy(f"f{number}"))
    await steps.add(Account(id="ours"))
    await steps.add(Account(id="gone"))
    await steps.delete("gone")
    await steps.foreign({"id": "bad", "Email": "no\0text"})
    assert await filled(steps, settings, Target.POSTGRES) == Counts(read=15, sent=14, refused=1)
    assert [letter[:3] for letter in await letters(steps.engine)] == [("to_postgres", "refused", "bad")]
    for id_ in ("f0", "f11", "ours"):
        assert same(await steps.content(id_), await steps.current(id_))
    tombstone = (await steps.held("gone")).tombstone
    assert tombstone is not None
    before = await steps.held("f0")
    assert (await filled(steps, settings, Target.POSTGRES)).read == 15
    assert await steps.held("f0") == before


async def test_one_that_was_stopped_goes_on_in_the_feed_where_it_was(steps: Steps, settings: Settings) -> None:
    for number in range(25):
        await steps.store.container(ACCOUNTS).upsert_item(legacy(f"f{number}"))
    some = Pieces(2)
    one = backfill(steps, settings, Target.POSTGRES)
    stopped = await one.run(some.report, some.stop, entities=["Account"])
    assert (stopped.finished, stopped.counts.read) == (False, 20)
    assert some.seen[-1].total == 25
    assert await steps.count("accounts") == 20
    done = await backfill(steps, settings, Target.POSTGRES).run(entities=["Account"])
    assert done.counts == Counts(read=25, sent=25)
    assert done.facts() == {
        "to": "postgres", "finished": True, "sources": ["Accounts"], "read": 25, "sent": 25, "refused": 0, "parked": 0
    }  # fmt: skip


async def test_one_that_was_stopped_before_the_primary_moved_there_and_back_begins_anew(
    steps: Steps, settings: Settings
) -> None:
    for number in range(25):
        await steps.store.container(ACCOUNTS).upsert_item(legacy(f"f{number}"))
    await make_primary(steps.engine, Phase.DUAL_WRITE_COSMOS_READ)
    some = Pieces(2)
    await backfill(steps, settings, Target.POSTGRES).run(some.report, some.stop, entities=["Account"])
    for phase in (Phase.DUAL_WRITE_POSTGRES_READ, Phase.DUAL_WRITE_COSMOS_READ):
        await make_primary(steps.engine, phase)
    turn = Turn(steps.engine, Target.POSTGRES, 5.0)
    assert await turn.load() is None


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_range_that_was_split_before_its_end_is_read_to_its_end(
    pieces: int, engine: AsyncEngine, mappings: Mappings, settings: Settings, own_cosmos_server: CosmosServer
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    ids = [f"f{number}" for number in range(30)]
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        steps = Steps(engine, store, mappings, ACCOUNTS)
        for id_ in ids:
            await store.container(ACCOUNTS).upsert_item(legacy(id_))
        some = Pieces(pieces)
        await backfill(steps, here, Target.POSTGRES).run(some.report, some.stop, entities=["Account"])
        container = own_cosmos_server.account.container(here.cosmos_database, "Accounts")
        container.split(container.partitions[0].id)
        assert await filled(steps, here, Target.POSTGRES) == Counts(read=30, sent=30)
        assert await rows(steps, *ids) == 30


async def test_a_container_that_was_created_anew_is_named_and_a_restart_reads_it(
    steps: Steps, settings: Settings
) -> None:
    for number in range(12):
        await steps.store.container(ACCOUNTS).upsert_item(legacy(f"f{number}"))
    some = Pieces(1)
    await backfill(steps, settings, Target.POSTGRES).run(some.report, some.stop, entities=["Account"])
    await run(steps.engine, """UPDATE crossfeed.backfill_part SET place = '{"continuation": "nonsense"}'""")
    with pytest.raises(ConfigurationError, match="backfill --restart"):
        await filled(steps, settings, Target.POSTGRES)
    anew = await backfill(steps, settings, Target.POSTGRES).run(restart=True, entities=["Account"])
    assert anew.counts.read == 12


async def test_live_writers_and_the_mirror_win_every_race(steps: Steps, settings: Settings) -> None:
    rng = random.Random(7)
    ids = [f"a{number}" for number in range(10)]
    for id_ in ids:
        await steps.add(Account(id=id_))
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            id_ = rng.choice(ids)
            if rng.random() < 0.3:
                await steps.delete(id_)
            elif await steps.current(id_) is not None:
                await steps.change(id_, display_name=str(rng.random()))
            if rng.random() < 0.4:  # a mirror that delivers late, and out of order
                await steps.apply(rng.sample(steps.history, k=min(5, len(steps.history))))

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(2):
            await filled(steps, settings, Target.POSTGRES, backfill_page_size=4)
        done.set()
    await filled(steps, settings, Target.POSTGRES, backfill_page_size=4)
    for id_ in ids:
        document = await steps.current(id_)
        live = document if document is not None and not document["crossfeed"].get("deleted") else None
        assert same(await steps.content(id_), live), id_
    assert await letters(steps.engine) == []


async def test_while_postgres_is_the_primary_only_what_is_missing_and_older_than_the_barrier_is_taken(
    steps: Steps, settings: Settings
) -> None:
    await make_primary(steps.engine, Phase.DUAL_WRITE_COSMOS_READ)
    for id_ in ("missed", "deleted", "known"):
        await steps.add(Account(id=id_))
    await make_primary(steps.engine)
    assert await filled(steps, settings, Target.POSTGRES) == Counts()  # no such switch: nothing is read
    await run(
        steps.engine,
        "INSERT INTO accounts (id, email) VALUES ('known', 'newer'), ('deleted', '')",
        "DELETE FROM accounts WHERE id = 'deleted'",
        f"""
        WITH moved AS (
            INSERT INTO crossfeed.switch (id, from_phase, to_phase, from_epoch, opened_epoch, step, by_whom, why,
                ended_at, facts)
            SELECT gen_random_uuid(), 1, 2, epoch - 1, epoch, 'done', 'test', 'test', clock_timestamp(),
                '{{"barrier": {{"Accounts": {2**40}}}, "complete": false}}' FROM crossfeed.phase RETURNING id
        )
        UPDATE crossfeed.phase_history h SET switch_id = moved.id FROM moved, crossfeed.phase p WHERE h.epoch = p.epoch
        """,
    )
    counts = await filled(steps, settings, Target.POSTGRES)
    assert (counts.read, counts.sent) == (3, 1)
    assert await rows(steps, "missed", "known", "deleted") == 2
    known = await steps.content("known")
    assert known is not None
    assert known["Email"] == "newer"


async def test_it_is_refused_in_the_last_phase_and_follows_a_step_in_the_middle(
    steps: Steps, settings: Settings, engine: AsyncEngine
) -> None:
    for number in range(15):
        await steps.add(Account(id=f"a{number}"))
    some = Pieces(1)
    await backfill(steps, settings, Target.POSTGRES).run(some.report, some.stop, entities=["Account"])
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    assert (await filled(steps, settings, Target.POSTGRES)).read == 15
    await make_primary(engine)
    await make_primary(engine, Phase.POSTGRES_ONLY)
    async with engine.connect() as connection:
        assert (await read_phase(connection)).phase is Phase.POSTGRES_ONLY
    with pytest.raises(ConflictError, match="holds nothing that Postgres should have"):
        await filled(steps, settings, Target.POSTGRES)


async def test_it_lets_the_mirror_pass_that_lags(steps: Steps, settings: Settings) -> None:
    await make_primary(steps.engine, Phase.DUAL_WRITE_COSMOS_READ)
    await steps.add(Account(id="a"))
    await run(
        steps.engine,
        "INSERT INTO crossfeed.canary (direction, container, part, unseen_since)"
        " VALUES ('to_postgres', 'Accounts', 'canary', clock_timestamp() - interval '1 minute')",
    )
    some = Pieces(1)
    one = backfill(steps, settings, Target.POSTGRES)
    assert (await one.run(some.report, some.stop, entities=["Account"])).counts.read == 0
    await run(steps.engine, "DELETE FROM crossfeed.canary")
    assert (await filled(steps, settings, Target.POSTGRES)).read == 1


async def test_writers_who_go_on_do_not_keep_it_from_ending(steps: Steps, settings: Settings) -> None:
    for number in range(12):
        await steps.store.container(ACCOUNTS).upsert_item(legacy(f"f{number}"))
    some = Pieces(1)
    await backfill(steps, settings, Target.POSTGRES).run(some.report, some.stop, entities=["Account"])
    await run(steps.engine, f"UPDATE crossfeed.backfill SET begun_at = begun_at - interval '{2 * SKEW_S:.0f} seconds'")
    for number in range(30):
        await steps.store.container(ACCOUNTS).upsert_item(legacy(f"later{number}"))
    assert (await filled(steps, settings, Target.POSTGRES)).read == 20
