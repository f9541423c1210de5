"""The guarded backfill loses every race against live writers, and takes nothing that is not of before the barrier."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from core.domain.mappings import ACCOUNTS
from core.envelope import Origin, stamped
from core.errors import PrimaryMovedError
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.authority import Change
from core.postgres.backfilled import backfill_documents
from core.postgres.opening import Barrier, counts
from core.postgres.phases import open_phase
from core.stamp import Stamp
from tests.integration.aggregate_steps import MAPPED, install, lines
from tests.integration.relay_steps import until
from tests.integration.routing_steps import enter_phase_2

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.mappings import Mappings
    from core.postgres.mirrored_batch import Outcome

BARRIER = 1_000_000


def document(id_: str, ts: int = BARRIER - 1, **content: Any) -> Document:
    return {"id": id_, **content, "_etag": f"etag of {id_}", "_ts": ts}


async def backfill(
    engine: AsyncEngine, mappings: Mappings, phase: PhaseRow, *documents: Document, container: str = "Accounts"
) -> Outcome:
    async with engine.begin() as connection:
        return await backfill_documents(
            connection, mappings, container, documents, phase, barrier=Barrier(BARRIER, phase.epoch - 1)
        )


async def ids(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.execute(text("SELECT id FROM accounts ORDER BY id"))).scalars())


async def waits(engine: AsyncEngine, task: asyncio.Task[Outcome]) -> None:
    """Return when the backfill waits for a lock that a writer holds."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def is_blocked() -> bool:
        async with engine.connect() as connection:
            return bool((await connection.execute(text(blocked))).scalar_one())

    await until(is_blocked)
    assert not task.done()


async def test_an_entity_added_and_deleted_since_the_look_is_not_resurrected(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    phase = await enter_phase_2(engine)
    async with engine.connect() as live:
        await live.execute(text("INSERT INTO accounts (id) VALUES ('b')"))
        task = asyncio.create_task(backfill(engine, mappings, phase, *map(document, "abc")))
        await waits(engine, task)
        await live.execute(text("DELETE FROM accounts WHERE id = 'b'"))
        await live.commit()
        outcome = await task
    assert (outcome.applied, outcome.ignored) == (2, 1)
    assert await ids(engine) == ["a", "c"]


async def test_a_live_row_that_came_first_is_kept_with_its_children(engine: AsyncEngine) -> None:
    await install(engine, MAPPED)
    phase = await enter_phase_2(engine)
    left = document("o", lines=[{"item": "left behind"}])
    async with engine.connect() as live:
        await live.execute(text("INSERT INTO orders (id) VALUES ('o')"))
        await live.execute(text("INSERT INTO order_lines (order_id, line, item) VALUES ('o', 0, 'live')"))
        task = asyncio.create_task(backfill(engine, MAPPED, phase, left, container="Orders"))
        await waits(engine, task)
        await live.commit()
        outcome = await task
    assert (outcome.applied, outcome.ignored) == (0, 1)
    assert await lines(engine) == [("o", "live")]


async def test_children_are_backfilled_with_their_root(engine: AsyncEngine) -> None:
    await install(engine, MAPPED)
    phase = await enter_phase_2(engine)
    left = document("o", lines=[{"item": "one"}, {"item": "two"}])
    assert (await backfill(engine, MAPPED, phase, left, container="Orders")).applied == 1
    assert await lines(engine) == [("o", "one"), ("o", "two")]
    assert (await backfill(engine, MAPPED, phase, left, container="Orders")).ignored == 1


async def test_what_postgres_refuses_is_a_dead_letter_and_the_others_are_rows(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    phase = await enter_phase_2(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE UNIQUE INDEX ON accounts (email)"))
        await connection.execute(text("INSERT INTO accounts (id, email) VALUES ('z', 'taken@x.org')"))
    taken = document("a", Email="taken@x.org")
    misfit = document("b", Email=["no text"])
    outcome = await backfill(engine, mappings, phase, taken, misfit, document("c", Email="c@x.org"))
    assert (outcome.applied, outcome.dead_lettered, outcome.parked) == (1, 2, 0)
    assert await ids(engine) == ["c", "z"]
    async with engine.connect() as connection:
        letters = await connection.execute(text("SELECT id, direction, kind FROM crossfeed.dead_letter ORDER BY id"))
        assert [tuple(row) for row in letters] == [("a", "to_postgres", "refused"), ("b", "to_postgres", "refused")]


async def test_a_backfill_that_slept_through_a_switch_writes_nothing(engine: AsyncEngine, mappings: Mappings) -> None:
    phase = await enter_phase_2(engine)
    await open_phase(engine, Phase.POSTGRES_ONLY, who="tests", why="on")
    with pytest.raises(PrimaryMovedError):
        await backfill(engine, mappings, phase, document("a"))
    assert await ids(engine) == []


NOW = PhaseRow(Phase.DUAL_WRITE_POSTGRES_READ, 3, PhaseState.STEADY)
EARLIER = stamped({"id": "a"}, Stamp(2, 5), Origin.COSMOS)
PUBLISHED = stamped({"id": "a"}, Stamp(2, 5), Origin.POSTGRES)
CHANGED = EARLIER | {"Email": "rogue@x.org"}


@pytest.mark.parametrize(
    ("content", "ts", "without_a_switch", "after_one"),
    [
        pytest.param({"id": "a"}, BARRIER - 1, False, True, id="foreign, before the barrier"),
        pytest.param({"id": "a"}, BARRIER, False, False, id="foreign, in the barrier's second"),
        pytest.param(EARLIER, BARRIER - 1, True, True, id="ours, before the barrier"),
        pytest.param(EARLIER, BARRIER, True, False, id="ours, a late write"),
        pytest.param(PUBLISHED, BARRIER - 1, False, True, id="the relay's, of an earlier phase 2"),
        pytest.param(CHANGED, BARRIER - 1, False, True, id="ours, then changed by a foreign writer"),
        pytest.param(CHANGED, BARRIER, False, False, id="ours, then a rogue write"),
        pytest.param(
            stamped({"id": "a"}, Stamp(3, 1), Origin.COSMOS), BARRIER - 1, False, False, id="of this very epoch"
        ),
        pytest.param(
            stamped({"id": "a"}, Stamp(2, 1), Origin.COSMOS, deleted=True), BARRIER - 1, False, False, id="deleted"
        ),
    ],
)
def test_what_counts(content: Document, ts: int, *, without_a_switch: bool, after_one: bool) -> None:
    change = Change.of(ACCOUNTS.identity(content), content | {"_etag": "e", "_ts": ts})
    assert counts(change, NOW, None) is without_a_switch
    assert counts(change, NOW, Barrier(BARRIER, 2)) is after_one
