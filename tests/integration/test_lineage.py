"""G2 where Postgres forgets: what a relay sees of a log that is not the one it was sent from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.cosmos.markers import Markers
from core.errors import HistoryLostError, StoreUnavailableError
from core.phases import Phase
from outbox.lineage import Lineage, LineageMovedError, Mark
from tests.integration.lineage_steps import SLOTS, check, markers_of, move_on, newest, newest_rows, send
from tests.integration.relay_steps import make_primary, run
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

WRITE = "INSERT INTO accounts (id, display_name) SELECT g, 'x' FROM generate_series(1, 3) AS g"


@pytest.fixture
async def lineage(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore) -> Lineage:
    """Of a relay that has sent and marked three rows of the log."""
    await make_primary(engine)
    await run(engine, WRITE)
    lineage = Lineage(cosmos, settings)
    await check(engine, lineage)
    await send(engine, lineage)
    return lineage


@pytest.fixture
def another(lineage: Lineage, settings: Settings, cosmos: CosmosStore) -> Lineage:
    """Of a relay that takes over afterwards."""
    return Lineage(cosmos, settings)


async def test_a_relay_takes_over_where_every_row_that_was_sent_is_in_the_log(
    engine: AsyncEngine, another: Lineage
) -> None:
    await check(engine, another)
    async with engine.connect() as connection:
        [stored] = await connection.exec_driver_sql(
            "SELECT count(*), count(system_identifier), min(timeline) FROM crossfeed.slot"
        )
    assert tuple(stored) == (32, 32, 1)


@pytest.mark.parametrize(
    "forget",
    [
        "DELETE FROM crossfeed.outbox WHERE seq = (SELECT max(seq) FROM crossfeed.outbox)",
        "UPDATE crossfeed.outbox SET xid = '5'",
        "UPDATE crossfeed.outbox SET at = at + interval '1 microsecond'",
    ],
    ids=["lost", "number given to another transaction", "number and transaction given out again"],
)
async def test_a_sent_row_that_is_not_in_the_log_stops_the_relay(
    engine: AsyncEngine, another: Lineage, forget: str
) -> None:
    await run(engine, forget)
    with pytest.raises(HistoryLostError, match=r"were sent and are not in it any more; .*crossfeed outbox resync"):
        await check(engine, another)


async def test_the_highest_row_that_was_sent_is_remembered_when_a_late_one_is_sent_after_it(
    engine: AsyncEngine, lineage: Lineage, another: Lineage
) -> None:
    first, *_, last = await newest_rows(engine)
    lineage.note(SLOTS, [0] * len(SLOTS), first)
    await lineage.mark()
    assert first.seq < last.seq
    await run(engine, f"DELETE FROM crossfeed.outbox WHERE seq = {last.seq}")
    with pytest.raises(HistoryLostError, match=str(last.seq)):
        await check(engine, another)


async def test_a_sent_row_may_be_gone_with_its_partition(engine: AsyncEngine, another: Lineage) -> None:
    await run(
        engine,
        "DELETE FROM crossfeed.outbox",
        "UPDATE crossfeed.outbox_partition SET dropped_at = now() WHERE from_seq = 1",
    )
    await check(engine, another)


async def test_a_database_from_before_a_switch_is_noticed(engine: AsyncEngine, another: Lineage) -> None:
    await run(engine, "UPDATE crossfeed.phase SET epoch = epoch - 1")
    with pytest.raises(HistoryLostError, match="epoch 2 was opened once, this database knows 1"):
        await check(engine, another)


async def test_a_step_of_the_primary_is_known_before_any_relay_has_seen_it(
    engine: AsyncEngine, another: Lineage, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    await run(engine, "UPDATE crossfeed.phase SET epoch = epoch - 1")
    with pytest.raises(HistoryLostError, match="epoch 3 was opened once, this database knows 2"):
        await check(engine, another)


async def test_a_database_from_before_a_resync_is_noticed(engine: AsyncEngine, another: Lineage) -> None:
    await run(engine, "UPDATE crossfeed.lineage SET history = gen_random_uuid()")
    with pytest.raises(HistoryLostError, match="another database was made the valid one"):
        await check(engine, another)


async def test_another_cluster_is_noticed_although_it_holds_every_row(engine: AsyncEngine, another: Lineage) -> None:
    await run(engine, "UPDATE crossfeed.slot SET system_identifier = 7 WHERE slot = 3")
    with pytest.raises(HistoryLostError, match=r"the cursors of slots \[3\] are of another one"):
        await check(engine, another)


async def test_a_cursor_from_the_future_is_noticed_where_the_cluster_cannot_be_asked_for(
    engine: AsyncEngine, another: Lineage
) -> None:
    await run(engine, "UPDATE crossfeed.slot SET seen = '9000000000:9000000000:' WHERE slot = 4")
    with pytest.raises(HistoryLostError, match=r"slots \[4\] have seen transactions that are still to come"):
        await check(engine, another)


async def test_a_former_primary_is_noticed_although_it_holds_every_row(
    engine: AsyncEngine, lineage: Lineage, another: Lineage, settings: Settings, cosmos: CosmosStore
) -> None:
    await move_on(engine, settings, cosmos, timeline=2)
    lineage.note([0], [1], await newest(engine))
    with pytest.raises(LineageMovedError):
        await lineage.mark()
    with pytest.raises(HistoryLostError, match="this is timeline 1, another server went on with timeline 2"):
        await check(engine, lineage)


async def test_a_relay_without_the_right_to_ask_for_the_cluster_runs_all_the_same(
    engine: AsyncEngine, settings: Settings, cosmos: CosmosStore
) -> None:
    lineage = Lineage(cosmos, settings)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE ROLE {cosmos.database} IN ROLE pg_read_all_data, pg_write_all_data")
        await connection.exec_driver_sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        await connection.exec_driver_sql(f"SET LOCAL ROLE {cosmos.database}")
        await lineage.check(connection, [0])
        await connection.exec_driver_sql("RESET ROLE")
        stored = (
            await connection.exec_driver_sql("SELECT system_identifier, timeline FROM crossfeed.slot WHERE slot = 0")
        ).one()
        await connection.exec_driver_sql(f"DROP ROLE {cosmos.database}")
        await connection.rollback()
    assert tuple(stored) == (None, 1)


async def test_what_was_sent_and_not_marked_yet_is_asked_for_by_the_relay_that_sent_it(
    engine: AsyncEngine, lineage: Lineage, another: Lineage
) -> None:
    """A standby lags by milliseconds, and so does what it loses; cursors, and with them markers, move later."""
    row = await newest(engine)
    lineage.note([0], [1], Mark(row.seq + 1, row.xid, row.at))
    await check(engine, another)
    with pytest.raises(HistoryLostError, match=str(row.seq + 1)):
        await check(engine, lineage)
    with pytest.raises(HistoryLostError):  # the first one has written it down
        await check(engine, another)


async def test_silence_writes_no_marker(
    engine: AsyncEngine, lineage: Lineage, settings: Settings, cosmos: CosmosStore
) -> None:
    markers = await markers_of(engine, settings, cosmos)
    [before] = (await markers.read()).markers
    await send(engine, lineage)
    [after] = (await markers.read()).markers
    assert after.etag == before.etag


async def test_many_marks_at_once_are_few_requests_and_all_of_them_count(
    engine: AsyncEngine, lineage: Lineage, another: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await newest_rows(engine)
    written = 0
    write = Markers.write

    async def counted(self: Markers, *arguments: object) -> object:
        nonlocal written
        written += 1
        return await write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Markers, "write", counted)
    lost = Mark(rows[-1].seq + 1000, 7, rows[-1].at)

    async def sent(slot: int) -> None:
        lineage.note([slot], [0], lost if slot == 9 else rows[0])
        await lineage.mark()

    await asyncio.gather(*map(sent, range(16)))
    assert written <= 2
    with pytest.raises(HistoryLostError, match=str(lost.seq)):
        await check(engine, another)


async def test_a_marker_is_removed_once_others_have_marked_rows_of_all_its_slots(
    engine: AsyncEngine, lineage: Lineage, another: Lineage, settings: Settings, cosmos: CosmosStore
) -> None:
    await check(engine, another)
    await send(engine, another, slots=range(31), token=1)
    await check(engine, another)
    assert len(await _markers(engine, settings, cosmos)) == 2  # nobody else has sent of slot 31
    await send(engine, another, slots=[31], token=1)
    await check(engine, another)
    assert len(await _markers(engine, settings, cosmos)) == 1
    await send(engine, lineage, token=2)  # one that is still alive and has slots again
    assert len(await _markers(engine, settings, cosmos)) == 2


async def test_a_charter_that_was_lost_is_made_again(
    engine: AsyncEngine, lineage: Lineage, settings: Settings, cosmos: CosmosStore
) -> None:
    container = cosmos.container_named(settings.control_container)
    async for item in container.query_items("SELECT * FROM c WHERE c.id = 'charter'"):
        await container.delete_item(item, partition_key=item["instance"])
    with pytest.raises(LineageMovedError):
        await send(engine, lineage, token=1)
    await check(engine, lineage)
    await send(engine, lineage, token=1)
    assert (await (await markers_of(engine, settings, cosmos)).read()).charter is not None


async def test_a_store_without_the_control_container_is_named(
    engine: AsyncEngine, cosmos: CosmosStore, settings: Settings
) -> None:
    lineage = Lineage(cosmos, settings.model_copy(update={"control_container": "nowhere"}))
    with pytest.raises(StoreUnavailableError, match="container 'nowhere' of the relays' markers does not exist"):
        await check(engine, lineage)


async def _markers(engine: AsyncEngine, settings: Settings, cosmos: CosmosStore) -> list[str]:
    control = await (await markers_of(engine, settings, cosmos)).read()
    return [marker.relay for marker in control.markers]
