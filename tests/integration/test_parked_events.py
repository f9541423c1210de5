"""Parking of events: the later ones of an aggregate wait behind one that failed, in order, and none of them is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from outbox.parked_events import DUE_EVENTS, PARKED_AGGREGATES, park_events, settle_events
from outbox.parking import hold
from tests.integration.parking_steps import EVENT_SLOTS, POLICY, Parking, account, event

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
def parking(engine: AsyncEngine) -> Parking:
    return Parking(engine)


async def test_what_is_behind_a_failed_event_waits_for_it_and_follows_in_order(parking: Parking) -> None:
    await parking.park_events(event(5, 1), held=[event(6, 1), event(9, 1)])
    assert await parking.parked_aggregates(account(1), account(2)) == {account(1)}
    await parking.park_events(held=[event(12, 1)])
    assert await parking.due_events() == []
    await parking.all_due()
    messages = await parking.due_messages()
    assert [message.seq for message in messages] == [5, 6, 9, 12]
    assert [(m.identity, m.event_id, m.event, m.traceparent) for m in messages[:1]] == [
        (account(1), "event-5", '{"id":"event-5","n":1.50}', "trace-5")
    ]
    await parking.park_events(delivered=messages)
    assert await parking.parked_aggregates(account(1)) == set()


async def test_an_event_that_was_held_waits_by_itself_once_it_is_the_first_that_fails(parking: Parking) -> None:
    await parking.park_events(event(5, 1), held=[event(6, 1), event(7, 1)])
    await parking.park_events(event(6, 1), held=[event(7, 1)], delivered=[event(5, 1)])
    assert await parking.due_events() == []
    await parking.all_due()
    assert await parking.due_events() == [6, 7]
    assert [(attempts, seq) for attempts, seq in await parking.rows("SELECT attempts, seq FROM crossfeed.parked")] == [
        (0, 7),
        (1, 6),
    ]


async def test_the_event_behind_one_that_is_given_up_is_due_at_once(parking: Parking) -> None:
    await parking.park_events(event(5, 1), held=[event(6, 1), event(7, 1)])
    assert await parking.park_events(event(5, 1), held=[event(6, 1), event(7, 1)]) == []
    assert await parking.park_events(event(5, 1), held=[event(6, 1), event(7, 1)]) == [event(5, 1)]
    assert await parking.due_events() == [6, 7]
    assert await parking.rows(
        "SELECT direction, kind, id, reference, document::text, attempts, seq, traceparent FROM crossfeed.dead_letter"
    ) == [("to_cosmos", "event", "acc-1", "event-5", '{"id":"event-5","n":1.50}', 3, 5, "trace-5")]
    await parking.park_events(delivered=[event(5, 1)])  # read again by a replay of the log, and accepted by now
    assert await parking.rows("SELECT 1 FROM crossfeed.dead_letter") == []


async def test_an_event_whose_time_has_come_waits_for_an_earlier_one_that_was_put_before_it(
    parking: Parking, engine: AsyncEngine
) -> None:
    await parking.park_events(event(8, 1))
    await parking.park_events(event(5, 1))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE crossfeed.parked SET retry_at = clock_timestamp() WHERE seq = 8")
    assert await parking.due_events() == []
    await parking.all_due()
    assert await parking.due_events() == [5, 8]


async def test_infrastructure_gives_no_event_up(parking: Parking) -> None:
    for _ in range(POLICY.attempts + 1):
        assert await parking.park_events(event(5, 1), counts=False) == []
    assert await parking.rows("SELECT attempts FROM crossfeed.parked") == [(0,)]


async def test_an_event_that_is_read_and_held_twice_is_parked_once(parking: Parking) -> None:
    await parking.park_events(event(5, 1), held=[event(6, 1)])
    await parking.park_events(held=[event(5, 1), event(6, 1)])
    assert await parking.rows("SELECT seq, attempts FROM crossfeed.parked ORDER BY seq") == [(5, 1), (6, 0)]
    assert await parking.due_events() == []


async def test_a_chain_is_cut_only_at_its_end_and_goes_on_from_there(parking: Parking) -> None:
    await parking.park_events(
        event(1, 1), event(2, 2), held=[event(number, 1 + number % 2) for number in range(11, 31)]
    )
    await parking.all_due()
    sent: dict[int, list[int]] = {1: [], 2: []}
    while found := await parking.due_messages(limit=7):
        assert len(found) <= 7
        for message in found:
            sent[1 if message.identity == account(1) else 2].append(message.seq)
        await parking.park_events(delivered=found)
    assert sent == {1: [1, *range(12, 31, 2)], 2: [2, *range(11, 30, 2)]}


async def test_an_event_is_not_forgotten_that_is_held_while_the_head_of_its_chain_leaves(
    parking: Parking, engine: AsyncEngine
) -> None:
    tokens = dict.fromkeys(EVENT_SLOTS, 0)

    async def head_leaves() -> None:
        async with engine.begin() as connection:
            assert await hold(connection, tokens, POLICY)
            await settle_events(connection, [event(5, 1)])

    await parking.park_events(event(5, 1))
    async with engine.begin() as page:
        assert await hold(page, tokens, POLICY)
        await park_events(page, [], [event(6, 1)], POLICY)
        leaving = asyncio.create_task(head_leaves())
        await asyncio.sleep(0.2)
    await leaving
    assert await parking.due_events() == [6]


async def test_what_is_due_and_what_is_parked_is_found_by_an_index(parking: Parking, engine: AsyncEngine) -> None:
    await parking.park_events(
        *(event(number, number) for number in range(1, 1001)),
        held=[event(number, 1 + number % 1000) for number in range(2000, 4000)],
    )
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("ANALYZE crossfeed.parked")
        due = {"slots": list(EVENT_SLOTS), "limit": 100, "longest_s": 400.0}
        asked = {"entities": ["Account"] * 3, "keys": ["a", "b", "c"], "ids": ["a", "b", "c"]}
        for sql, parameters in ((DUE_EVENTS, due), (PARKED_AGGREGATES, asked)):
            plan = "\n".join(line for (line,) in await connection.exec_driver_sql("EXPLAIN " + sql, parameters))
            assert "Seq Scan" not in plan
            assert "parked_event" in plan
