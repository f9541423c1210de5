"""G2 across pg_upgrade: another cluster goes on with the log where that proves that nothing was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.errors import HistoryLostError
from outbox.adopt import adopt
from outbox.lineage import Lineage
from tests.integration.lineage_steps import check, move_on, send
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings

LATE_ROW = """
    INSERT INTO crossfeed.outbox (xid, slot, entity, partition_key, id, epoch, version, deleted)
    VALUES ('9000000000', 0, 'Account', '["a"]', 'a', 2, 1, false)
"""


@pytest.fixture
def adopted(engine: AsyncEngine, cosmos: CosmosStore, settings: Settings) -> Callable[[], Awaitable[object]]:
    return lambda: adopt(engine, cosmos, settings)


@pytest.fixture
async def lineage(engine: AsyncEngine, cosmos: CosmosStore, settings: Settings) -> Lineage:
    """Of a relay on the former cluster, which has sent a row."""
    lineage = Lineage(cosmos, settings)
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    await check(engine, lineage)
    await send(engine, lineage)
    await move_on(engine, settings, cosmos, timeline=3)
    await run(engine, "UPDATE crossfeed.slot SET system_identifier = 7, timeline = 3")
    return lineage


async def test_another_cluster_goes_on_where_nothing_was_lost(
    engine: AsyncEngine, lineage: Lineage, adopted: Callable[[], Awaitable[object]]
) -> None:
    """A new system identifier, a timeline that begins anew, the same transactions."""
    with pytest.raises(HistoryLostError):
        await check(engine, lineage)
    await adopted()
    await check(engine, lineage)
    await send(engine, lineage, token=1)


@pytest.mark.parametrize(
    ("forget", "found"),
    [
        ("DELETE FROM crossfeed.outbox", "were sent and are not in it any more"),
        ("UPDATE crossfeed.slot SET seen = '9000000000:9000000000:'", "seen transactions that are still to come"),
        (LATE_ROW, "rows of crossfeed.outbox are of transactions that are still to come"),
    ],
    ids=["rows", "cursors", "log"],
)
@pytest.mark.usefixtures("lineage")
async def test_a_cluster_that_lost_something_needs_a_resync(
    engine: AsyncEngine, adopted: Callable[[], Awaitable[object]], forget: str, found: str
) -> None:
    await run(engine, forget)
    with pytest.raises(HistoryLostError, match=found):
        await adopted()


@pytest.mark.usefixtures("cosmos")
async def test_nothing_is_proved_where_nothing_was_marked(adopted: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(HistoryLostError, match="no marker names a row"):
        await adopted()
