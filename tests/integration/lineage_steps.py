"""What the tests of lost histories share: a relay's marks without the relay."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from core.cosmos.markers import Markers
from outbox.lineage import Lineage, Mark

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings

SLOTS = range(32)


async def check(engine: AsyncEngine, lineage: Lineage) -> str:
    """What a relay does that has claimed every slot."""
    async with engine.begin() as connection:
        return await lineage.check(connection, list(SLOTS))


async def newest_rows(engine: AsyncEngine) -> list[Mark]:
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT seq, xid::text, at::text FROM crossfeed.outbox ORDER BY seq")
        return [Mark(seq, int(xid), at) for seq, xid, at in map(tuple, rows)]


async def newest(engine: AsyncEngine) -> Mark:
    return (await newest_rows(engine))[-1]


async def send(engine: AsyncEngine, lineage: Lineage, slots: Iterable[int] = SLOTS, token: int = 0) -> None:
    """What a relay does that has sent everything of these slots."""
    named = list(slots)
    lineage.note(named, [token] * len(named), await newest(engine))
    await lineage.mark()


async def markers_of(engine: AsyncEngine, settings: Settings, store: CosmosStore) -> Markers:
    async with engine.connect() as connection:
        instance = (await connection.exec_driver_sql("SELECT instance::text FROM crossfeed.lineage")).scalar_one()
    return Markers(store, settings.control_container, instance)


async def move_on(engine: AsyncEngine, settings: Settings, store: CosmosStore, *, timeline: int) -> None:
    """What the relay of a promoted standby does."""
    markers = await markers_of(engine, settings, store)
    control = await markers.read()
    assert control.charter is not None
    assert await markers.grant(dataclasses.replace(control.charter, timeline=timeline), control.charter_etag)
