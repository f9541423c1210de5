"""G2 after a restore: `crossfeed outbox resync` makes what is left the truth, and keeps what was lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from core.domain.account import Account
from core.errors import ConflictError, HistoryLostError, MappingError
from core.identity import Identity
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from outbox.lineage import Lineage, LineageMovedError
from outbox.relay import open_relay
from outbox.resync import Resync, Resynced
from tests.integration.lineage_steps import check, send
from tests.integration.relay_steps import Feed, differences, letters, make_primary, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings
    from tests.stores import PostgresServer

KEPT, CHANGED, DELETED, CREATED, BURIED = "kept", "changed", "deleted", "created", "buried"
ALL = (KEPT, CHANGED, DELETED, CREATED, BURIED)
EVENT = """
    INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, event_id, event)
    VALUES (crossfeed.event_slot_of('Account', '["kept"]', 'kept'), 'Account', '["kept"]', 'kept', 1, 1, false, '{id}',
        '{{}}')
"""


@dataclass
class Restored:
    """A database as it was before its last commits, all of which had been sent."""

    engine: AsyncEngine
    settings: Settings
    lost: AsyncEngine
    lineage: Lineage
    feed: Feed

    def resync(self, store: CosmosStore, mappings: Mappings) -> Resync:
        return Resync(self.engine, store, mappings, self.settings.model_copy(update={"relay_lease_s": 0.2}))


@pytest.fixture
async def restored(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, postgres_server: PostgresServer
) -> AsyncIterator[Restored]:
    name = f"{settings.cosmos_database}_restored"
    lineage = Lineage(cosmos, settings)
    relay = open_relay(settings, mappings, engine, cosmos)
    await make_primary(engine)
    for id_ in (KEPT, CHANGED, DELETED, BURIED):
        await run(engine, f"INSERT INTO accounts (id, display_name) VALUES ('{id_}', 'old')")
    await run(engine, f"DELETE FROM accounts WHERE id = '{BURIED}'")
    await relay.drain()
    await check(engine, lineage)
    await send(engine, lineage)
    await engine.dispose()
    dsn = await postgres_server.create_database(name, template=settings.cosmos_database)
    await run(
        engine,
        f"UPDATE accounts SET display_name = 'lost' WHERE id = '{CHANGED}'",
        f"DELETE FROM accounts WHERE id = '{DELETED}'",
        f"INSERT INTO accounts (id, display_name) VALUES ('{CREATED}', 'lost')",
    )
    await relay.drain()
    await send(engine, lineage)
    feed = Feed(cosmos, mappings.of(Account))
    await feed.read()
    settings = settings.model_copy(update={"postgres_dsn": type(settings).load(postgres_dsn=dsn).postgres_dsn})
    async with open_engine(settings) as second:
        yield Restored(second, settings, engine, lineage, feed)
    await postgres_server.drop_database(name)


async def test_what_is_left_is_published_again_and_what_was_lost_is_kept(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    with pytest.raises(HistoryLostError):
        await check(restored.engine, Lineage(cosmos, restored.settings))
    # Written by the application before anybody noticed: it gets the very stamp that the lost write had.
    await run(restored.engine, f"UPDATE accounts SET display_name = 'new' WHERE id = '{CHANGED}'")

    done = await restored.resync(cosmos, mappings).run(who="test", why="restored")

    assert done.findings is not None
    assert (done.findings.documents, done.findings.ahead, done.findings.orphans) == (5, 2, 1)
    assert [letter[:3] for letter in await letters(restored.engine)] == [
        ("to_postgres", "lost", id_) for id_ in (CHANGED, CREATED, DELETED)
    ]
    relay = open_relay(restored.settings, mappings, restored.engine, cosmos)
    await check(restored.engine, Lineage(cosmos, restored.settings))
    await relay.drain()
    assert await _differences(restored, cosmos, mappings) == []
    assert relay.stats.published == len(ALL)
    await restored.feed.read()
    restored.feed.check_order()


@pytest.mark.parametrize("is_marked", [True, False], ids=["by the charter", "by the documents"])
async def test_the_new_epoch_is_above_every_one_that_was_seen(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings, is_marked: bool
) -> None:
    if not is_marked:
        await _forget_markers(restored, cosmos)
    await run(restored.engine, "UPDATE crossfeed.phase SET epoch = 1")
    assert (await restored.resync(cosmos, mappings).run(who="test", why="restored")).epoch == 3


async def test_a_relay_stops_at_the_markers_of_the_one_before(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    relay = open_relay(restored.settings, mappings, restored.engine, cosmos)
    with pytest.raises(HistoryLostError, match="were sent and are not in it any more"):
        await asyncio.wait_for(relay.run(asyncio.Event()), 30)


async def test_a_relay_stops_at_a_document_that_is_ahead_of_its_row_where_nothing_was_marked(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await _forget_markers(restored, cosmos)
    await run(restored.engine, "UPDATE crossfeed.slot SET seen = '1:1:'")  # everything is sent once more
    relay = open_relay(restored.settings, mappings, restored.engine, cosmos)
    with pytest.raises(HistoryLostError, match=r"Cosmos DB holds 2\.2, Postgres holds 2\.1; .*crossfeed outbox resync"):
        await asyncio.wait_for(relay.run(asyncio.Event()), 30)


async def test_the_database_that_was_given_up_is_stopped(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await restored.resync(cosmos, mappings).run(who="test", why="restored")
    await run(restored.lost, "UPDATE accounts SET display_name = 'too late'")
    with pytest.raises(LineageMovedError):
        await send(restored.lost, restored.lineage)
    with pytest.raises(HistoryLostError, match="another database was made the valid one by a re-sync since"):
        await check(restored.lost, restored.lineage)


@pytest.mark.parametrize("growth", [1.8, pytest.param(1.04, marks=pytest.mark.chaos)])
async def test_a_resync_that_is_killed_again_and_again_comes_to_the_same_end(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings, growth: float
) -> None:
    await run(
        restored.engine,
        "INSERT INTO accounts (id, display_name) SELECT 'more' || g, repeat('x', 4000) FROM generate_series(1, 300) g",
    )
    kills, done = 0, None
    for lifetime_s in (0.1 * growth**n for n in range(100)):
        try:
            async with asyncio.timeout(lifetime_s):
                done = await restored.resync(cosmos, mappings).run(who="test", why="restored")
            break
        except TimeoutError:
            kills += 1
    assert kills > 1
    assert done is not None
    async with restored.engine.connect() as connection:
        lineage = (await connection.exec_driver_sql("SELECT opening, republish FROM crossfeed.lineage")).one()
        left = (
            await connection.exec_driver_sql(f"SELECT count(*) FROM accounts WHERE crossfeed_epoch < {done.epoch}")
        ).scalar_one()
    assert (tuple(lineage), left) == ((None, None), 0)
    await check(restored.engine, Lineage(cosmos, restored.settings))
    await open_relay(restored.settings, mappings, restored.engine, cosmos).drain()
    assert await _differences(restored, cosmos, mappings) == []


async def test_a_relay_does_not_run_between_the_beginning_and_the_opening_of_a_resync(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.15):  # less than the lease that it waits for
            await restored.resync(cosmos, mappings).run(who="test", why="restored")
    with pytest.raises(HistoryLostError, match="was begun and is not finished; run again: crossfeed outbox resync"):
        await check(restored.engine, Lineage(cosmos, restored.settings))


async def test_events_that_were_not_sent_stay_in_the_log_in_their_order(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await run(restored.engine, EVENT.format(id="sent"))
    await run(restored.engine, "UPDATE crossfeed.slot SET seen = pg_current_snapshot() WHERE carries = 'events'")
    await run(restored.engine, *(EVENT.format(id=id_) for id_ in ("first", "second")))
    await run(restored.engine, "UPDATE crossfeed.outbox SET xid = '9000000000' WHERE event_id = 'second'")
    await restored.resync(cosmos, mappings).run(who="test", why="restored")
    async with restored.engine.connect() as connection:
        rows = await connection.exec_driver_sql("""
            SELECT o.event_id, o.xid < '9000000000' FROM crossfeed.outbox o JOIN crossfeed.slot s USING (slot)
            WHERE o.event_id IS NOT NULL AND NOT pg_visible_in_snapshot(o.xid, s.seen) ORDER BY o.seq
        """)
        assert [tuple(row) for row in rows] == [("first", True), ("second", True)]


async def test_events_written_in_another_cluster_are_sent_whatever_the_cursors_of_the_former_one_say(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    """A dump was restored where transaction ids are lower: the old cursors take the new ones for delivered ones."""
    await run(restored.engine, "UPDATE crossfeed.slot SET system_identifier = 42, seen = '900000000:900000000:'")
    await run(restored.engine, EVENT.format(id="new"))
    await restored.resync(cosmos, mappings).run(who="test", why="restored")
    async with restored.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT event_id FROM crossfeed.outbox WHERE event_id IS NOT NULL")
        assert list(found.scalars()) == ["new"]


async def test_of_two_resyncs_at_once_one_goes_through_and_the_other_joins_or_gives_way(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    done = await asyncio.gather(
        *(restored.resync(cosmos, mappings).run(who="test", why="restored") for _ in range(2)), return_exceptions=True
    )
    assert all(isinstance(one, Resynced | ConflictError) for one in done)
    [epoch] = {one.epoch for one in done if isinstance(one, Resynced)}
    async with restored.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT epoch, opening FROM crossfeed.phase, crossfeed.lineage")
        assert tuple(found.one()) == (epoch, None) == (3, None)
    await check(restored.engine, Lineage(cosmos, restored.settings))
    await open_relay(restored.settings, mappings, restored.engine, cosmos).drain()
    assert await _differences(restored, cosmos, mappings) == []


async def test_what_a_resync_writes_is_not_behind_its_own_cursors_however_busy_the_cluster_is(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings, postgres_server: PostgresServer
) -> None:
    """Transaction ids are the cluster's: those of other databases end while the opening transaction is under way."""
    await run(restored.engine, *(EVENT.format(id=id_) for id_ in ("first", "second")))
    stop = asyncio.Event()

    async def others() -> None:
        while not stop.is_set():
            await run(restored.lost, "SELECT pg_current_xact_id()")

    busy = asyncio.ensure_future(others())
    try:
        await restored.resync(cosmos, mappings).run(who="test", why="restored")
    finally:
        stop.set()
        await busy
    async with restored.engine.connect() as connection:
        found = await connection.exec_driver_sql("""
            SELECT count(*) FILTER (WHERE NOT pg_visible_in_snapshot(o.xid, s.seen))
            FROM crossfeed.outbox o JOIN crossfeed.slot s USING (slot) WHERE o.event_id IS NOT NULL
        """)
        assert found.scalar_one() == 2


async def test_a_dry_run_finds_the_same_and_changes_nothing(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    plan = await restored.resync(cosmos, mappings).plan()
    assert plan.findings is not None
    assert (plan.epoch, plan.findings.ahead, plan.findings.orphans, plan.findings.newest_epoch) == (None, 2, 1, 2)
    assert await letters(restored.engine) == []
    await check(restored.lost, restored.lineage)


async def test_while_cosmos_db_is_the_primary_a_resync_opens_an_epoch_and_publishes_nothing(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await open_phase(restored.engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    done = await restored.resync(cosmos, mappings).run(who="test", why="restored")
    assert (done.epoch, done.published, await letters(restored.engine)) == (4, 0, [])
    await check(restored.engine, Lineage(cosmos, restored.settings))


async def test_a_resync_is_refused_where_a_captured_table_has_no_mapping(
    restored: Restored, cosmos: CosmosStore, mappings: Mappings
) -> None:
    with pytest.raises(MappingError, match="UserProfile: captured, but CROSSFEED_MAPPINGS has no mapping"):
        await restored.resync(cosmos, Mappings([mappings.of(Account)])).run(who="test", why="test")


async def test_a_resync_waits_for_a_switch_to_end(restored: Restored, cosmos: CosmosStore, mappings: Mappings) -> None:
    await run(restored.engine, "UPDATE crossfeed.phase SET state = 'draining', switch_id = gen_random_uuid()")
    with pytest.raises(ConflictError, match="a switch is under way"):
        await restored.resync(cosmos, mappings).run(who="test", why="test")


async def _forget_markers(restored: Restored, cosmos: CosmosStore) -> None:
    control = cosmos.container_named(restored.settings.control_container)
    async for item in control.query_items("SELECT * FROM c"):
        await control.delete_item(item, partition_key=item["instance"])


async def _differences(restored: Restored, cosmos: CosmosStore, mappings: Mappings) -> list[str]:
    identities = [Identity.of("Account", [id_], id_) for id_ in ALL]
    return await differences(restored.engine, cosmos, mappings.of(Account), identities)
