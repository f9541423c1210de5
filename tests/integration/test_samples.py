"""What status pages plot: samples survive what carries them, and say the same however they fall into bins."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from changefeed.lag import RangeHealth
from core.postgres.dead_letters import Direction
from core.postgres.samples import BINS, Sample, read_series, write_sample
from functions.sampling import of_processor, of_relay, sample_triggers, sampling
from outbox.health import RelayHealth
from outbox.stats import RelayStats
from tests.integration.relay_steps import run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.postgres.samples import Series

TO_COSMOS, TO_POSTGRES = Direction.TO_COSMOS, Direction.TO_POSTGRES


async def series_of(engine: AsyncEngine, direction: Direction) -> Series:
    async with engine.connect() as connection:
        return (await read_series(connection))[direction]


async def put(engine: AsyncEngine, source: str, ago_s: float, lag_s: float | None, total: int) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO crossfeed.sample (at, source, direction, lag_s, total) VALUES"
            " (clock_timestamp() - make_interval(secs => %(ago)s), %(source)s, 'to_cosmos', %(lag)s, %(total)s)",
            {"ago": ago_s, "source": source, "lag": lag_s, "total": total},
        )


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.sample")
        return int(found.scalar_one())


async def test_a_constant_rate_is_plotted_as_one_however_the_samples_fall_into_bins(engine: AsyncEngine) -> None:
    for n in range(95):
        await put(engine, "a", 940 - 10 * n, 0.5, 100 * n)
        await put(engine, "b", 944 - 10 * n, 0.7, 1000 + 200 * n)
    series = await series_of(engine, TO_COSMOS)
    assert len(series.per_s) == len(series.lag_s) == BINS == 60
    assert all(rate == pytest.approx(30, rel=0.02) for rate in series.per_s)
    assert set(series.lag_s) == {0.7}
    assert series.lag_now_s == 0.7
    assert series.per_s_now == pytest.approx(30, rel=0.02)
    assert set((await series_of(engine, TO_POSTGRES)).per_s) == {None}


async def test_a_gap_is_not_a_standstill_and_what_was_not_written_is_made_up_for(engine: AsyncEngine) -> None:
    for ago_s, total in ((600, 0), (590, 100), (300, 3000), (290, 3000), (280, 3000)):
        await put(engine, "a", ago_s, 1.0, total)
    series = await series_of(engine, TO_COSMOS)
    known = [rate for rate in series.per_s if rate is not None]
    assert 0.0 in known
    assert 10.0 in [pytest.approx(rate, rel=0.02) for rate in known]
    assert series.per_s[:15] == (None,) * 15
    assert (series.lag_now_s, series.per_s_now) == (None, 0.0)


async def test_a_counter_that_begins_anew_and_a_clock_that_was_put_back_make_no_mountains(engine: AsyncEngine) -> None:
    for ago_s, total in ((60, 5000), (50, 5100), (40, 0), (30, 100), (-3600, 10**12)):
        await put(engine, "a", ago_s, None, total)
    series = await series_of(engine, TO_COSMOS)
    known = [rate for rate in series.per_s if rate is not None]
    assert min(known) >= 0
    assert max(known) <= 10.1
    assert series.per_s_now == pytest.approx(10, rel=0.02)
    assert set(series.lag_s) == {None}


async def test_a_sample_purges_what_nobody_looks_at_any_more_and_waits_for_nobody(engine: AsyncEngine) -> None:
    for ago_s in (5000, 3000, -3600, 100):
        await put(engine, "old", ago_s, 1.0, 1)
    async with engine.begin() as other:
        await other.exec_driver_sql("DELETE FROM crossfeed.sample WHERE at < now() - interval '4000 s'")
        async with asyncio.timeout(5):
            await write_sample(engine, "new", TO_COSMOS, Sample(0.1, 7))
    assert await count(engine) == 2


async def test_a_process_writes_samples_until_it_ends_whatever_one_of_them_meets(engine: AsyncEngine) -> None:
    calls = 0

    def read() -> Sample:
        nonlocal calls
        calls += 1
        if calls == 2:
            msg = "not now"
            raise RuntimeError(msg)
        return Sample(0.25, calls * 10)

    async with sampling(engine, TO_POSTGRES, read, every_s=0.02):
        await until(lambda: calls > 3)
        await run(engine, "ALTER TABLE crossfeed.sample RENAME TO gone")
        before = calls
        await until(lambda: calls > before + 2)
        await run(engine, "ALTER TABLE crossfeed.gone RENAME TO sample")
        before = calls
        await until(lambda: calls > before + 2)
    ended = calls
    await asyncio.sleep(0.1)
    assert calls == ended
    assert (await series_of(engine, TO_POSTGRES)).lag_now_s == 0.25


def test_a_relay_says_its_oldest_message_or_what_it_has_just_delivered_and_nothing_while_it_waits() -> None:
    well = RelayHealth(slots=(0,), lease_left_s=5.0, oldest_unsent_s=0.0, pass_age_s=0.1, last_error=None)
    relay: Any = SimpleNamespace(stats=RelayStats(), health=lambda: well)
    read = of_relay(relay)
    assert read() == Sample(0.0, 0)
    relay.stats.messages, relay.stats.last_lag_s = 5, 0.4
    assert [read(), read()] == [Sample(0.4, 5), Sample(0.0, 5)]
    relay.health = lambda: replace(well, oldest_unsent_s=9.0)
    assert read() == Sample(9.0, 5)
    relay.health = lambda: replace(well, oldest_unsent_s=None)
    assert read() == Sample(None, 5)
    relay.health = lambda: replace(well, waits_for="the phase is dual_write_cosmos_read")
    assert read() == Sample(None, 5)


def test_a_processor_says_the_worst_of_its_ranges_and_nothing_while_it_holds_none() -> None:
    item = RangeHealth("mirror/Accounts", "-FF", lag_s=0.1, behind=0, progress_age_s=0.1, error=None)
    ranges = [item, replace(item, lag_s=3.0)]
    processor: Any = SimpleNamespace(
        stats=SimpleNamespace(documents=12), health=lambda: SimpleNamespace(ranges=tuple(ranges))
    )
    read = of_processor(processor)
    assert read() == Sample(3.0, 12)
    ranges.clear()
    assert read() == Sample(None, 12)


async def test_triggers_are_sampled_once_there_are_some(engine: AsyncEngine) -> None:
    await sample_triggers(engine)
    assert await count(engine) == 0
    await run(
        engine,
        "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
        " VALUES ('mirror_Accounts', 'Accounts', 2, 150, 1), ('mirror_Others', 'Others', 1, 50, 1)",
    )
    await sample_triggers(engine)
    assert await count(engine) == 1
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT direction, source, total FROM crossfeed.sample")
        assert [tuple(row) for row in found] == [("to_postgres", "functions", 200)]
    await run(engine, "ALTER TABLE crossfeed.sample RENAME TO gone")
    await sample_triggers(engine)
