"""Leases of feed ranges: one holder a range, whoever comes, goes or sleeps; only its token moves a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from changefeed.checkpoints import Step, move_checkpoint, read_checkpoint
from changefeed.feed_leases import FeedLeases
from core.cosmos.feed import FeedPart, FeedRange
from core.errors import ConcurrencyError, StoreUnavailableError
from core.postgres.engine import ending_silence
from core.postgres.failures import translated
from core.postgres.leases import MARGIN, LeaseLostError
from tests.integration.feed_steps import LEASE_S, Clocked, give_ranges
from tests.integration.relay_steps import run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.feed_leases import FeedLease

RANGES = 7
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["beat", "beat", "beat", "release", "leave", "die"]), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
    ),
    min_size=5,
    max_size=40,
)


@pytest.fixture
async def world(engine: AsyncEngine) -> Clocked:
    await give_ranges(engine, "f", RANGES)
    return Clocked(engine)


async def move(engine: AsyncEngine, lease: FeedLease, before: str | None, *after: FeedPart) -> None:
    async with engine.begin() as connection:
        await move_checkpoint(connection, Step(lease, before, after))


async def held(engine: AsyncEngine) -> list[tuple[str, str, str | None]]:
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT lower_bound, upper_bound, continuation FROM crossfeed.feed_range ORDER BY lower_bound"
        )
        return [tuple(row) for row in rows]


@given(steps=STEPS)
@hypothesis_settings(max_examples=8)
async def test_no_range_ever_has_two_processors_that_may_act_and_only_the_newest_token_moves_its_checkpoint(
    engine: AsyncEngine, steps: list[tuple[str, int]]
) -> None:
    await run(engine, "DELETE FROM crossfeed.feed_processor", "DELETE FROM crossfeed.feed_range")
    await give_ranges(engine, "f", RANGES)
    world = Clocked(engine)
    ever: dict[tuple[str, str], FeedLease] = {}
    for what, number in steps:
        processor = world.processor(number if what != "wait" else 0)
        match what:
            case "wait":
                await world.wait(number)
            case "beat":
                await processor.renew()
            case "release":
                await processor.release(processor.surplus)
            case "leave":
                await processor.begin_to_leave()
                await processor.hand_over()
            case "die":
                world.processors.pop(number)
        acting = world.acting()
        assert len(acting) == len({lease.key for lease in acting})
        for lease in acting:
            known = ever.get(lease.key, lease)
            if known.token != lease.token:
                assert known.token < lease.token
                with pytest.raises(LeaseLostError):
                    await move(engine, known, None, FeedPart(known.range, None))
            ever[lease.key] = lease
    await world.wait(LEASE_S * 2)
    world.processors = {number: world.processor(number) for number in range(3)}
    await world.settle()
    assert len(world.acting()) == RANGES
    assert max(len(processor.held) for processor in world.processors.values()) <= -(-RANGES // 3)


async def test_a_processor_that_is_alive_loses_nothing_and_one_that_died_is_followed_after_its_lease(
    world: Clocked,
) -> None:
    first, second = world.processor(1), world.processor(2)
    await first.renew()
    assert len(first.held) == RANGES
    await world.wait(LEASE_S * (1 - MARGIN) - 0.1)
    first.check()
    await second.renew()
    assert second.held == ()
    await world.wait(0.2)
    with pytest.raises(LeaseLostError):
        first.check()
    await second.renew()
    assert second.held == ()  # nobody acts in the margin
    lease = first.held[0]
    await world.wait(LEASE_S * MARGIN)
    await second.renew_if_due()
    assert len(second.held) == RANGES
    await first.renew()
    with pytest.raises(LeaseLostError):
        first.check_held(lease)  # alive again, but its ranges are another's


async def test_a_checkpoint_moves_only_with_the_token_of_now_from_where_its_reader_went_on(
    world: Clocked, engine: AsyncEngine
) -> None:
    first, second = world.processor(1), world.processor(2)
    await first.renew()
    old = first.held[0]
    await move(engine, old, None, FeedPart(old.range, "one"))
    for before in (None, "other"):
        with pytest.raises(LeaseLostError):
            await move(engine, old, before, FeedPart(old.range, "two"))
    await world.wait(LEASE_S)
    await second.renew()
    [new] = [lease for lease in second.held if lease.key == old.key]
    for step in ((FeedPart(old.range, "two"),), (FeedPart(FeedRange.between("", "00"), "two"),) * 2):
        with pytest.raises(LeaseLostError):
            await move(engine, old, "one", *step)
    async with engine.connect() as connection:
        with pytest.raises(LeaseLostError):
            await read_checkpoint(connection, old)
        assert await read_checkpoint(connection, new) == "one"
    await move(engine, new, "one", FeedPart(new.range, "two"))


async def test_the_parts_of_a_range_begin_where_it_was_with_the_same_processor(
    world: Clocked, engine: AsyncEngine
) -> None:
    processor = world.processor(1)
    await processor.renew()
    lease = processor.held[-1]
    await move(engine, lease, None, FeedPart(lease.range, "one"))
    middle = "80"
    parts = [
        FeedPart(FeedRange.between(lease.range.lower, middle), "left"),
        FeedPart(FeedRange.between(middle, lease.range.upper), None),
    ]
    await move(engine, lease, "one", *parts)
    assert (await held(engine))[-2:] == [(lease.range.lower, middle, "left"), (middle, "FF", None)]
    await processor.renew_if_due()
    assert len(processor.held) == RANGES + 1
    # A processor that has read an old list of ranges adds nothing, one with a new one neither.
    for bounds in ("ARRAY['', '06'], ARRAY['06', 'FF']", "ARRAY['06', '80'], ARRAY['80', 'FF']"):
        async with engine.begin() as connection:
            added = await connection.exec_driver_sql(f"SELECT crossfeed.add_feed_ranges('f', {bounds})")
            assert added.scalar_one() == 0


async def test_what_is_let_go_by_one_that_leaves_is_anothers_at_its_next_look_though_it_is_still_there(
    world: Clocked,
) -> None:
    first, second = world.processor(1), world.processor(2)
    await first.renew()
    await world.settle()
    assert {len(first.held), len(second.held)} == {3, 4}
    await first.begin_to_leave()
    kept, *others = first.held
    await first.release(others)
    await first.renew()
    assert first.held == (kept,), "it takes nothing any more"
    await second.renew_if_due()  # long before a heartbeat is due
    assert len(second.held) == RANGES - 1
    first.check_held(kept)
    await first.hand_over()
    await second.renew_if_due()
    assert len(second.held) == RANGES


async def test_every_range_has_a_reader_though_processors_read_different_feeds(engine: AsyncEngine) -> None:
    for feed, count in (("a", 4), ("b", 10)):
        await give_ranges(engine, feed, count)
    world = Clocked(engine)
    for number, feeds in enumerate((("a",), ("a", "b"), ("a",))):
        world.processor(number, *feeds)
    await world.settle()
    assert len(world.acting()) == 14
    assert len(world.processor(1).held) >= 10


async def test_a_range_that_few_may_read_is_taken_by_one_that_has_enough_of_what_others_may_read(
    engine: AsyncEngine,
) -> None:
    for feed in ("mirror", "consumers"):
        await give_ranges(engine, feed, 2)
    world = Clocked(engine)
    dying, whole = world.processor(1, "mirror", "consumers"), world.processor(2, "mirror", "consumers")
    await dying.renew()
    await whole.renew()
    await dying.renew()
    await dying.release(dying.surplus)
    partial = world.processor(3, "mirror")
    await world.settle()
    assert {lease.feed for lease in dying.held} == {"consumers"}
    assert partial.held == ()
    del world.processors[1]
    for _ in range(3):
        await world.wait(LEASE_S / 2)
        await whole.renew()
        await partial.renew()
    await world.settle()
    assert sorted(lease.feed for lease in whole.held) == ["consumers", "consumers", "mirror"]
    assert [lease.feed for lease in whole.held] == ["consumers", "consumers", "mirror"]
    kept = world.acting()
    await world.settle()
    assert world.acting() == kept


async def test_heartbeats_go_on_whatever_one_of_them_fails_with(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give_ranges(engine, "f", 1)
    leases = FeedLeases(engine, ["f"], 2.0)
    renew, errors = leases.renew_if_due, [ConcurrencyError("a deadlock"), ZeroDivisionError()]

    async def failing() -> None:
        if errors:
            raise errors.pop()
        await renew()

    monkeypatch.setattr(leases, "renew_if_due", failing)
    async with leases.kept():
        await until(lambda: len(leases.held) == 1)


async def test_a_process_that_is_stopped_in_the_middle_of_a_batch_keeps_its_range_for_no_longer_than_a_lease(
    world: Clocked, engine: AsyncEngine
) -> None:
    processor, other = world.processor(1), world.processor(2)
    await processor.renew()
    lease = processor.held[0]
    quick = ending_silence(engine, 0.2)
    stopped = await quick.connect()
    try:
        await move_checkpoint(stopped, Step(lease, None, [FeedPart(lease.range, "one")]))
        await world.wait(LEASE_S)
        await other.renew()
        assert lease.key not in {item.key for item in other.held}  # its row is locked; nothing waits for it

        async def is_taken() -> bool:
            await other.renew()
            return lease.key in {item.key for item in other.held}

        await until(is_taken, 5)
    finally:
        await stopped.invalidate()
        await stopped.close()
    async with engine.connect() as connection:
        [new] = [item for item in other.held if item.key == lease.key]
        assert await read_checkpoint(connection, new) is None


async def test_a_connection_that_was_lost_before_a_later_step_of_its_transaction_is_an_outage(
    engine: AsyncEngine,
) -> None:
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
        await connection.invalidate()
        with pytest.raises(StoreUnavailableError, match="lost in the middle"), translated("a page"):
            await connection.exec_driver_sql("SELECT 1")
