"""Parking of states: a bounded number of attempts, ever later, and nothing forgotten when a page and a retry race."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from core.errors import StoreUnavailableError
from core.postgres.failures import translated
from outbox.parking import DUE_STATES, Failure, ParkingPolicy, hold, park_states
from tests.integration.parking_steps import POLICY, SLOTS, Parking, account, refusals
from tests.integration.relay_steps import letters

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
def parking(engine: AsyncEngine) -> Parking:
    return Parking(engine)


async def test_a_refused_document_waits_ever_longer_and_becomes_a_dead_letter(
    parking: Parking, engine: AsyncEngine
) -> None:
    waits = []
    for attempt in (1, 2):
        assert await parking.park(refusals(1)) == []
        [(_, attempts, wait_s)] = await parking.parked()
        assert attempts == attempt
        waits.append(wait_s)
    assert 49 < waits[0] < 101
    assert 99 < waits[1] < 201
    assert await parking.due() == []
    assert await parking.park(refusals(1)) == [account(1)]
    assert await parking.parked() == []
    assert await letters(engine) == [("to_cosmos", "refused", "acc-1", 3, "refused by its own fault")]
    [(first_at, spread)] = await parking.rows("SELECT first_at, last_at > first_at FROM crossfeed.dead_letter")
    assert spread
    for _ in range(POLICY.attempts):
        await parking.park(refusals(1))
    assert await parking.rows("SELECT attempts, first_at FROM crossfeed.dead_letter") == [(6, first_at)]


async def test_infrastructure_uses_up_no_attempt_and_its_wish_to_wait_is_obeyed(parking: Parking) -> None:
    failure = Failure(account(1), "throttled", counts=False, retry_after_s=300)
    for _ in range(10):
        assert await parking.park([failure]) == []
    [(_, attempts, wait_s)] = await parking.parked()
    assert attempts == 0
    assert 299 < wait_s < 301


async def test_what_infrastructure_holds_up_for_long_is_tried_less_often(parking: Parking, engine: AsyncEngine) -> None:
    failure = Failure(account(1), "its partition is down", counts=False)
    await parking.park([failure])
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE crossfeed.parked SET first_at = first_at - interval '3000 s'")
    await parking.park([failure])
    [(_, _, wait_s)] = await parking.parked()
    assert 149 < wait_s < 301


async def test_with_one_attempt_every_refusal_is_a_dead_letter_at_once(engine: AsyncEngine) -> None:
    once = Parking(engine, ParkingPolicy(attempts=1, first_s=1, longest_s=1, idle_s=10))
    assert await once.park(refusals(1, 2)) == [account(1), account(2)]
    assert await once.park(refusals(1)) == [account(1)]
    assert await once.parked() == []
    assert [(id_, attempts) for _, _, id_, attempts, _ in await letters(engine)] == [("acc-1", 2), ("acc-2", 1)]


async def test_the_arrival_of_a_newer_state_forgets_what_was_parked_and_dead(
    parking: Parking, engine: AsyncEngine
) -> None:
    for _ in range(POLICY.attempts):
        await parking.park(refusals(1, 3))
    await parking.park(refusals(1, 2))
    await parking.settle(account(1), account(2))
    assert await parking.parked() == []
    assert [id_ for _, _, id_, _, _ in await letters(engine)] == ["acc-3"]


async def test_what_is_due_is_tried_in_its_order_and_forgotten_once_it_has_arrived(parking: Parking) -> None:
    await parking.park(refusals(1))
    await parking.park(refusals(2))
    await parking.all_due()
    due = await parking.due()
    assert {item.identity for item in due} == {account(1), account(2)}
    assert len(await parking.due(limit=1)) == 1
    assert await parking.resolve(due, refusals(2)) == []
    assert [(id_, attempts) for id_, attempts, _ in await parking.parked()] == [("acc-2", 2)]
    await parking.all_due()
    assert await parking.resolve(await parking.due(), refusals(2)) == [account(2)]
    assert await parking.due() == []


async def test_a_retry_of_an_older_state_does_not_forget_the_failure_of_a_newer_one(parking: Parking) -> None:
    await parking.park(refusals(1))
    await parking.all_due()
    due = await parking.due()
    await parking.park(refusals(1))  # a page brings a newer state meanwhile, and Cosmos DB refuses that
    await parking.resolve(due)
    assert [(id_, attempts) for id_, attempts, _ in await parking.parked()] == [("acc-1", 2)]


async def test_the_failure_of_a_retry_is_nothing_where_a_newer_state_has_arrived(parking: Parking) -> None:
    await parking.park(refusals(1))
    await parking.all_due()
    due = await parking.due()
    await parking.settle(account(1))
    assert await parking.resolve(due, refusals(1)) == []
    assert await parking.parked() == []


async def test_a_clock_that_stood_wrong_parks_nothing_for_ever(parking: Parking, engine: AsyncEngine) -> None:
    await parking.park(refusals(1))
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE crossfeed.parked SET retry_at = clock_timestamp() + interval '9 years'"
        )
    assert [item.identity for item in await parking.due()] == [account(1)]


async def test_a_relay_whose_slot_was_taken_holds_it_no_more(parking: Parking, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE crossfeed.slot SET token = token + 1 WHERE slot = 3")
    async with engine.begin() as connection:
        assert not await hold(connection, dict.fromkeys(SLOTS, 0), POLICY)
        assert await hold(connection, {2: 0, 3: 1}, POLICY)


async def test_a_page_and_a_retry_of_one_relay_go_one_after_the_other(engine: AsyncEngine) -> None:
    async def transact(numbers: list[int]) -> None:
        async with engine.begin() as connection:
            await hold(connection, dict.fromkeys(SLOTS, 0), POLICY)
            for number in numbers:
                await park_states(connection, refusals(number), POLICY)

    numbers = list(range(8))
    await asyncio.gather(*(transact(numbers[:: (-1) ** turn]) for turn in range(6)))


async def test_a_relay_that_is_stopped_within_a_transaction_gives_its_slots_free(engine: AsyncEngine) -> None:
    policy = ParkingPolicy(attempts=3, first_s=1, longest_s=1, idle_s=0.2)
    began = time.monotonic()
    async with engine.connect() as stopped:
        await hold(stopped, {1: 0}, policy)
        async with engine.begin() as other:
            await other.exec_driver_sql("SELECT FROM crossfeed.slot WHERE slot = 1 FOR UPDATE")
        assert time.monotonic() - began < 5
        with pytest.raises(StoreUnavailableError), translated("parking"):
            await park_states(stopped, refusals(1), policy)


async def test_reasons_that_no_column_takes_are_escaped(parking: Parking) -> None:
    await parking.park([Failure(account(1), "a\0b\ud800", counts=True)])
    assert await parking.rows("SELECT reason FROM crossfeed.parked") == [("a\\0b\\ud800",)]


async def test_a_page_of_failures_is_three_statements_and_what_is_due_is_found_by_its_index(
    parking: Parking, engine: AsyncEngine
) -> None:
    many = [Failure(account(number), "refused", counts=True) for number in range(5000)]
    began = time.monotonic()
    for _ in range(POLICY.attempts - 1):
        assert await parking.park(many) == []
    assert len(await parking.park(many[:2000])) == 2000
    assert time.monotonic() - began < 10
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("ANALYZE crossfeed.parked")
        plan = await connection.exec_driver_sql(
            "EXPLAIN " + DUE_STATES, {"slots": list(SLOTS), "limit": 100, "longest_s": 400.0}
        )
        assert "parked_due" in "\n".join(line for (line,) in plan)
