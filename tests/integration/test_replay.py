"""A replay sends again what was written since, and is refused where the log does not hold it any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from core.errors import ConflictError
from core.phases import Phase
from outbox.relay import Relay
from outbox.replay import replay
from tests.integration.canary_steps import Target, relay_of
from tests.integration.log_steps import SIZE, begin_small, events, pass_all, rows, states, upkeep
from tests.integration.relay_steps import MemorySink, connect, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

HOUR = timedelta(hours=1)
INSERT = "INSERT INTO accounts (id) VALUES ('{}')"
AGE = "UPDATE crossfeed.outbox SET at = at - interval '{}' WHERE id = '{}'"


async def unsent(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        found = await rows(connection, "SELECT carries, sum(messages)::int FROM crossfeed.unsent(10000) GROUP BY 1")
        return dict(found)


async def test_what_was_written_since_is_sent_again_by_the_relay_and_nothing_older(
    engine: AsyncEngine, settings: Settings, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, *(INSERT.format(name) for name in ("old", "new", "newest")))
    await run(engine, AGE.format("3 hours", "old"), AGE.format("30 minutes", "new"))
    first, lost = MemorySink(), MemorySink()
    await Relay(settings, mappings, engine, first).drain()
    assert len(first.states) == 3
    planned = await replay(engine, HOUR, events=False, dry_run=True)
    await Relay(settings, mappings, engine, lost).drain()
    assert lost.states == {}
    done = await replay(engine, planned.since, events=False, dry_run=False)
    assert done == planned
    assert (done.messages, done.documents, done.kinds) == (2, 2, ("states",))
    await Relay(settings, mappings, engine, lost).drain()
    assert {identity.id for identity in lost.states} == {"new", "newest"}


async def test_canaries_are_no_messages_and_rewind_nothing(
    engine: AsyncEngine, settings: Settings, mappings: Mappings
) -> None:
    await make_primary(engine)
    often = settings.model_copy(update={"canary_every_s": 60.0, "relay_lease_s": 60.0})
    relay = relay_of(often, mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    async with engine.connect() as connection:
        assert await rows(connection, "SELECT count(*)::int FROM crossfeed.outbox") == [(32,)]
    assert (await replay(engine, HOUR, events=True, dry_run=False)).messages == 0
    async with engine.connect() as connection:
        assert await rows(connection, "SELECT count(*)::int FROM crossfeed.slot WHERE owner IS NOT NULL") == [(32,)]
    await run(engine, INSERT.format("late"))
    done = await replay(engine, HOUR, events=True, dry_run=False)
    assert (done.messages, done.documents) == (1, 1)
    cursor = "SELECT DISTINCT pg_snapshot_xmax(seen)::text FROM crossfeed.slot"
    message = "SELECT xid::text FROM crossfeed.outbox WHERE id = 'late'"
    async with engine.connect() as connection:
        slots, written = await rows(connection, cursor), await rows(connection, message)
    assert all(int(seen) <= int(written[0][0]) for (seen,) in slots)


async def test_what_was_not_sent_yet_stays_unsent_and_owners_lose_their_slots(
    engine: AsyncEngine, settings: Settings
) -> None:
    await make_primary(engine)
    async with await connect(settings) as late:
        await late.execute("BEGIN")
        await late.execute(states(2))
        await run(engine, states(10))
        await pass_all(engine)
        await late.execute("COMMIT")
    await run(engine, states(3), "UPDATE crossfeed.outbox SET at = at - interval '3 hours'")
    await run(engine, states(1), "UPDATE crossfeed.slot SET owner = gen_random_uuid(), token = 5")
    assert (await replay(engine, HOUR, events=False, dry_run=False)).messages == 1
    assert await unsent(engine) == {"states": 2 + 3 + 1}
    async with engine.connect() as connection:
        slots = await rows(connection, "SELECT DISTINCT carries, token, owner IS NULL FROM crossfeed.slot ORDER BY 1")
    assert slots == [("events", 5, False), ("states", 6, True)]


async def test_a_cursor_in_the_middle_of_a_large_delta_goes_back_as_well(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, states(30), "UPDATE crossfeed.slot SET target = pg_current_snapshot(), position = 20")
    assert await unsent(engine) == {"states": 10}
    await replay(engine, HOUR, events=False, dry_run=False)
    assert await unsent(engine) == {"states": 30}


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_POSTGRES_READ, Phase.POSTGRES_ONLY])
async def test_events_are_sent_again_when_asked_and_states_only_where_they_are_sent_at_all(
    engine: AsyncEngine, phase: Phase
) -> None:
    await make_primary(engine)
    await run(engine, states(7), events(5))
    await pass_all(engine)
    if phase is Phase.POSTGRES_ONLY:
        await make_primary(engine, phase)
        with pytest.raises(ConflictError, match="in phase postgres_only no states are sent"):
            await replay(engine, HOUR, events=False, dry_run=False)
    done = await replay(engine, HOUR, events=True, dry_run=False)
    expected = {"events": 5} | ({} if phase is Phase.POSTGRES_ONLY else {"states": 7})
    assert await unsent(engine) == expected
    assert done.messages == sum(expected.values())


async def test_a_replay_of_what_was_dropped_is_refused_and_nothing_is_changed(
    engine: AsyncEngine, settings: Settings
) -> None:
    await make_primary(engine)
    await begin_small(engine)
    await run(engine, states(SIZE), "UPDATE crossfeed.outbox SET at = at - interval '2 hours'", states(10))
    await pass_all(engine)
    assert (await upkeep(engine, settings, keep_s=3600)).dropped
    with pytest.raises(ConflictError, match="were dropped already"):
        await replay(engine, datetime.now(UTC) - 3 * HOUR, events=False, dry_run=False)
    assert await unsent(engine) == {}
    assert (await replay(engine, HOUR, events=False, dry_run=False)).messages == 10
